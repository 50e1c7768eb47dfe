"""Data sets on a web server: for reading, by ranges."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shards.check import check
from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from shards.storage import open_storage
from shards.summary import summarize
from tests.tiny import build_dataset


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's own server, and single ranges, which that lacks."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1) + 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(data[start:stop])


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address under which a web server shows `tmp_path`."""
    handler = partial(_Ranges, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_data_set_is_read_from_a_web_server(web: str, tmp_path: Path) -> None:
    local = open_dataset(build_dataset(tmp_path / "data set"))
    remote = open_dataset(f"{web}/data%20set")
    for sample in (0, 9):
        assert np.array_equal(remote.frames(sample, [3, 1, 9]), local.frames(sample, [3, 1, 9]))
    assert remote[3].info == local[3].info
    assert list(check(f"{web}/data%20set")) == []
    assert summarize(f"{web}/data%20set").samples == 10


def test_a_web_server_is_for_reading(web: str) -> None:
    storage = open_storage(f"{web}/a")
    for call in (lambda: storage.put("a", b""), lambda: storage.create("a"), lambda: storage.remove("a")):
        with pytest.raises(StorageError, match="is for reading only; write to a folder, or to s3://"):
            call()
    with pytest.raises(StorageError, match="cannot be listed"):
        storage.list("rgb")
    with pytest.raises(UserError, match="is not a packed data set"):
        open_dataset(f"{web}/nothing")


def test_a_server_without_ranges_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StorageError, match="this server does not answer range requests"):
            open_storage(f"http://127.0.0.1:{server.server_port}").open("a").read(5, 10)
        server.shutdown()
