"""What all tests share: where outside data is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def research_data() -> Path:
    """The folder with research clips, annotations and reference outputs; the test is skipped where it is absent.

    `VIDPREP_TEST_DATA` names it; the default is `../shared` beside the repository.
    """
    root = Path(__file__).parent.parent
    data = (root / os.environ.get("VIDPREP_TEST_DATA", "../shared")).resolve()
    if not (data / "clips").is_dir():
        pytest.skip(f"no research clips in {data}; VIDPREP_TEST_DATA names their folder")
    return data
