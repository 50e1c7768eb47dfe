"""Flow folders: the codec's bytes of the right pair, going on after an end, and folders that fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from shards import jpeg
from shards.dataset import open_dataset
from shards.errors import UserError
from shards.flow import Release
from tests.vidprep.folders.trees import frame, write, write_frames
from vidprep.flow import dis, tvl1
from vidprep.folders.flow_trees import RECORD, flow_folders
from vidprep.folders.importing import import_frames
from vidprep.resize import Resize

SIZE = (32, 40)
FAST: dict[str, Any] = {"method": "farneback", "workers": 1}


def moving(folder: Path, video: int, numbers: range, name: str = "frame%06d.jpg") -> np.ndarray:
    """Frames whose texture moves; returns them as they decode, grey, (T,H,W)."""
    for n in numbers:
        write(folder / (name % n), frame(video, n, SIZE))
    decoded = [jpeg.decode((folder / (name % n)).read_bytes()) for n in numbers]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in decoded])


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_trees_hold_the_codec_of_the_flow_of_the_right_pair(tmp_path: Path) -> None:
    grey = moving(tmp_path / "rgb/run/one", 1, range(1, 5))
    moving(tmp_path / "rgb/walk/deep/two", 2, range(3), "img_%05d.jpg")
    report = flow_folders(tmp_path / "rgb", tmp_path / "out", backend="numba", workers=1)
    assert (report.videos, report.written, report.fields, report.failed) == (2, 2, 5, {})
    expected = [f"one/frame{n:06d}.jpg" for n in (1, 2, 3)] + [f"two/frame{n:06d}.jpg" for n in (0, 1)]
    assert names(tmp_path / "out/u") == names(tmp_path / "out/v") == expected
    planes, _ = Release().quantise(tvl1(grey, backend="numba"))
    for t in range(3):
        for tree, plane in zip("uv", planes[t], strict=True):
            data = (tmp_path / "out" / tree / "one" / f"frame{t + 1:06d}.jpg").read_bytes()
            assert data == jpeg.encode(plane, quality=95)
    # The texture moves one pixel to the right, and so do most of its vectors.
    u = jpeg.decode((tmp_path / "out/u/one/frame000002.jpg").read_bytes())
    assert u.shape == SIZE and np.median(u) == round(21 * 255 / 40)


def test_frames_are_shrunk_first_and_never_enlarged(tmp_path: Path) -> None:
    grey = moving(tmp_path / "rgb/one", 1, range(1, 3))
    for number, options in enumerate(({"short_side": 20}, {"size": (20, 25)})):
        flow_folders(tmp_path / "rgb", tmp_path / f"out{number}", method="dis", workers=1, **options)
    small = np.stack([cv2.resize(image, (25, 20), interpolation=cv2.INTER_AREA) for image in grey])
    assert Resize(short_side=20).target(*SIZE) == (20, 25)
    expected = jpeg.encode(Release().quantise(dis(small))[0][0, 0], quality=95)
    for number in range(2):
        assert (tmp_path / f"out{number}/u/one/frame000001.jpg").read_bytes() == expected
    flow_folders(tmp_path / "rgb", tmp_path / "large", short_side=99, **FAST)
    assert jpeg.decode((tmp_path / "large/u/one/frame000001.jpg").read_bytes()).shape == SIZE


def test_long_videos_are_worked_on_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidprep.folders import flow_video

    moving(tmp_path / "rgb/one", 1, range(1, 8))
    flow_folders(tmp_path / "rgb", tmp_path / "whole", **FAST)
    options = flow_video.FlowOptions(method="farneback")
    monkeypatch.setattr(flow_video, "_PAIRS", 2)
    task = flow_video.FlowTask(
        folder=str(tmp_path / "rgb/one"), out=str(tmp_path / "parts"), name="one", options=options
    )
    assert flow_video.write_video(task) == flow_video.Done(folder=task.folder, fields=6, clipped=0.0)
    assert snapshot(tmp_path / "parts/u") == snapshot(tmp_path / "whole/u")


def test_the_last_field_can_be_repeated(tmp_path: Path) -> None:
    moving(tmp_path / "rgb/one", 1, range(1, 4))
    flow_folders(tmp_path / "rgb", tmp_path / "out", repeat_last=True, **FAST)
    found = snapshot(tmp_path / "out/v/one")
    assert sorted(found) == [f"frame{n:06d}.jpg" for n in (1, 2, 3)]
    assert found["frame000003.jpg"] == found["frame000002.jpg"]


def test_two_videos_of_one_name(tmp_path: Path) -> None:
    for number, path in enumerate(("run/one", "walk/one")):
        moving(tmp_path / "rgb" / path, number, range(1, 3))
    with pytest.raises(UserError, match=r"two videos are named one: run/one and walk/one.*--keep-class"):
        flow_folders(tmp_path / "rgb", tmp_path / "out", **FAST)
    flow_folders(tmp_path / "rgb", tmp_path / "out", keep_class=True, **FAST)
    assert names(tmp_path / "out/u") == ["run/one/frame000001.jpg", "walk/one/frame000001.jpg"]


def test_a_folder_that_fails_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    root = tmp_path / "rgb"
    for number, name in enumerate(("broken", "empty", "gap", "good", "series", "single", "sizes", "tiny", "twice")):
        moving(root / name, number, range(1, 4))
    (root / "broken/frame000002.jpg").write_bytes(b"\xff\xd8 no more")
    (root / "empty/frame000001.jpg").unlink()
    (root / "empty/frame000001.png").write_bytes(b"")
    (root / "gap/frame000002.jpg").unlink()
    write(root / "series/mask000001.jpg", frame(0, 0))
    for n in (2, 3):
        (root / "single" / f"frame{n:06d}.jpg").unlink()
    write(root / "sizes/frame000003.jpg", frame(0, 0, (32, 48)))
    for n in (1, 2, 3):
        write(root / "tiny" / f"frame{n:06d}.jpg", frame(0, n, (3, 3)))
    write(root / "twice/frame3.jpg", frame(0, 0, SIZE))
    events: list[dict[str, Any]] = []
    report = flow_folders(root, tmp_path / "out", on_event=events.append, **FAST)
    assert (report.videos, report.written) == (9, 1)
    reasons = {Path(folder).name: reason for folder, reason in report.failed.items()}
    for name, reason in {
        "broken": "frame000002.jpg does not decode",
        "empty": "frame000001.png does not decode",
        "gap": "frame 2 is missing",
        "series": "several series: frame…, mask…",
        "single": "it holds 1 frame",
        "sizes": "frame000003.jpg is 32x48, the first frame is 32x40",
        "tiny": "at least 4x4",
        "twice": "have the same number",
    }.items():
        assert reason in reasons[name]
    assert len([event for event in events if event["event"] == "verdict"]) == 8
    assert names(tmp_path / "out/u") == ["good/frame000001.jpg", "good/frame000002.jpg"]
    assert not list((tmp_path / "out").rglob("*.part"))
    moving(root / "gap", 2, range(1, 4))  # mended
    again = flow_folders(root, tmp_path / "out", **FAST)
    assert (again.before, again.written, len(again.failed)) == (1, 1, 7)


def test_a_run_goes_on_where_one_was_ended(tmp_path: Path) -> None:
    for number in range(3):
        moving(tmp_path / f"rgb/v{number}", number, range(1, 4))
    flow_folders(tmp_path / "rgb", tmp_path / "whole", method="farneback", workers=2)

    class StopError(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            raise StopError

    out = tmp_path / "out"
    with pytest.raises(StopError):
        flow_folders(tmp_path / "rgb", out, on_event=stop, **FAST)
    # As if it had been killed between two renames, and in the middle of a video.
    half = out / "u/v2"
    half.mkdir(parents=True, exist_ok=True)
    (half / "frame000001.jpg").write_bytes(b"half")
    (out / "v" / f".v2.{os.getpid():x}abc.part").mkdir()
    kept = (out / "v/v0/frame000001.jpg").stat().st_mtime_ns
    report = flow_folders(tmp_path / "rgb", out, **FAST)
    assert report.before >= 1 and report.before + report.written == 3
    assert (out / "v/v0/frame000001.jpg").stat().st_mtime_ns == kept
    assert snapshot(out) == snapshot(tmp_path / "whole")
    assert not list(out.rglob("*.part"))


def test_a_folder_takes_one_set_of_options(tmp_path: Path) -> None:
    moving(tmp_path / "rgb/one", 1, range(1, 3))
    out = tmp_path / "out"
    flow_folders(tmp_path / "rgb", out, **FAST)
    record = json.loads((out / RECORD).read_text())
    assert (record["codec"], record["bound"], record["quality"], record["method"]) == ("release", 20, 95, "farneback")
    with pytest.raises(UserError, match="was written with quality 95, this command asks for 80"):
        flow_folders(tmp_path / "rgb", out, quality=80, **FAST)
    (out / RECORD).unlink()
    with pytest.raises(UserError, match="made by something else"):
        flow_folders(tmp_path / "rgb", out, **FAST)


def test_wrong_arguments(tmp_path: Path) -> None:
    moving(tmp_path / "rgb/one", 1, range(1, 3))
    for arguments, message in (
        ({"method": "lucas"}, "flow method 'lucas' is unknown"),
        ({"backend": "gpu"}, "backend 'gpu' is unknown"),
        ({"method": "dis", "backend": "numba"}, "method dis has no backends"),
        ({"quality": 0}, "quality is 0"),
        ({"short_side": 8, "size": (8, 8)}, "either short_side"),
        ({"workers": 0}, "workers is 0"),
    ):
        with pytest.raises(UserError, match=message):
            flow_folders(tmp_path / "rgb", tmp_path / "out", **{"method": "farneback", **arguments})  # type: ignore[arg-type]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no folder of numbered images .* it holds no file"):
        flow_folders(tmp_path / "none", tmp_path / "out")


def test_written_trees_can_be_imported(tmp_path: Path) -> None:
    write_frames(tmp_path / "rgb/run/one", 3, range(1, 6))
    grey = moving(tmp_path / "rgb/run/two", 4, range(1, 6))
    flow_folders(tmp_path / "rgb", tmp_path / "flow", repeat_last=True, **{**FAST, "method": "dis"})
    import_frames(tmp_path / "rgb", tmp_path / "data", layout="pace", flow=tmp_path / "flow", workers=1)
    data = open_dataset(tmp_path / "data", columns=("rgb", "flow"))
    flow = data.flow(data.number("run--two"), range(4))
    assert flow.shape == (4, *SIZE, 2)
    assert np.abs(flow - np.clip(dis(grey), -20, 20)).mean() < 0.2
