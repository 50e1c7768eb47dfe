"""What tests of all packages share: the research clips, where present, and a small generated data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import build_dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def research_data() -> Path:
    """Folder of the research clips and golden files; tests that ask for it are marked `data`."""
    folder = Path(os.environ.get("VIDPREP_TEST_DATA", ROOT.parent / "shared"))
    if not (folder / "clips").is_dir():
        pytest.skip(f"no research data at {folder}; set VIDPREP_TEST_DATA")
    return folder


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_dataset(**options) -> Path`: a generated data set in a folder of its own; see `tests.tiny`."""
    made = 0

    def build(**options: object) -> Path:
        nonlocal made
        made += 1
        return build_dataset(tmp_path / f"dataset{made}", **options)  # type: ignore[arg-type]

    return build
