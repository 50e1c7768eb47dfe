"""Tars of other tools become data sets where they lie; nothing in them is trusted."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import jpeg
from shards.check import check
from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.receipts import read_receipt
from shards.samples import annotate
from shards.spec import ClipSpec
from shards.storage import open_storage
from tests.vidprep.foreign.tars import frame_sample, picture, video, video_samples, write_tar
from trainer.data.loader import Loader
from vidprep.decode import decode
from vidprep.derive import add_flow
from vidprep.foreign.indexing import ForeignReport, index_shards


def _index(*arguments: Any, **options: Any) -> ForeignReport:
    return index_shards(*arguments, workers=1, **options)


def _add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def _bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_video2dataset_tars_beside_their_index(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    for shard in range(2):
        write_tar(tars / f"{shard:05d}.tar", video_samples(tmp_path, range(3 * shard, 3 * shard + 3)))
    before = _bytes_below(tars)
    report = _index([tars])
    assert (report.samples, report.frames, report.tars, report.bad, report.kind) == (6, 240, 2, 0, "video")
    assert {name: data for name, data in _bytes_below(tars).items() if name in before} == before
    data = open_dataset(tars)
    assert data.classes == ("run", "walk")
    assert (data[4].key, data[4].label, data[4].caption, data[4].fps, data[4].frames) == (
        "000000004",
        "run",
        "somebody moves, take 4",
        25,
        40,
    )
    with tarfile.open(tars / "00001.tar") as tar:  # the very file: encoding again may give another
        (tmp_path / "same.mp4").write_bytes(tar.extractfile("000000004.mp4").read())  # type: ignore[union-attr]
    truth = np.stack([image for image, _ in decode(tmp_path / "same.mp4")])
    assert np.array_equal(data.frames(4, [39, 2, 17, 2]), truth[[39, 2, 17, 2]])
    assert data.frames(4, []).shape == (0, 48, 64, 3)
    with pytest.raises(IndexError, match="frame 40 of sample 000000004 does not exist"):
        data.frames(4, [40])
    with pytest.raises(UserError, match="encoded videos, no images"):
        data.jpegs(4, [0])


def test_tars_and_index_move_together_and_the_index_can_lie_elsewhere(tmp_path: Path) -> None:
    write_tar(tmp_path / "a/0.tar", video_samples(tmp_path, range(2)))
    _index([tmp_path / "a"])
    images = open_dataset(tmp_path / "a").frames(1, [5])
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert np.array_equal(open_dataset(tmp_path / "b").frames(1, [5]), images)
    _index([tmp_path / "b/0.tar"], tmp_path / "elsewhere")
    assert np.array_equal(open_dataset(tmp_path / "elsewhere").frames(1, [5]), images)
    assert not list((tmp_path / "elsewhere").rglob("*.tar"))


@pytest.mark.parametrize("name", ["{:03d}.jpg", "frame{:04d}.jpg", "img_{:05d}.JPEG"])
def test_jpeg_sequences(tmp_path: Path, name: str) -> None:
    samples = [frame_sample(seed, 12, name=name) for seed in range(4)]
    write_tar(tmp_path / "00.tar", samples)
    report = _index([tmp_path / "00.tar"], fps=10, splits=[("train", "0*.tar")])
    assert (report.kind, report.samples, report.frames) == ("jpegs", 4, 48)
    data = open_dataset(tmp_path)
    assert (data[1].key, data[1].label, data[1].splits, data[1].fps) == ("clips--seq1", "1", ("train",), 10)
    assert data.times_us(1, "rgb").tolist() == [100_000 * n for n in range(12)]
    assert bytes(data.jpegs(2, [7])[0]) == samples[2][name.format(7)]
    shown = jpeg.decode(jpeg.encode(picture(2, 7)))
    assert np.array_equal(data.frames(2, [7])[0], shown)


def test_the_trainer_shows_others_videos_like_packed_ones(tmp_path: Path) -> None:
    write_tar(tmp_path / "t/0.tar", video_samples(tmp_path, range(6)))
    _index([tmp_path / "t"])
    spec = ClipSpec(frames=8, strides=(2,), resize=(32, 40), crop=24)
    with Loader(tmp_path / "t", spec, batch=4, seed=1, workers=0) as loader:
        here = list(loader.batches(0, 3))
    with Loader(tmp_path / "t", spec, batch=4, seed=1, workers=1) as loader:
        for batch, same in zip(loader.batches(0, 3), here, strict=True):
            assert np.array_equal(batch.clips, same.clips) and np.array_equal(batch.label, same.label)
    data, batch = open_dataset(tmp_path / "t"), here[0]
    frames = data.frames(int(batch.sample[0]), batch.frames[0, 0].tolist())
    assert batch.clips.shape[2:] == (8, 24, 24, 3) and len(frames) == 8
    assert abs(float(frames.mean()) - float(batch.clips[0].float().mean())) < 40


def test_flow_of_others_videos(tmp_path: Path) -> None:
    write_tar(tmp_path / "t/0.tar", video_samples(tmp_path, range(2), count=5))
    _index([tmp_path / "t"])
    add_flow(tmp_path / "t", method="dis", workers=1)
    data = open_dataset(tmp_path / "t", columns=("rgb", "flow"))
    assert data.flow(0, range(4)).shape == (4, 48, 64, 2)


def test_bad_members_are_verdicts_and_the_rest_is_indexed(tmp_path: Path) -> None:
    good = video(tmp_path)
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        _add(tar, "a.mp4", good)
        _add(tar, "a.json", b"{not json")
        _add(tar, "b.mp4", good[: len(good) // 3])
        _add(tar, "c.mp4", b"")
        _add(tar, "d.txt", b"only words")
        _add(tar, "/etc/evil.mp4", good)
        _add(tar, "../evil.mp4", good)
        _add(tar, "x/../../evil.mp4", good)
        _add(tar, "link.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        _add(tar, "hard.mp4", type=tarfile.LNKTYPE, linkname="a.mp4")
        _add(tar, "device.mp4", type=tarfile.CHRTYPE)
        _add(tar, "e.mp4", good)
        _add(tar, "e.pyd", pickle.dumps(_Bomb(str(tmp_path / "exploded"))))
        _add(tar, "e.features.pth", b"pickled")
        _add(tar, "e.wav", b"sound")
        _add(tar, ".hidden.mp4", good)
        _add(tar, "a.mp4", good)
        _add(tar, "f g/ü.mp4", good)
        _add(tar, "f g/ü.json", b"[" * 200_000)
    report = _index([tmp_path / "00.tar"], max_bad=1)
    data = open_dataset(tmp_path)
    keys = [data.key(i) for i in range(len(data))]
    assert keys[:2] == ["a", "e"] and keys[2].startswith("f_g--_-") and len(keys) == 3
    verdicts = read_receipt(open_storage(tmp_path), "rgb", 0).verdicts
    assert [(it.source.partition("/")[2], it.level, it.code) for it in verdicts] == [
        ("a", "warning", "json-unreadable"),
        ("b", "bad", "not-a-video"),
        ("c", "bad", "empty-file"),
        ("/etc/evil.mp4", "bad", "unsafe-name"),
        ("../evil.mp4", "bad", "unsafe-name"),
        ("x/../../evil.mp4", "bad", "unsafe-name"),
        ("link.mp4", "bad", "not-a-file"),
        ("hard.mp4", "bad", "not-a-file"),
        ("device.mp4", "bad", "not-a-file"),
        ("d", "bad", "no-video"),
        ("a", "bad", "key-twice"),
        ("f g/ü", "warning", "json-unreadable"),
        ("", "warning", "pickle"),
    ]
    assert "1 .pth, 1 .pyd" in verdicts[-1].message and report.ignored == {"pyd": 1, "pth": 1, "wav": 1}
    assert not (tmp_path / "exploded").exists() and not (tmp_path.parent / "evil.mp4").exists()


class _Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_too_many_bad_samples_are_not_published(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        _add(tar, "a.mp4", video(tmp_path))
        _add(tar, "b.mp4", b"nothing")
    with pytest.raises(UserError, match=r"1 of 2 samples are bad \(1 not-a-video\), more than --max-bad 2%"):
        _index([tmp_path / "0.tar"])
    with pytest.raises(UserError, match="not finished|not a packed"):
        open_dataset(tmp_path)
    assert _index([tmp_path / "0.tar"], max_bad=0.5).samples == 1


def test_tars_that_are_broken(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", video_samples(tmp_path, range(3))).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "none.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "damaged.tar").write_bytes(whole[:512] + bytes(whole[512:]).replace(b"000000002.", b"\xff" * 10, 1))
    codes = {}
    for name in ("cut", "none", "damaged"):
        tars = [tmp_path / "whole.tar", tmp_path / f"{name}.tar"]
        if name == "none":
            _index(tars, tmp_path / name, max_bad=1)
        else:
            with pytest.raises(UserError, match="keys must be unique"):  # what can be read of it is the same samples
                _index(tars, tmp_path / f"{name}-0", max_bad=1)
            _index(tars, tmp_path / name, max_bad=1, prefix_keys=True)
        receipt = read_receipt(open_storage(tmp_path / name), "rgb", 1)
        codes[name] = [(it.level, it.code) for it in receipt.verdicts]
    assert codes == {
        "cut": [("warning", "cut-off")],
        "none": [("bad", "not-a-tar")],
        "damaged": [("warning", "cut-off")],
    }


def test_headers_that_lie(tmp_path: Path) -> None:
    """A size beyond the tar's end, and one that is no number where the standard library expects one."""
    good = video(tmp_path)
    for name, fields in (("size", {}), ("sparse", {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.size": "x"}})):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, f"{name}0.mp4", good)
            _add(tar, f"{name}1.mp4", good, **fields)
    data = bytearray((tmp_path / "size.tar").read_bytes())
    header = tarfile.TarInfo("size1.mp4")
    header.size = 1 << 40
    at = data.index(b"size1.mp4")
    data[at : at + 512] = header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "size.tar").write_bytes(data)
    report = _index([tmp_path], max_bad=1)
    assert report.verdicts["too-large"] == 1 and report.verdicts["cut-off"] >= 1
    opened = open_dataset(tmp_path)
    assert {"size0", "sparse0"} <= {opened.key(i) for i in range(len(opened))}


def test_keys_that_two_tars_share_get_the_tars_name_on_request(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"t/part{shard}.tar", [frame_sample(0, 3)])
    with pytest.raises(UserError, match=r"clips--seq0 stands in .*part0\.tar and in .*part1\.tar.*--prefix-keys"):
        _index([tmp_path / "t"], tmp_path / "a")
    _index([tmp_path / "t"], tmp_path / "b", prefix_keys=True)
    data = open_dataset(tmp_path / "b")
    assert [data.key(i) for i in range(2)] == ["part0--clips--seq0", "part1--clips--seq0"]


def test_a_tar_that_changed_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", video_samples(tmp_path, range(2)))
    _index([tmp_path])
    whole = bytearray(path.read_bytes())
    data = open_dataset(tmp_path)
    _, spans = data.spans(1, [0])
    whole[spans[0][0] + 8] ^= 255
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"0\.tar, sample 000000001: frame 0 does not agree with its checksum"):
        open_dataset(tmp_path).frames(1, [0])
    path.write_bytes(whole + bytes(512))
    with pytest.raises(DataError, match="bytes instead of"):
        open_dataset(tmp_path).frames(0, [0])
    path.unlink()
    with pytest.raises(DataError, match=r"0\.tar does not exist"):
        open_dataset(tmp_path).frames(0, [0])


@pytest.mark.parametrize("kind", ["video", "jpegs"])
def test_check_reads_others_tars(tmp_path: Path, kind: str) -> None:
    samples = video_samples(tmp_path, range(2)) if kind == "video" else [frame_sample(seed, 4) for seed in range(2)]
    path = write_tar(tmp_path / "t/x.tar", samples)
    _index([path], tmp_path / "d")
    assert list(check(tmp_path / "d")) == []
    _, spans = open_dataset(tmp_path / "d").spans(1, [2])
    data = bytearray(path.read_bytes())
    data[spans[-1][0] + spans[-1][1] // 2] ^= 1
    path.write_bytes(data)
    found = list(check(tmp_path / "d"))
    assert [it.key for it in found] == [None, "000000001" if kind == "video" else "clips--seq1"]
    assert all(str(path) in it.message and it.shard == 0 for it in found)
    path.unlink()
    assert [it.message for it in check(tmp_path / "d")] == [f"{path}: it does not exist"]


def test_running_again_and_with_more_tars(tmp_path: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"t/{shard}.tar", video_samples(tmp_path, [shard]))
    tars = [tmp_path / f"t/{shard}.tar" for shard in range(3)]
    _index(tars[:2], tmp_path / "d")
    before = _bytes_below(tmp_path / "d")
    _index(tars[:2], tmp_path / "d")
    assert _bytes_below(tmp_path / "d") == before
    (tmp_path / "new.csv").write_text("key,label\n000000000,jump\n")
    annotate(tmp_path / "d", tmp_path / "new.csv")
    _index(tars, tmp_path / "d")
    data = open_dataset(tmp_path / "d")
    assert [data[i].label for i in range(3)] == ["jump", "walk", "run"]
    finished = ("rgb/000000", "rgb/000001")
    assert {n: b for n, b in _bytes_below(tmp_path / "d").items() if n.startswith(finished)} == {
        n: b for n, b in before.items() if n.startswith(finished)
    }
    with pytest.raises(UserError, match="is the index of 3 other tars"):
        _index(tars[1:], tmp_path / "d")
    with pytest.raises(UserError, match=r"indexed with fps 25\.0, this command asks for 5\.0"):
        _index(tars, tmp_path / "d", fps=5)


def test_numbers_as_labels_and_a_class_list(tmp_path: Path) -> None:
    clip = video(tmp_path)
    samples = [{"__key__": f"k{n}", "mp4": clip, "cls": str(n), "json": {"kind": ("a", "b")[n == 2]}} for n in (10, 2)]
    write_tar(tmp_path / "0.tar", samples)
    _index([tmp_path], tmp_path / "plain")
    assert open_dataset(tmp_path / "plain").classes == ("2", "10")
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(11)))
    _index([tmp_path], tmp_path / "named", classes=tmp_path / "classes.txt")
    data = open_dataset(tmp_path / "named")
    assert (data[0].label, data[0].label_index, len(data.classes)) == ("class 10", 10, 11)
    _index([tmp_path], tmp_path / "field", label_field="kind", group_field="kind")
    data = open_dataset(tmp_path / "field")
    assert [(data[i].label, data[i].group) for i in range(2)] == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (["{d}/no*.tar"], {}, "nothing in .* is named like"),
        (["{d}/empty"], {}, r"no folder that holds any \*\.tar"),
        (["{d}/a.tar.gz"], {}, "is compressed"),
        (["{d}/{{5..2}}.tar"], {}, "must ascend"),
        (["{d}/0.tar"], {"kind": "mp4"}, "allowed are video and jpegs"),
        (["{d}/0.tar"], {"splits": [("train", "9*.tar")]}, "no tar is of split train"),
        (["{d}/texts.tar"], {}, "no sample of the 1 tars has a video"),
    ],
)
def test_wrong_requests(tmp_path: Path, arguments: list[str], options: dict[str, Any], match: str) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "0.tar", video_samples(tmp_path, [0], count=3))
    write_tar(tmp_path / "texts.tar", [{"__key__": "a", "txt": "words"}])
    with pytest.raises(UserError, match=match):
        _index([it.format(d=tmp_path) for it in arguments], tmp_path / "dest", **options)


def test_ranges_of_tars(tmp_path: Path) -> None:
    for shard in range(8, 11):
        write_tar(tmp_path / f"t/{shard:03d}.tar", [frame_sample(shard, 2)])
    assert _index([f"{tmp_path}/t/{{008..010}}.tar"], tmp_path / "d").tars == 3
