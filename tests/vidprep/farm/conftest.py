from __future__ import annotations

from pathlib import Path

import pytest

from tests.vidprep.farm.sets import FLOW, LABELS, OPTIONS, write_set
from vidprep.pack import pack


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos and a file that is none."""
    return write_set(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All columns, packed by one process in one go; to be read only."""
    dest = tmp_path_factory.mktemp("whole") / "set"
    columns = ("rgb", "flow", "statistics")
    pack(manifest, dest, workers=1, columns=columns, flow=FLOW, labels=LABELS, **OPTIONS)
    return dest
