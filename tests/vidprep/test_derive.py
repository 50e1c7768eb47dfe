"""Flow and statistics columns: what they hold, regenerating, resuming, failures."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from shards import jpeg
from shards.check import check
from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.finalize import finalize
from shards.flow import make_codec
from shards.meta import read_meta
from shards.prune import prune
from shards.receipts import read_receipts
from shards.storage import open_storage
from shards.summary import summarize
from shards.table import decode_table
from shards.tarwriter import ShardWriter
from tests.conftest import ROOT
from tests.tiny import build_dataset, frame
from tests.vidprep import literal_statistics as literal
from vidprep.derive import add_flow, add_labels
from vidprep.deriving import flow as flow_module
from vidprep.flow import dis, tvl1

SIZE = (32, 40)
QUICK = {"nscales": 2, "warps": 1, "outer_iterations": 2, "inner_iterations": 4}


def flow(dest: Path, **options: object) -> None:
    add_flow(dest, backend="numba", workers=1, **{**QUICK, **options})  # type: ignore[arg-type]


def labels(dest: Path, **options: object) -> None:
    given = {"crop": 24, "window": 4, "resize": None, "stride": 3, "views": 3, "workers": 1, **options}
    add_labels(dest, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of 9, 1 and 5 frames in two shards, with both columns; to be read only."""
    dest = build_dataset(tmp_path_factory.mktemp("derived"), samples=6, frames=(9, 1, 5), size=SIZE, per_shard=3)
    flow(dest)
    labels(dest)
    return dest


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files; of receipts without their `run`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".json" and path.stem.isdecimal():
                data = json.dumps({k: v for k, v in json.loads(data).items() if k != "run"}).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def test_flow_is_that_of_the_stored_frames(derived: Path) -> None:
    data = open_dataset(derived, columns=("rgb", "flow"))
    grey = data.grey(0, range(9))
    assert grey.shape == (9, *SIZE) and abs(grey.astype(int) - _luma(data.frames(0, range(9)))).max() <= 2
    fields = tvl1(grey, "numba", **QUICK)
    codec = make_codec("byte", *SIZE, bound=20 * 32 / 256)
    planes, _ = codec.quantise(fields)
    stored = data.flow_planes(0, [7, 0, 7])
    assert stored.shape == (3, 2, *SIZE)
    for t, found in zip((7, 0, 7), stored, strict=True):
        for c in (0, 1):
            assert np.array_equal(found[c], jpeg.decode(jpeg.encode(planes[t, c], quality=95)))
    pixels = data.flow(0, [2])[0]
    assert abs(pixels - fields[2]).mean() < codec.step
    assert data.frame_counts.tolist() == [9, 1, 5, 9, 1, 5]


def _luma(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in frames]).astype(int)


