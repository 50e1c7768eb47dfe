"""The manifest: what is written is read back; what is wrong is named with file and line."""

import json
import os
from pathlib import Path

import pytest

from shards.errors import StorageError, UserError
from vidprep import records
from vidprep.records import Video, read_manifest, write_manifest

FULL = Video(
    key="walk--daria",
    path="walk/daria 1 é.avi",
    root="/data/set",
    label="walk",
    label_index=3,
    splits=("train", "hmdb1-test"),
    group="daria",
    caption="a woman walks",
    fps=29.97,
    frames=84,
    start=1.5,
    end=4,
)


def _write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _line(**fields) -> str:
    return json.dumps({"key": "a", "path": "a.mp4", "root": "/r", **fields})


def test_round_trip_keeps_everything_and_writes_only_what_is_known(tmp_path: Path):
    raw = os.fsdecode(b"walk/\xff.avi")  # a file name that is not UTF-8
    videos = [FULL, Video(key="b", path="b.mp4", root="s3://bucket/set"), Video(key="c", path=raw, root="/r")]
    path = tmp_path / "m.jsonl"
    assert write_manifest(path, iter(videos)) == 3
    assert list(read_manifest(path)) == videos
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "é" in lines[0]
    assert json.loads(lines[1]) == {"key": "b", "path": "b.mp4", "root": "s3://bucket/set"}
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_location_joins_root_and_path():
    assert FULL.location == "/data/set/walk/daria 1 é.avi"
    assert Video(key="k", path="a/b.mp4", root="s3://bucket/").location == "s3://bucket/a/b.mp4"
    assert Video(key="k", path="a.mp4", root="/").location == "/a.mp4"


def test_lines_by_hand_may_leave_out_the_root_and_hold_blank_lines(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"key": "a", "path": "x/a.mp4"}\r\n\r\n{"key": "b", "path": "b.mp4"}\r\n')
    assert [v.location for v in read_manifest(path)] == [f"{tmp_path}/x/a.mp4", f"{tmp_path}/b.mp4"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (_line(colour="red"), "unknown field 'colour'; allowed: key, path"),
        ('{"key": "a"}', "'path' is missing"),
        (_line(key="a.b"), "key is 'a.b'"),
        (_line(key="a b"), "without dots, slashes or white space"),
        (_line(key="é" * 51), "at most 100 bytes"),
        (_line(path="/etc/passwd"), "stays inside it"),
        (_line(path="a/../../b.mp4"), "path is 'a/../../b.mp4'"),
        (_line(path=".."), "stays inside it"),
        (_line(root="data"), "an absolute folder or a URL"),
        (_line(label=3), "label is 3"),
        (_line(label_index=3), "there is no label"),
        (_line(label="x", label_index=True), "label_index is True"),
        (_line(splits="train"), "splits is 'train'"),
        (_line(splits=["a", "a"]), "different split names"),
        (_line(splits=None), "splits is None"),
        (_line(fps=0), "fps is 0"),
        (_line(frames=1.5), "frames is 1.5"),
        (_line(start=-1), "start is -1"),
        (_line(start=2, end=2), "not after start"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, words: str):
    path = _write(tmp_path, _line(key="first", path="dir/../ok.mp4"), "", line)
    with pytest.raises(UserError) as caught:
        list(read_manifest(path))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert words in str(caught.value)


def test_duplicate_keys_name_both_lines(tmp_path: Path):
    path = _write(tmp_path, *(_line(key=k) for k in ("x", "a", "y", "a")))
    with pytest.raises(UserError, match=r"m\.jsonl:4: key 'a' already stands on line 2"):
        list(read_manifest(path))


def test_equal_hashes_of_different_keys_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "hash", lambda key: 7, raising=False)
    path = _write(tmp_path, *(_line(key=k) for k in "abc"))
    assert [v.key for v in read_manifest(path)] == ["a", "b", "c"]


def test_reading_streams(tmp_path: Path):
    videos = read_manifest(_write(tmp_path, _line(), "broken"))
    assert next(videos).key == "a"
    with pytest.raises(UserError, match=":2: not JSON"):
        next(videos)


def test_files_that_cannot_be_read_or_written(tmp_path: Path):
    with pytest.raises(StorageError, match="vidprep index"):
        list(read_manifest(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"key": "\xe9"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_manifest(tmp_path / "latin.jsonl"))
    with pytest.raises(StorageError, match=r"no/m\.jsonl"):
        write_manifest(tmp_path / "no" / "m.jsonl", [FULL])


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path):
    path = _write(tmp_path, "old")

    def broken():
        yield FULL
        raise UserError("a catalog gave up")

    with pytest.raises(UserError, match="gave up"):
        write_manifest(path, broken())
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]
