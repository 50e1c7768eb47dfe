"""What is exported is what older code reads, and comes back byte for byte."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from shards import jpeg
from shards.dataset import Dataset, open_dataset
from shards.errors import StorageError, UserError
from shards.flow import Release
from tests.tiny import build_dataset
from tests.vidprep.folders.trees import twostream
from tests.vidprep.foreign.tars import video_samples, write_tar
from vidprep.derive import add_flow
from vidprep.export.exporting import FORMS, ExportReport, export
from vidprep.export.naming import class_folders, name_samples
from vidprep.folders.importing import import_frames
from vidprep.foreign.indexing import index_shards


@pytest.fixture
def tiny(tmp_path: Path) -> Dataset:
    return open_dataset(build_dataset(tmp_path / "data", samples=5, frames=(20, 12, 18)))


def _export(data: Dataset, out: Path, form: str, **options: Any) -> ExportReport:
    return export(data.url, out, form, workers=2, **options)


def _frames(data: Dataset, i: int) -> list[bytes]:
    return [bytes(it) for it in data.jpegs(i, range(data[i].frames))]


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pace_reads_it_as_its_own(tiny: Dataset, tmp_path: Path) -> None:
    """The reader here is the reference's rule: split at white space, frames numbered from 1."""
    report = _export(tiny, tmp_path / "out", "pace")
    lines = (tmp_path / "out/list/train.list").read_text().splitlines()
    assert lines[0] == "walk/video_001 1 12" and len(lines) == 4
    for line in lines:
        name, label, count = line.split()
        i = tiny.number(name.split("/")[1])
        read = [(tmp_path / f"out/frames/{name}/frame{n:06d}.jpg").read_bytes() for n in range(1, int(count) + 1)]
        assert read == _frames(tiny, i) and int(label) == tiny[i].label_index
    assert len((tmp_path / "out/list/all.list").read_text().splitlines()) == report.videos == 5
    assert (tmp_path / "out/classInd.txt").read_text() == "1 run\n2 walk\n"


def test_pace_comes_back_byte_for_byte(tiny: Dataset, tmp_path: Path) -> None:
    _export(tiny, tmp_path / "out", "pace")
    lists = [(None, tmp_path / f"out/list/{split}.list") for split in ("train", "test")]
    import_frames(
        tmp_path / "out/frames",
        tmp_path / "back",
        layout="pace",
        split_files=[(path.stem, path) for _, path in lists],
        classes=tmp_path / "out/classInd.txt",
        workers=1,
    )
    back = open_dataset(tmp_path / "back")
    assert len(back) == len(tiny) and back.classes == tiny.classes
    for i in range(len(tiny)):
        sample = back.by_key(f"{tiny[i].label}--{tiny[i].key}")
        assert _frames(back, sample.number) == _frames(tiny, i)
        assert (sample.label, sample.splits) == (tiny[i].label, tiny[i].splits)


def test_svc_lists_and_the_way_back(tiny: Dataset, tmp_path: Path) -> None:
    _export(tiny, tmp_path / "out", "svc", split="test")
    rows = _rows(tmp_path / "out/test.csv")
    assert rows == [[str(tmp_path / "out/frames/run/video_000"), "20"]]
    assert _rows(tmp_path / "out/test-labels.csv") == [[*rows[0], "0"]]
    assert [Path(rows[0][0], f"image_{n:05d}.jpg").read_bytes() for n in range(1, 21)] == _frames(tiny, 0)
    import_frames(tmp_path / "out/frames", tmp_path / "back", layout="svc", workers=1)
    assert _frames(open_dataset(tmp_path / "back"), 0) == _frames(tiny, 0)


