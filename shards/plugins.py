"""Users' own code by name: `file.py:Name`, `package.module:Name`, the same in every process."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from shards.errors import UserError


def load_module(name: str) -> ModuleType:
    """Import `package.module`, or a file ending in `.py`.

    A file is imported once per process, under a name made from its absolute path: objects of its classes can
    travel to a worker that loaded the same file.

    Raises:
        UserError: there is no such file or module. Errors inside the module keep their traceback.
    """
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, something it imports is not
            raise UserError(f"there is no module {name!r}; give package.module or a file ending in .py") from error
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"there is no file {path}; give package.module or a file ending in .py")
    alias = f"vidprep_plugin_{hashlib.blake2b(str(path).encode(errors='surrogateescape')).hexdigest()[:12]}"
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, path)
        assert spec is not None and spec.loader is not None  # the suffix is .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[alias] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[alias]
            raise
    return sys.modules[alias]


def load_object(reference: str) -> Any:
    """The object named by `module:Name` or `file.py:Name`.

    Raises:
        UserError: the reference has no `:`, or module, file or name do not exist.
    """
    module_name, separator, name = reference.rpartition(":")
    if not separator or not module_name or not name:
        raise UserError(f"{reference!r} names nothing; the form is package.module:Name or file.py:Name")
    module = load_module(module_name)
    try:
        return getattr(module, name)
    except AttributeError:
        public = sorted(n for n in vars(module) if not n.startswith("_"))
        raise UserError(f"{module_name} has no {name!r}; it has: {', '.join(public)}") from None