def test_a_pair_does_not_depend_on_the_pairs_around_it(
    tiny_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tiny_dataset(samples=1, frames=9, size=SIZE)
    flow(dest)
    data = open_dataset(dest, columns=("rgb", "flow"))
    maker = flow_module.FlowMaker(options={"backend": "numba", **QUICK})
    whole = maker.make(data, 0, lambda _: None)
    monkeypatch.setattr(flow_module, "_PAIRS", 3)
    told: list[int] = []
    parts = maker.make(data, 0, told.append)
    assert whole.payload == parts.payload and whole.info == parts.info and told == [3, 6, 8]


def test_failed_samples_say_so_and_nothing_is_shifted(derived: Path) -> None:
    data = open_dataset(derived, columns=("rgb", "flow", "statistics"))
    assert data.valid.tolist() == [True, False, True] * 2 and len(data.select()) == 4
    keys = [data.key(i) for i in range(6)]
    for folder, codes in (("flow", {"no-pair": 2}), ("statistics", {"too-short": 2})):
        found = []
        for shard in (0, 1):
            tar = f"{derived}/{folder}/{shard:06d}.tar"
            found += [sample["__key__"] for sample in webdataset.WebDataset(tar, shardshuffle=False)]
        assert found == keys
        summary = summarize(derived).columns[folder]
        assert (summary.failed, summary.verdicts, summary.stale) == (2, codes, ())
    with pytest.raises(IndexError, match="video_001 failed in column flow"):
        data.flow(1, [0])
    assert summarize(derived).bad == 0
    assert not list(check(derived))
    assert data.flow(3, [0]).any() and np.array_equal(data.flow(3, [0]), data.flow(3, [0, 1])[:1])


def test_stock_webdataset_reads_both_columns(derived: Path) -> None:
    data = open_dataset(derived, columns=("rgb", "flow", "statistics"))
    sample = next(iter(webdataset.WebDataset(f"{derived}/flow/000000.tar", shardshuffle=False)))
    info = json.loads(sample["json"])
    first = sample["flow.mjpg"][: sample["flow.mjpg"].index(b"\xff\xd9\xff\xd8") + 2]
    u = (jpeg.decode(first).astype(np.float32) - info["zero"]) * info["step"]
    assert np.allclose(u, data.flow(0, [0])[0, ..., 0], atol=1e-6)
    assert info["fields"] == 8 and sample["flow.mjpg"].count(b"\xff\xd9\xff\xd8") == 15
    table = next(iter(webdataset.WebDataset(f"{derived}/statistics/000000.tar", shardshuffle=False)))
    assert np.array_equal(decode_table(table["statistics.npy"]).rows, data.clip_table(0).rows)


def test_tables_hold_the_labels_of_what_their_rows_say(derived: Path) -> None:
    data = open_dataset(derived, columns=("rgb", "flow", "statistics"))
    flips = 0
    for i, starts in ((0, [0, 3]), (2, [0]), (5, [0])):
        rows = data.clip_table(i).rows
        assert rows[:, 0].tolist() == [start for start in starts for _ in range(3)]
        rgb, planes = data.frames(i, range(data.frame_counts[i])), data.flow_planes(i, range(data.frame_counts[i] - 1))
        for start, top, left, flip, *numbers in rows.tolist():
            clip = rgb[start : start + 4, top : top + 24, left : left + 24]
            steps = planes[start : start + 3, :, top : top + 24, left : left + 24].astype(np.float32) - 128
            steps = np.moveaxis(steps, 1, -1)
            if flip:
                flips += 1
                clip, steps = clip[:, :, ::-1], steps[:, :, ::-1] * np.float32([-1, 1])
            moving = literal.motion(steps, 3).tolist()
            assert all(n in (0, m) for n, m in zip(numbers[:14], moving, strict=True))  # 0: nothing moves there
            assert numbers[:12] == moving[:12]
            assert numbers[14:] == literal.appearance(clip, reference=False).tolist()
    assert 0 < flips < 12


def test_rows_depend_on_the_key_and_not_on_the_place(tmp_path: Path) -> None:
    """A data set that is sharded in another way has the same tables."""
    found = []
    for per_shard in (2, 3):
        dest = build_dataset(tmp_path / str(per_shard), samples=3, frames=6, size=SIZE, per_shard=per_shard)
        flow(dest)
        labels(dest)
        data = open_dataset(dest, columns=("statistics",))
        found.append([data.clip_table(i, column="statistics").rows.tolist() for i in range(3)])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_flips_of_tables(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=1, frames=6, size=SIZE)
    flow(dest)
    rows = {}
    for flip in ("physical", "literal", "none"):
        labels(dest, flip=flip, column=f"statistics-{flip}", views=8)
        rows[flip] = open_dataset(dest, columns=(f"statistics-{flip}",)).clip_table(0, column=f"statistics-{flip}").rows
    mirrored = rows["physical"][:, 3] == 1
    assert mirrored.any() and not mirrored.all() and not rows["none"][:, 3].any()
    differs = rows["physical"] != rows["literal"]
    assert not differs[~mirrored].any()
    assert set(np.flatnonzero(differs.any(axis=0))) <= {4 + k for k in (1, 5, 9)}  # directions of u
    assert differs[mirrored].any()


def test_same_parameters_are_nothing_to_do_and_others_a_new_folder(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=3, frames=5, size=SIZE, per_shard=2)
    rgb = contents(dest / "rgb")
    flow(dest)
    before = contents(dest)
    flow(dest)
    assert contents(dest) == before
    flow(dest, nscales=1)
    meta = read_meta(str(dest))
    folder = meta.columns["flow"].folder
    assert folder.startswith("flow-") and len(folder) == len("flow-") + 8
    assert meta.columns["flow"].parameters["nscales"] == 1
    after = contents(dest)
    changed = ("dataset.json", "plan-flow.json")
    assert {name: after[name] for name in before if name not in changed} == {
        name: digest for name, digest in before.items() if name not in changed
    }
    assert contents(dest / "rgb") == rgb
    flow(dest)
    assert read_meta(str(dest)).columns["flow"].folder == "flow"
    assert contents(dest) == {**after, **{name: before[name] for name in changed}}
    unused = prune(dest)
    assert [it.name for it in unused] == [folder] and (dest / folder).is_dir() and unused[0].bytes > 0
    prune(dest, delete=True)
    assert contents(dest) == before and not prune(dest)


def test_several_columns_side_by_side(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=2, frames=6, size=SIZE)
    flow(dest)
    add_flow(dest, method="dis", column="flow-dis", codec="lossless", workers=1)
    labels(dest)
    labels(dest, crop=16, column="statistics-16", flow="flow-dis")
    meta = read_meta(str(dest))
    assert list(meta.columns) == ["rgb", "flow", "flow-dis", "statistics", "statistics-16"]
    assert meta.columns["flow-dis"].kind == "flow-lossless"
    assert set(meta.columns["statistics-16"].sources) == {"rgb", "flow-dis"}
    data = open_dataset(dest, columns=("rgb", "flow-dis"))
    fields = dis(data.grey(0, range(6)))
    assert abs(data.flow(0, range(5), column="flow-dis") - fields).max() <= 1 / 128
    assert not list(check(dest))


def test_a_column_of_a_changed_source_is_stale(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=2, frames=6, size=SIZE, per_shard=2)
    flow(dest)
    labels(dest)
    for path in (dest / "rgb").glob("*.json"):
        path.unlink()
    with ShardWriter(open_storage(dest), 0, parameters={"quality": 90}) as writer:
        for i in range(2):
            frames = [jpeg.encode(frame(i + 5, 2 * t, SIZE)) for t in range(6)]
            writer.add(f"video_{i:03d}", {"source": f"{i}.avi"}, frames, fps=25, size=SIZE)
        writer.finish()
    finalize(dest)
    columns = summarize(dest).columns
    assert [columns[name].stale for name in ("rgb", "flow", "statistics")] == [(), ("rgb",), ("rgb",)]
    with pytest.raises(UserError, match="column flow .* is stale: rgb changed since; .*vidprep flow"):
        labels(dest)
    flow(dest)
    columns = summarize(dest).columns
    assert columns["flow"].folder.startswith("flow-")
    assert [columns[name].stale for name in ("flow", "statistics")] == [(), ("rgb", "flow")]
    labels(dest)
    assert not any(column.stale for column in summarize(dest).columns.values())
    assert not list(check(dest))


def test_kill_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    ended, whole = (
        build_dataset(tmp_path / name, samples=6, frames=5, size=SIZE, per_shard=2) for name in ("ended", "whole")
    )
    flow(whole)
    code = (
        "import vidprep.deriving.shards as d\n"
        "d._DERIVE_SHARD = 'tests.vidprep.derive_targets:kill_in_the_second_shard'\n"
        f"from vidprep.derive import add_flow; add_flow({str(ended)!r}, backend='numba', workers=1, **{QUICK!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    assert [receipt.shard for receipt in read_receipts(open_storage(ended), "flow")] == [0]
    assert "flow" not in read_meta(str(ended)).columns
    first = (ended / "flow/000000.tar").stat().st_mtime_ns
    add_flow(ended, backend="numba", workers=2, **QUICK)  # type: ignore[arg-type]
    assert (ended / "flow/000000.tar").stat().st_mtime_ns == first
    assert contents(ended / "flow") == contents(whole / "flow")


def test_a_sample_that_ends_workers_is_given_up(
    tiny_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tiny_dataset(samples=3, frames=4, size=SIZE)
    monkeypatch.setattr("vidprep.deriving.shards._DERIVE_SHARD", "tests.vidprep.derive_targets:derive_with_killer")
    events: list[dict[str, object]] = []
    report = add_flow(dest, backend="numba", workers=1, on_event=events.append, **QUICK)  # type: ignore[arg-type]
    assert report.failed == 1 and report.verdicts["crashed"] == 1
    assert open_dataset(dest, columns=("rgb", "flow")).valid.tolist() == [True, False, True]
    (told,) = [event for event in events if event["event"] == "verdict" and event["level"] == "bad"]
    assert told["key"] == "video_001" and "SIGSEGV" in str(told["message"])


def test_damaged_frames_end_the_run(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=2, frames=4, size=SIZE)
    tar = dest / "rgb/000000.tar"
    data = bytearray(tar.read_bytes())
    record = open_dataset(dest).record(1, "rgb")
    data[int(record["offset"]) + 30] ^= 0xFF
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError, match="video_001: frame 0 does not agree with its checksum.*vidprep check"):
        flow(dest)
    assert "flow" not in read_meta(str(dest)).columns and not list((dest / "flow").glob("0*"))


def test_clipped_motion_is_recorded(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=1, frames=4, size=SIZE)
    flow(dest, bound=0.1)
    info = json.loads(next(iter(webdataset.WebDataset(f"{dest}/flow/000000.tar", shardshuffle=False)))["json"])
    assert info["clipped"] > 0.01
    assert summarize(dest).columns["flow"].verdicts == {"flow-clipped": 1}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "magic"}, "unknown flow method 'magic'"),
        ({"backend": "magic"}, "unknown TV-L1 backend 'magic'"),
        ({"method": "dis", "backend": "numba"}, "method dis has no backends"),
        ({"codec": "magic"}, "unknown flow codec 'magic'"),
        ({"bound": 0.0}, "flow bound 0.0"),
        ({"method": "raft"}, "needs weights=FILE"),
        ({"nscale": 3}, "unknown flow parameter 'nscale'"),
        ({"column": "rgb"}, "cannot be made from itself"),
        ({"column": "a.b"}, "cannot name a column"),
        ({"source": "rgb-256"}, "no column 'rgb-256'; it has: rgb"),
        ({"workers": 0}, "at least one"),
    ],
)
def test_wrong_options_of_flow(tiny_dataset: Callable[..., Path], options: dict[str, object], match: str) -> None:
    dest = tiny_dataset(samples=1, frames=2)
    before = contents(dest)
    with pytest.raises(UserError, match=match):
        add_flow(dest, **options)  # type: ignore[arg-type]
    assert contents(dest) == before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "no column 'flow'; .*vidprep flow"),
        ({"crop": 20}, "divisible by 8"),
        ({"window": 1}, "at least 2 frames"),
        ({"views": 0}, "views is 0"),
        ({"variant": "magic"}, "variant is 'magic'; allowed: corrected, reference"),
        ({"flip": "magic"}, "flip is 'magic'; allowed: physical, literal, none"),
        ({"resize": (16, 16), "crop": 24}, "does not fit"),
    ],
)
def test_wrong_options_of_labels(tiny_dataset: Callable[..., Path], options: dict[str, object], match: str) -> None:
    dest = tiny_dataset(samples=1, frames=2)
    with pytest.raises(UserError, match=match):
        labels(dest, **options)


def test_columns_are_not_replaced_by_something_else(tiny_dataset: Callable[..., Path]) -> None:
    dest = tiny_dataset(samples=1, frames=4, size=SIZE)
    flow(dest)
    flow(dest, column="flow-other")
    with pytest.raises(UserError, match="a column flow of kind flow, which a statistics column would replace"):
        labels(dest, column="flow", flow="flow-other")