def test_statistics_with_the_public_releases_flow_come_back_byte_for_byte(tmp_path: Path) -> None:
    twostream(tmp_path / "ucf101", counts=(20, 17, 18))
    import_frames(tmp_path / "ucf101", tmp_path / "data", layout="twostream", workers=1)
    report = export(tmp_path / "data", tmp_path / "out", "statistics", stride=2)
    for plane in "uv":
        old, new = _tree(tmp_path / "ucf101/tvl1_flow" / plane), _tree(tmp_path / "out/flow" / plane)
        assert {name: data for name, data in old.items() if name.endswith(".jpg")} == new
    assert report.clipped == 0 and report.without_flow == ()
    import_frames(tmp_path / "out/frames", tmp_path / "back", layout="pace", flow=tmp_path / "out/flow", workers=1)
    first, again = (open_dataset(tmp_path / it, columns=("rgb", "flow")) for it in ("data", "back"))
    for i in range(3):
        other = again.by_key(f"{first[i].label}--{first[i].key}").number
        planes = range(2 * first[i].frames - 2)
        assert first.jpegs(i, planes, column="flow") == again.jpegs(other, planes, column="flow")
    lines = (tmp_path / "out/list/all.list").read_text().split("\n")
    assert lines[:3] == [
        "Archery/v_Archery_g01_c01 1 0",
        "Archery/v_Archery_g01_c01 3 0",
        "Archery/v_Archery_g02_c01 1 0",
    ]


def test_every_window_of_the_statistics_lists_can_be_read(tmp_path: Path) -> None:
    """For frames s to s + 15 the reference reads RGB and flow of the same numbers."""
    build_dataset(tmp_path / "data", samples=3, frames=(20, 12, 18))
    add_flow(tmp_path / "data", method="dis", workers=1)
    export(tmp_path / "data", tmp_path / "out", "statistics", stride=1)
    lines = (tmp_path / "out/list/all.list").read_text().splitlines()
    assert len(lines) == 4 + 0 + 2
    for line in lines:
        name, start, _ = line.split()
        for n in range(int(start), int(start) + 16):
            assert (tmp_path / f"out/frames/{name}/frame{n:06d}.jpg").is_file()
            for plane in "uv":
                assert (tmp_path / f"out/flow/{plane}/{name.split('/')[1]}/frame{n:06d}.jpg").is_file()
    parallel = [(tmp_path / f"out/list/all-{it}.list").read_text().splitlines() for it in ("rgb", "u_flow", "v_flow")]
    assert [len(it) for it in parallel] == [6, 6, 6]
    assert all(Path(line.split()[0]).is_dir() for it in parallel for line in it)
    data = open_dataset(tmp_path / "data", columns=("rgb", "flow"))
    found = jpeg.decode((tmp_path / "out/flow/u/video_000/frame000004.jpg").read_bytes())
    flow, stored = Release().restore(np.stack([found, found])[None])[0, ..., 0], data.flow(0, [3])[0, ..., 0]
    assert float(np.abs(flow - np.clip(stored, -20, 20)).mean()) < 0.1


