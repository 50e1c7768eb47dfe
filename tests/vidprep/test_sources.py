"""Videos that are no files of their own: members of tars, in folders and behind web servers."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from tests.shards.storage.test_web import _Ranges
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.decode import decode
from vidprep.pack import pack
from vidprep.probe import probe
from vidprep.records import Video, write_manifest
from vidprep.sources import check_readable, open_source
from vidprep.verdicts import BadVideo


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with a.mp4 and b.avi, and videos.tar that holds both."""
    for name, seed in (("a.mp4", 1), ("b.avi", 2)):
        write_clip(tmp_path / name, noise_frames(30, seed=seed))
    members = {"a.mp4": (tmp_path / "a.mp4").read_bytes(), "./deep/b.avi": (tmp_path / "b.avi").read_bytes()}
    _tar(tmp_path / "videos.tar", {**members, "empty.mp4": b"", "text.mp4": b"no video" * 100})
    return tmp_path


@pytest.fixture
def web(videos: Path) -> Iterator[str]:
    handler = partial(_Ranges, directory=str(videos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _same(source: str, path: Path) -> None:
    found, expected = list(decode(source)), list(decode(path))
    assert [time for _, time in found] == [time for _, time in expected]
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(found, expected, strict=True))
    assert probe(source) == probe(path)


def test_every_source_gives_the_same_frames(videos: Path, web: str) -> None:
    for base in (str(videos), web):
        _same(f"{base}/videos.tar!a.mp4", videos / "a.mp4")
        _same(f"{base}/videos.tar!/deep/b.avi", videos / "b.avi")
    _same(f"{web}/a.mp4", videos / "a.mp4")
    _same(f"{web}/b.avi", videos / "b.avi")


def test_a_source_seeks_and_ends_like_a_file(videos: Path, web: str) -> None:
    data = bytes(range(256)) * 20_000
    (videos / "long").write_bytes(data)
    with open_source(f"{web}/long") as source, (videos / "long").open("rb") as file:
        assert source.size == len(data)
        for offset, whence, size in ((0, 0, 10), (5, 1, 3_000_000), (-7, 2, 100), (2_000_000, 0, 1), (0, 2, 5)):
            assert source.seek(offset, whence) == file.seek(offset, whence)
            assert source.read(size) == file.read(size)
            assert source.tell() == file.tell()


def test_verdicts_are_those_of_files(videos: Path, web: str) -> None:
    for base in (f"{videos}/videos.tar!", f"{web}/videos.tar!"):
        for name, code in (("none.mp4", "missing-file"), ("empty.mp4", "empty-file"), ("text.mp4", "not-a-video")):
            with pytest.raises(BadVideo) as bad:
                probe(f"{base}{name}")
            assert bad.value.code == code
        with pytest.raises(BadVideo, match="no such file among its 4"):  # a link is no file
            probe(f"{base}link.mp4")
    with pytest.raises(BadVideo, match="there is no such file"):
        probe(f"{web}/none.mp4")


def test_what_cannot_be_reached_is_no_verdict(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDPREP_STORAGE", "timeout=0.5")
    with pytest.raises(StorageError, match=r"cannot read http://127\.0\.0\.1:9/a\.mp4"):
        probe("http://127.0.0.1:9/a.mp4")
    (videos / "broken.tar").write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match="cannot be read as an uncompressed tar"):
        probe(f"{videos}/broken.tar!a.mp4")
    check_readable(f"{videos}/videos.tar!a.mp4")
    with pytest.raises(UserError, match="is not a video this version can read"):
        probe("ftp://host/a.mp4")


def test_a_manifest_of_urls_and_members_packs_to_the_same_bytes(videos: Path, web: str, tmp_path: Path) -> None:
    roots = {"files": str(videos), "urls": web}
    for name, root in roots.items():
        paths = ("videos.tar!a.mp4", "videos.tar!deep/b.avi")
        lines = [Video(key=f"k{i}", path=path, root=root) for i, path in enumerate(paths)]
        write_manifest(tmp_path / f"{name}.jsonl", lines)
        pack(tmp_path / f"{name}.jsonl", tmp_path / name, short_side=16, workers=1)
    pack(tmp_path / "files.jsonl", tmp_path / "moved", short_side=16, workers=1, root=web)
    tars = {(tmp_path / name / "rgb" / "000000.tar").read_bytes() for name in (*roots, "moved")}
    assert len(tars) == 1
    assert len(open_dataset(tmp_path / "urls")) == 2
    inner = [Video(key="k", path="deep/b.avi", root=f"{videos}/videos.tar!")]
    write_manifest(tmp_path / "inner.jsonl", inner)
    assert pack(tmp_path / "inner.jsonl", tmp_path / "inner", short_side=16, workers=1).samples == 1
