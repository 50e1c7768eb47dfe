"""Importing trees: the files' bytes, the right field at the right frame, verdicts, and going on after an end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset

from shards import jpeg
from shards.check import check
from shards.dataset import open_dataset
from shards.errors import StorageError, UserError
from shards.receipts import Verdict, read_receipts
from shards.storage import open_storage
from shards.summary import summarize
from tests.vidprep.folders.trees import frame, plane, twostream, write, write_frames, write_planes
from vidprep.folders.importing import ImportReport, import_frames
from vidprep.preview import contact_sheet

ONE: dict[str, Any] = {"workers": 1}


def verdicts(dest: Path, column: str) -> list[tuple[str, str, str]]:
    found = [it for receipt in read_receipts(open_storage(dest), column) for it in receipt.verdicts]
    return [(it.key, it.level, it.code) for it in found]


def first_verdict(dest: Path, column: str) -> Verdict:
    return next(it for receipt in read_receipts(open_storage(dest), column) for it in receipt.verdicts)


def contents(dest: Path) -> dict[str, str]:
    """Digest of every file; of receipts without their `run` block."""
    found = {}
    for path in sorted(it for it in dest.rglob("*") if it.is_file() and it.suffix != ".part"):
        data = path.read_bytes()
        if path.suffix == ".json" and path.stem.isdecimal():
            data = json.dumps({k: v for k, v in json.loads(data).items() if k != "run"}).encode()
        found[str(path.relative_to(dest))] = hashlib.sha256(data).hexdigest()
    return found


def released(video: int, number: int, component: int) -> float:
    """Pixels that the public release's byte of a field stands for."""
    return float(plane(video, number, component)[0, 0]) * 40 / 255 - 20


def test_the_release_becomes_columns(tmp_path: Path) -> None:
    made = twostream(tmp_path / "ucf101")
    train = tmp_path / "trainlist01.txt"
    train.write_text("Archery/v_Archery_g01_c01.avi 1\nYoYo/v_yoyo_g01_c01.avi 2\n")
    dest = tmp_path / "data"
    report = import_frames(
        tmp_path / "ucf101", dest, layout="twostream", split_files=[("ucf1-train", train)], shard_size=1, **ONE
    )
    assert (report.videos, report.samples, report.frames, report.flow, report.bad) == (3, 3, 18, 3, 0)
    assert list(check(dest)) == []
    data = open_dataset(dest, columns=("rgb", "flow"))
    assert data.classes == ("Archery", "YoYo") and data.meta.size == {"height": 24, "width": 32}
    assert data.meta.columns["rgb"].producer == data.meta.columns["flow"].producer == "vidprep import"
    assert data.meta.columns["flow"].parameters == {
        "method": "imported",
        "codec": "release",
        "bound": 20.0,
        "layout": "twostream",
    }
    for video, (name, frames) in enumerate(made.items()):
        sample = data.by_key(name)
        assert (sample.label, sample.group) == (name.split("_")[1], name.rpartition("_")[0])
        assert sample.splits == (("ucf1-train",) if "_g01_" in name else ())
        assert (sample.frames, sample.fps, sample.info["fps_assumed"]) == (len(frames), 25.0, True)
        i = sample.number
        assert [bytes(it) for it in data.jpegs(i, range(len(frames)))] == frames
        np.testing.assert_array_equal(data.frames(i, [2])[0], jpeg.decode(frames[2]))
        # Field t leads from frame t, file t + 1; its bytes are the files'.
        flow = data.flow(i, range(len(frames) - 1))
        for t in range(len(frames) - 1):
            for component in (0, 1):
                np.testing.assert_allclose(flow[t, ..., component], released(video, t + 1, component), atol=1e-5)
        file = tmp_path / "ucf101/tvl1_flow/v" / name / "frame000002.jpg"
        assert bytes(data.jpegs(i, [3], column="flow")[0]) == file.read_bytes()
    assert summarize(dest).verdicts == {}
    assert contact_sheet(data, count=2).ndim == 3


