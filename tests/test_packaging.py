"""What an installation promises: light imports, arrows that point one way, extras, the console script, the papers."""

import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent

# Flow backends that compute with torch; the rest of vidprep.flow imports them when they are asked for.
TORCH_BACKENDS = ("vidprep.flow.raft", "vidprep.flow.gpu")

# Imports everything in the packages named on the command line and prints what is loaded then.
WALK = f"""
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if not module.name.startswith({TORCH_BACKENDS!r}):
            importlib.import_module(module.name)
print(" ".join(sys.modules))
"""


def _loaded(*packages: str) -> set[str]:
    """Top-level packages that a fresh process holds after importing these with all their modules."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WALK, *packages], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def _setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_preparing_and_the_loaders_workers_load_no_torch():
    loaded = _loaded("vidprep", "shards", "trainer.data.worker")
    assert {"vidprep", "shards", "trainer"} <= loaded
    assert not loaded & {"torch", "torchvision"}


def test_the_format_knows_neither_the_preparation_nor_the_trainer():
    assert not _loaded("shards") & {"vidprep", "trainer", "cli", "torch"}
    assert not _loaded("vidprep") & {"trainer", "cli"}


def test_the_command_line_starts_light():
    assert not _loaded("cli.main") & {"numpy", "cv2", "av", "torch", "pydantic", "webdataset", "vidprep", "trainer"}


def test_extras_are_there_and_plain_installation_has_no_torch():
    config = _setup()
    assert {"train", "text", "farm", "export", "test"} <= set(config["options.extras_require"])
    assert "torch" in config["options.extras_require"]["train"]
    assert "torch" not in config["options"]["install_requires"]
    for tool in ("pytest", "pytest-xdist", "mypy", "ruff"):
        assert tool in config["options.extras_require"]["test"]


def test_the_console_script_resolves():
    script = _setup()["options.entry_points"]["console_scripts"].strip()
    name, _, target = script.partition("=")
    module, _, function = target.strip().partition(":")
    assert name.strip() == "vidprep"
    assert callable(getattr(importlib.import_module(module), function))


def test_every_package_is_found_and_typed():
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert found == {"vidprep", "shards", "trainer", "cli"}
    assert all((ROOT / name / "py.typed").exists() for name in found)


@pytest.mark.parametrize("paper", ["2008.05861", "2008.13426", "1904.03597", "2011.07949", "2001.05691", "2207.12795"])
def test_the_papers_are_cited(paper: str):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert len(citation["references"]) == 5
    assert any(paper in str(reference) for reference in citation["references"])
    assert citation["version"] == _setup()["metadata"]["version"]


def test_the_ci_entry_is_executable_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script.read_text()