def test_statistics_need_flow(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no column 'flow'.*vidprep flow"):
        _export(tiny, tmp_path / "out", "statistics")


def test_stock_webdataset_reads_frames_and_the_index_finds_them_again(tiny: Dataset, tmp_path: Path) -> None:
    _export(tiny, tmp_path / "out", "webdataset-frames")
    url = f"{tmp_path}/out/{{000000..000001}}.tar"
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [tiny.key(i) for i in range(5)]
    assert [int(sample["cls"]) for sample in samples] == tiny.labels.tolist()
    assert [samples[1][f"{n:03d}.jpg"] for n in range(12)] == _frames(tiny, 1)
    assert samples[0]["txt"] == b"caption of 0" and "txt" not in samples[1]
    index_shards([tmp_path / "out"], tmp_path / "back", workers=1)
    back = open_dataset(tmp_path / "back")
    for i in range(5):
        assert (back[i].key, back[i].label, back[i].caption) == (tiny[i].key, tiny[i].label, tiny[i].caption)
        assert _frames(back, i) == _frames(tiny, i) and back[i].fps == tiny[i].fps


def test_lmdb_as_coclr_reads_it(tiny: Dataset, tmp_path: Path) -> None:
    lmdb, msgpack = pytest.importorskip("lmdb"), pytest.importorskip("msgpack")
    _export(tiny, tmp_path / "out", "lmdb")
    store = lmdb.open(str(tmp_path / "out/frames.lmdb"), subdir=False, readonly=True, lock=False)
    with store.begin() as transaction:
        about = {
            name: msgpack.loads(transaction.get(f"__{name}__".encode())) for name in ("len", "keys", "order", "vlen")
        }
        assert about["len"] == len(about["keys"]) == 5 and about["vlen"] == [20, 12, 18, 20, 12]
        place = {name: number for number, name in enumerate(about["order"])}
        for path, count in _rows(tmp_path / "out/train.csv"):
            name = "/".join(path.split("/")[-3:-1])
            frames = msgpack.loads(transaction.get(b"%09d" % place[name]))
            assert frames == _frames(tiny, tiny.number(name.split("/")[1])) and len(frames) == int(count)
    assert (tmp_path / "out/ClassInd.txt").read_text() == "run\nwalk\n"


def test_lmdb_without_its_package_says_what_to_install(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(UserError, match="pip install lmdb msgpack"):
        _export(tiny, tmp_path / "out", "lmdb")


def test_encoded_videos_are_exported_as_frames(tmp_path: Path) -> None:
    write_tar(tmp_path / "t/0.tar", video_samples(tmp_path, range(2), count=9))
    index_shards([tmp_path / "t"], workers=1)
    export(tmp_path / "t", tmp_path / "out", "pace", quality=95)
    found = (tmp_path / "out/frames/walk/000000001/frame000009.jpg").read_bytes()
    assert found == jpeg.encode(open_dataset(tmp_path / "t").frames(1, [8])[0], quality=95)


def test_going_on_where_a_run_stopped(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _export(tiny, tmp_path / "whole", "pace")
    written = Path.write_bytes

    def fails(path: Path, data: bytes) -> int:
        if "video_003" in str(path) and path.name == "frame000005.jpg":
            raise OSError(28, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(StorageError, match="No space left on device; mend that"):
        export(tiny.url, tmp_path / "out", "pace", workers=1)
    monkeypatch.undo()
    report = _export(tiny, tmp_path / "out", "pace")
    assert _tree(tmp_path / "out") == _tree(tmp_path / "whole") and 1 <= report.written < 5
    assert _export(tiny, tmp_path / "out", "pace").written == 0
    with pytest.raises(UserError, match="was written with form pace, this command writes svc"):
        _export(tiny, tmp_path / "out", "svc")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(UserError, match="is not empty"):
        _export(tiny, tmp_path / "used", "pace")


@pytest.mark.parametrize("form", FORMS)
def test_wrong_requests(tiny: Dataset, tmp_path: Path, form: str) -> None:
    for options, match in (({"column": "no"}, "has no column 'no'"), ({"quality": 0}, "quality 0")):
        with pytest.raises(UserError, match=match):
            _export(tiny, tmp_path / "out", form, **options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_form_and_split(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: pace, statistics"):
        _export(tiny, tmp_path / "out", "hdf5")
    with pytest.raises(UserError, match="there is no split 'val'"):
        _export(tiny, tmp_path / "out", "pace", split="val")


def test_names_fit_lists_and_file_systems(tmp_path: Path) -> None:
    classes = ("Playing Guitar", "Playing,Guitar", "../up", ".hidden", "été")
    folders = class_folders(classes)
    assert folders == ["Playing_Guitar", "Playing_Guitar_1", "_._up", "_hidden", "été"]
    data = open_dataset(build_dataset(tmp_path / "data", samples=5, frames=2, classes=classes))
    named = name_samples(data, range(5))
    assert [it.path for it in named][2] == "_._up/video_002"
    assert all(".." not in it.path and not set(it.path) & set(" ,\t") for it in named)


def test_names_of_keys_that_begin_with_their_class(tmp_path: Path) -> None:
    twostream(tmp_path / "ucf", counts=(3, 3))
    data = _classed(tmp_path)
    assert [it.path for it in name_samples(data, range(2))] == ["Archery/v_Archery_g01_c01", "YoYo/v_YoYo_g01_c01"]


def _classed(tmp_path: Path) -> Dataset:
    """The same frames in class folders, so that keys are CLASS--VIDEO."""
    for path in sorted((tmp_path / "ucf/jpegs_256").iterdir()):
        label = path.name.split("_")[1]
        (tmp_path / "classed" / label).mkdir(parents=True)
        path.rename(tmp_path / "classed" / label / path.name)
    import_frames(tmp_path / "classed", tmp_path / "data", layout="pace", with_flow=False, workers=1)
    return open_dataset(tmp_path / "data")
