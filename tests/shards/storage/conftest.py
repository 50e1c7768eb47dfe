"""The places that storage tests run against: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.storage.swift import Server, supports_xattr, swift_server

BUCKET = "vidprep-tests"


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running OpenStack Swift with its s3api, and the bucket BUCKET."""
    if sys.platform != "linux":
        pytest.skip("Swift runs on Linux only")
    folders = [tmp_path_factory.mktemp("swift"), Path("/dev/shm"), Path("/var/tmp"), Path.cwd()]
    base = next((folder for folder in folders if folder.is_dir() and supports_xattr(folder)), None)
    if base is None:
        pytest.fail(f"Swift needs extended attributes; none of {folders} keeps them: set TMPDIR to a disk that does")
    with tempfile.TemporaryDirectory(dir=base) as root, swift_server(Path(root)) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def s3(swift: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty folder in the bucket; the environment has the credentials."""
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("VIDPREP_STORAGE", "VIDPREP_CACHE", "VIDPREP_CACHE_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture(params=["local", "swift"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty folder: on disk, and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "place")
    return str(request.getfixturevalue("s3"))