def test_stock_webdataset_reads_both_columns(tmp_path: Path) -> None:
    made = twostream(tmp_path / "ucf101")
    import_frames(tmp_path / "ucf101", tmp_path / "data", layout="twostream", **ONE)
    for column, suffix in (("rgb", "mjpg"), ("flow", "flow.mjpg")):
        samples = list(webdataset.WebDataset(f"{tmp_path}/data/{column}/000000.tar", shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == sorted(made)
        for sample in samples:
            parts = sample[suffix][2:-2].split(b"\xff\xd9\xff\xd8")
            count = len(made[sample["__key__"]])
            assert len(parts) == (count if column == "rgb" else 2 * (count - 1))
            image = cv2.imdecode(np.frombuffer(b"\xff\xd8" + parts[0] + b"\xff\xd9", np.uint8), cv2.IMREAD_UNCHANGED)
            assert image.shape == ((24, 32, 3) if column == "rgb" else (24, 32))


def pace(root: Path) -> None:
    for video, path in enumerate(("run/one", "walk/two")):
        write_frames(root / path, video, range(1, 6))


def svc(root: Path) -> None:
    for video, path in enumerate(("run/one", "walk/two")):
        write_frames(root / path, video, range(1, 6), "image_%05d.jpg")


def denseflow(root: Path, *, frames: range = range(5), fields: range = range(4)) -> None:
    for video, path in enumerate(("run/one", "walk/two")):
        write_frames(root / path, video, frames, "img_%05d.jpg")
        write_planes(root / path / "flow_x_%05d.jpg", root / path / "flow_y_%05d.jpg", video, fields)


@pytest.mark.parametrize(("layout", "build"), [("pace", pace), ("svc", svc), ("denseflow", denseflow)])
def test_class_folders(tmp_path: Path, layout: str, build: Callable[[Path], None]) -> None:
    build(tmp_path / "tree")
    notes: list[dict[str, Any]] = []
    report = import_frames(tmp_path / "tree", tmp_path / "data", layout=layout, on_event=notes.append, **ONE)
    data = open_dataset(tmp_path / "data")
    assert [(data[i].key, data[i].label, data[i].frames) for i in range(2)] == [
        ("run--one", "run", 5),
        ("walk--two", "walk", 5),
    ]
    assert report.flow == (2 if layout == "denseflow" else None)
    assert any("no flow" in str(note.get("message")) for note in notes) == (layout != "denseflow")


@pytest.mark.parametrize(
    ("frames", "fields", "first", "code"),
    [
        (range(5), range(4), 0, None),  # denseflow
        (range(1, 6), range(4), 0, None),  # its flow, and frames written by OpenCV
        (range(1, 6), range(1, 6), 2, "fields-unused"),  # dense_flow: an image is where its field leads
    ],
)
def test_what_denseflow_and_its_predecessor_write(
    tmp_path: Path, frames: range, fields: range, first: int, code: str | None
) -> None:
    denseflow(tmp_path / "tree", frames=frames, fields=fields)
    import_frames(tmp_path / "tree", tmp_path / "data", layout="denseflow", **ONE)
    flow = open_dataset(tmp_path / "data", columns=("rgb", "flow")).flow(1, range(4))
    np.testing.assert_allclose(flow[:, 0, 0, 1], [released(1, first + t, 1) for t in range(4)], atol=1e-5)
    assert [it[2] for it in verdicts(tmp_path / "data", "flow")] == ([code] * 2 if code else [])


@pytest.mark.parametrize("tree", ["%s", "run/%s"])
def test_flow_in_another_place_with_and_without_class_folders(tmp_path: Path, tree: str) -> None:
    write_frames(tmp_path / "rgb/run/v_HandstandPushups_g01_c01", 0, range(1, 5))
    place = tree % "v_HandStandPushups_g01_c01"
    u, v = (tmp_path / "flow" / it / place / "frame%06d.jpg" for it in "uv")
    write_planes(u, v, 0, range(1, 5))  # a fourth field, as `flow-folders --repeat-last` writes
    report = import_frames(tmp_path / "rgb", tmp_path / "data", layout="pace", flow=tmp_path / "flow", **ONE)
    assert report.flow == 1 and report.verdicts == {"fields-unused": 1}
    assert "number 4" in first_verdict(tmp_path / "data", "flow").message
    flow = open_dataset(tmp_path / "data", columns=("flow",)).flow(0, range(3))
    np.testing.assert_allclose(flow[:, 0, 0, 0], [released(0, 1 + t, 0) for t in range(3)], atol=1e-5)


def test_bad_frames_get_verdicts(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for video, name in enumerate(("cut", "good", "notjpeg", "progressive", "sizes", "twice")):
        write_frames(root / "a" / name, video, range(1, 5))
    victim = root / "a/cut/frame000003.jpg"
    victim.write_bytes(victim.read_bytes()[:-30])
    (root / "a/notjpeg/frame000002.jpg").write_text("no picture")
    _, data = cv2.imencode(".jpg", frame(3, 1), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    (root / "a/progressive/frame000001.jpg").write_bytes(data.tobytes())
    write(root / "a/sizes/frame000004.jpg", frame(0, 0, (24, 40)))
    write(root / "a/twice/frame4.jpg", frame(0, 0))
    arguments: dict[str, Any] = {"layout": "pace", **ONE}
    with pytest.raises(UserError, match=r"5 of 6 videos cannot be imported into rgb .*--max-bad 2% allows"):
        import_frames(root, tmp_path / "data", **arguments)
    report = import_frames(root, tmp_path / "data", max_bad=1, **arguments)
    assert (report.samples, report.bad) == (1, 5)
    assert verdicts(tmp_path / "data", "rgb") == [
        ("a--cut", "bad", "unreadable-frame"),
        ("a--notjpeg", "bad", "unreadable-frame"),
        ("a--progressive", "bad", "not-baseline"),
        ("a--sizes", "bad", "frame-sizes"),
        ("a--twice", "bad", "frame-names"),
    ]
    assert first_verdict(tmp_path / "data", "rgb").message.startswith("frame000003.jpg is cut off in its pixels")


def test_warnings_about_frames(tmp_path: Path) -> None:
    root, dest = tmp_path / "tree", tmp_path / "data"
    for video, name in enumerate(("gap", "grey", "thumbnail")):
        write_frames(root / name, video, range(1, 6))
    write_frames(root / "single", 3, range(1, 2))
    (root / "gap/frame000003.jpg").unlink()
    for n in range(1, 6):
        write(root / "grey" / f"frame{n:06d}.jpg", frame(1, n)[..., 0])
    file = root / "thumbnail/frame000002.jpg"
    whole = file.read_bytes()
    body = b"Exif\0\0" + whole
    file.write_bytes(whole[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + whole[2:])
    import_frames(root, dest, layout="pace", fps=10, **ONE)
    assert sorted(verdicts(dest, "rgb")) == [
        ("gap", "warning", "frames-missing"),
        ("single", "warning", "one-frame"),
        ("thumbnail", "warning", "segments-removed"),
    ]
    data = open_dataset(dest)
    assert data.facts(data.number("gap")).times_us.tolist() == [0, 100_000, 300_000, 400_000]
    assert data.by_key("gap").info["times_us"] == [0, 100_000, 300_000, 400_000]
    assert data.frames(data.number("grey"), [0]).shape == (1, 24, 32, 3)
    assert bytes(data.jpegs(data.number("thumbnail"), [1])[0]) == whole
    assert list(check(dest)) == []


def test_videos_without_flow_are_failed_samples(tmp_path: Path) -> None:
    made = twostream(tmp_path / "ucf101", counts=(5, 5, 5, 5, 5, 5, 1, 5))
    names, flow, dest = list(made), tmp_path / "ucf101/tvl1_flow", tmp_path / "data"
    shutil.rmtree(flow / "u" / names[0])
    (flow / "v" / names[1] / "frame000002.jpg").unlink()
    write(flow / "u" / names[2] / "frame000002.jpg", frame(0, 1))
    write(flow / "u" / names[3] / "frame000002.jpg", plane(0, 1, 0, (24, 40)))
    (flow / "v" / names[4] / "frame000004.jpg").write_bytes(b"")
    (tmp_path / "ucf101/jpegs_256" / names[5] / "frame000003.jpg").unlink()
    arguments: dict[str, Any] = {"layout": "twostream", **ONE}
    with pytest.raises(UserError, match=r"7 of 8 videos cannot be imported into flow .*1 fields-missing"):
        import_frames(tmp_path / "ucf101", dest, **arguments)
    assert list(open_dataset(dest).meta.columns) == ["rgb"]  # what is there is a data set all the same
    report = import_frames(tmp_path / "ucf101", dest, max_bad=1, **arguments)
    assert (report.samples, report.flow) == (8, 1)
    found = {key: code for key, level, code in verdicts(dest, "flow") if level == "bad"}
    assert [found.get(name) for name in names] == [
        "no-flow",
        "fields-missing",
        "not-grey",
        "frame-sizes",
        "unreadable-frame",
        "frames-missing",
        "one-frame",
        None,
    ]
    data = open_dataset(dest, columns=("rgb", "flow"))
    assert [data[int(i)].key for i in data.select()] == [names[7]]
    assert list(check(dest)) == []


def test_flow_of_another_size_is_kept_with_a_warning(tmp_path: Path) -> None:
    made = twostream(tmp_path / "ucf101", counts=(3,))
    [name] = made
    for tree in "uv":
        for n in (1, 2):
            write(tmp_path / "ucf101/tvl1_flow" / tree / name / f"frame{n:06d}.jpg", plane(0, n, 0, (12, 16)))
    import_frames(tmp_path / "ucf101", tmp_path / "data", layout="twostream", **ONE)
    assert open_dataset(tmp_path / "data", columns=("flow",)).flow(0, [0]).shape == (1, 12, 16, 2)
    assert verdicts(tmp_path / "data", "flow") == [(name, "warning", "flow-size")]


def test_workers_and_interruptions_do_not_change_a_byte(tmp_path: Path) -> None:
    twostream(tmp_path / "ucf101", counts=(4, 5, 6, 3, 4, 5, 4, 3, 5, 4, 3, 6))

    def run(dest: str, **more: Any) -> ImportReport:
        return import_frames(
            tmp_path / "ucf101", tmp_path / dest, layout="twostream", shard_size=20_000, name="set", **more
        )

    whole = run("whole", workers=2)
    assert whole.shards > 2
    reference = contents(tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop_at(column: str, event: dict[str, Any]) -> None:
        stopped.setdefault(column, 0)
        stopped[column] += event["event"] == "shard"
        if stopped[column] == 2:
            raise StopError

    for column, more in (("rgb", {}), ("flow", {})):
        stopped: dict[str, int] = {}
        starts = 0

        def tell(event: dict[str, Any], column: str = column) -> None:
            nonlocal starts
            starts += event["event"] == "start"
            if starts == (1 if column == "rgb" else 2):
                stop_at(column, event)

        with pytest.raises(StopError):
            run(column, workers=1, on_event=tell, **more)
        assert contents(tmp_path / column) != reference
        run(column, workers=1)
        assert contents(tmp_path / column) == reference
    run("whole", workers=1)  # nothing to do
    assert contents(tmp_path / "whole") == reference


def test_mended_frames_bring_their_flow_along(tmp_path: Path) -> None:
    made = twostream(tmp_path / "ucf101", counts=(5, 5))
    name, dest = next(iter(made)), tmp_path / "data"
    broken = tmp_path / "ucf101/jpegs_256" / name / "frame000002.jpg"
    broken.write_text("broken")
    arguments: dict[str, Any] = {"layout": "twostream", "max_bad": 1, **ONE}
    assert import_frames(tmp_path / "ucf101", dest, **arguments).flow == 1
    broken.write_bytes(made[name][1])
    (dest / "rgb/000000.json").unlink()
    report = import_frames(tmp_path / "ucf101", dest, **arguments)
    assert (report.samples, report.flow, report.bad) == (2, 2, 0)
    assert list(check(dest)) == []
    assert len(open_dataset(dest, columns=("rgb", "flow")).select()) == 2


def test_flow_can_come_later(tmp_path: Path) -> None:
    twostream(tmp_path / "ucf101")
    arguments: dict[str, Any] = {"layout": "twostream", **ONE}
    assert import_frames(tmp_path / "ucf101", tmp_path / "data", with_flow=False, **arguments).flow is None
    rgb = (tmp_path / "data/rgb/000000.tar").stat().st_mtime_ns
    assert import_frames(tmp_path / "ucf101", tmp_path / "data", **arguments).flow == 3
    assert (tmp_path / "data/rgb/000000.tar").stat().st_mtime_ns == rgb


def test_a_destination_takes_one_tree_and_one_set_of_options(tmp_path: Path) -> None:
    twostream(tmp_path / "ucf101")
    root, dest = tmp_path / "ucf101", tmp_path / "data"
    import_frames(root, dest, layout="twostream", **ONE)
    with pytest.raises(UserError, match=r"planned with fps 25.0, this command asks for 30"):
        import_frames(root, dest, layout="twostream", fps=30, **ONE)
    with pytest.raises(UserError, match=r"planned with layout twostream"):
        import_frames(root / "jpegs_256", dest, layout="pace", **ONE)
    write_frames(root / "jpegs_256/v_YoYo_g09_c01", 0, range(1, 3))
    with pytest.raises(UserError, match=r"the tree holds 4 videos, .* planned from 3"):
        import_frames(root, dest, layout="twostream", **ONE)


def test_wrong_arguments(tmp_path: Path) -> None:
    twostream(tmp_path / "ucf101")
    root, dest = tmp_path / "ucf101", tmp_path / "data"
    for arguments, message in (
        ({"layout": "kinetics"}, "layout 'kinetics' is unknown; allowed: twostream, pace, svc, denseflow"),
        ({"layout": "twostream", "fps": 0}, "fps is 0"),
        ({"layout": "twostream", "max_bad": 2}, "max_bad is 2"),
        ({"layout": "twostream", "shard_size": 0}, "shard size is 0"),
        ({"layout": "twostream", "flow": root / "nowhere"}, "nowhere is not a folder"),
        ({"layout": "twostream", "flow": root / "jpegs_256"}, "holds no folders u and v"),
        ({"layout": "twostream", "flow": root / "tvl1_flow", "with_flow": False}, "either --flow DIR or --no-flow"),
        ({"layout": "twostream", "rgb": root / "nowhere"}, "nowhere does not exist"),
        ({"layout": "svc"}, "no frame of layout svc"),
    ):
        with pytest.raises(UserError, match=message):
            import_frames(root, dest, **arguments, **ONE)  # type: ignore[arg-type]
    assert not dest.exists()


def test_files_that_cannot_be_read_end_the_run(tmp_path: Path) -> None:
    write_frames(tmp_path / "tree/a/b", 0, range(1, 4))
    (tmp_path / "tree/a/b/frame000002.jpg").unlink()
    (tmp_path / "tree/a/b/frame000002.jpg").mkdir()  # reading it is an I/O error, for root too
    with pytest.raises(StorageError, match=r"cannot read .*frame000002.jpg"):
        import_frames(tmp_path / "tree", tmp_path / "data", layout="pace", **ONE)
