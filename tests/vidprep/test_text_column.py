"""The text column: what it holds, when it is stale, and what every operation does with it."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from cli.main import run
from shards import captions
from shards.check import check
from shards.dataset import open_dataset
from shards.derived import finalize_column, stale_columns
from shards.errors import DataError, UserError
from shards.meta import read_meta
from shards.ops.operations import merge, reshard, split, subset
from shards.prune import prune
from shards.samples import annotate
from shards.storage import open_storage
from shards.summary import summarize
from tests.tiny import build_dataset
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.derive import add_flow, add_text
from vidprep.farm.append import append
from vidprep.farm.engines import Local, complete
from vidprep.farm.work import Job
from vidprep.pack import pack
from vidprep.preview import contact_sheet
from vidprep.records import Video, write_manifest
from vidprep.repair import repair
from vidprep.runs import ignore

SEVERAL = ["a bar moves", " it moves\r\n  to the right\u2028at once ", "ein Balken wandert — schön"]
CLEAN = ("a bar moves", "it moves to the right at once", "ein Balken wandert — schön")


def give(dest: Path, file: Path, values: dict[str, object]) -> None:
    lines = [json.dumps({"key": key, "caption": value}) for key, value in values.items()]
    file.write_text("\n".join(lines) + "\n")
    annotate(dest, file)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Six samples in two shards: 0, 2 and 4 have a caption, 1 has three, 3 and 5 none."""
    dest = build_dataset(tmp_path / "data", samples=6, frames=5, per_shard=3)
    give(dest, tmp_path / "captions.jsonl", {"video_001": SEVERAL})
    return dest


def texts(dest: Path, column: str | None = "text") -> list[tuple[str, ...]]:
    data = open_dataset(dest, columns=("rgb",) if column is None else ("rgb", column))
    return data.captions(range(len(data)), column=column)


def test_lines_are_captions_and_stock_webdataset_reads_them(dest):
    report = add_text(dest, workers=1)
    assert (report.samples, report.failed, dict(report.verdicts)) == (6, 2, {"no-caption": 2})
    expected = [("caption of 0",), CLEAN, ("caption of 2",), (), ("caption of 4",), ()]
    assert texts(dest) == texts(dest, None) == expected
    found = {
        s["__key__"]: s["txt"] for s in webdataset.WebDataset(f"{dest}/text/{{000000..000001}}.tar", shardshuffle=False)
    }
    assert found["video_000"] == b"caption of 0" and found["video_003"] == b""
    assert found["video_001"].decode().split("\n") == list(CLEAN)
    decoded = webdataset.WebDataset(f"{dest}/text/000000.tar", shardshuffle=False).decode()
    assert next(iter(decoded))["txt"] == "caption of 0"
    with tarfile.open(dest / "text/000001.tar") as tar:
        assert tar.getnames() == ["video_003.txt", "video_004.txt", "video_005.txt"]
    assert not list(check(dest))
    data = open_dataset(dest, columns=("rgb", "text"))
    assert data.valid.tolist() == [True, True, True, False, True, False]
    assert data.select().tolist() == [0, 1, 2, 4]
    assert data.captions([4, 1, 4], column="text") == [("caption of 4",), CLEAN, ("caption of 4",)]
    assert (data[1].captions, data[1].caption) == (tuple(SEVERAL), "a bar moves")


def test_the_same_captions_give_the_same_bytes_and_nothing_is_left_to_do(dest, tmp_path):
    add_text(dest, workers=1)
    before = {path.name: path.read_bytes() for path in (dest / "text").iterdir()}
    add_text(dest, workers=2)
    assert {path.name: path.read_bytes() for path in (dest / "text").iterdir()} == before
    other = build_dataset(tmp_path / "other", samples=6, frames=3, per_shard=3)
    give(other, tmp_path / "captions.jsonl", {"video_001": list(CLEAN)})
    add_text(other, workers=2)
    for name in ("000000.tar", "000001.tar", "000000.idx", "000001.idx"):
        assert (other / "text" / name).read_bytes() == before[name]


def test_replaced_captions_make_the_column_stale(dest, tmp_path, capsys):
    add_text(dest, workers=1)
    assert not stale_columns(dest)
    (tmp_path / "labels.jsonl").write_text('{"key": "video_003", "label": "jump", "splits": ["new"]}\n')
    annotate(dest, tmp_path / "labels.jsonl")
    assert not stale_columns(dest)  # labels are no captions
    give(dest, tmp_path / "new.jsonl", {"video_003": "new words", "video_004": None})
    assert summarize(dest).columns["text"].stale == ("captions",)
    told = f"vidprep text {dest} --column text"
    assert (
        told in stale_columns(dest)["text"] and "made from captions as before a change" in stale_columns(dest)["text"]
    )
    for command in ("info", "check"):
        assert run([command, str(dest)]) == 0
        assert told in capsys.readouterr().err
    assert texts(dest)[4] == ("caption of 4",)  # what is open, and what is not made anew, stays as it was
    report = add_text(dest, workers=1)
    assert report.folder.startswith("text-") and texts(dest)[3:] == [("new words",), (), ()]
    assert not stale_columns(dest) and not list(check(dest))
    assert [it.name for it in prune(dest, delete=True)] == ["text"]
    give(dest, tmp_path / "old.jsonl", {"video_003": None, "video_004": "caption of 4"})
    assert add_text(dest, workers=1).folder == "text"


def test_the_digest_of_captions_is_the_documented_one(dest):
    """docs/format.md, section Further columns."""
    add_text(dest, workers=1)
    rows = [
        json.loads(line)
        for line in (dest / f"{read_meta(str(dest)).samples_stem}.jsonl").read_text().split("\n")
        if line
    ]
    digests = []
    for shard in (rows[:3], rows[3:]):
        lines = []
        for row in shard:
            given = row.get("caption", [])
            given = [given] if isinstance(given, str) else CLEAN if row["key"] == "video_001" else given
            lines.append(json.dumps([row["key"], list(given)], ensure_ascii=False) + "\n")
        digests.append(hashlib.sha256("".join(lines).encode()).digest())
    receipts = [json.loads((dest / f"text/00000{shard}.json").read_text()) for shard in range(2)]
    assert [receipt["sources"]["captions"] for receipt in receipts] == [digest.hex() for digest in digests]
    whole = hashlib.blake2b(b"".join(digest[:16] for digest in digests), digest_size=8).hexdigest()
    assert dict(read_meta(str(dest)).columns["text"].sources) == {"captions": whole}


def test_new_shards_are_added_to_the_column(tmp_path):
    videos = []
    for i in range(3):
        write_clip(tmp_path / f"{i}.mp4", noise_frames(4, seed=i))
        videos.append(Video(key=f"k{i}", path=f"{i}.mp4", root=str(tmp_path), caption=f"number {i}"))
    write_manifest(tmp_path / "two.jsonl", videos[:2])
    write_manifest(tmp_path / "three.jsonl", [*videos[:2], replace(videos[2], caption=("two", "again"))])
    data = tmp_path / "data"
    pack(tmp_path / "two.jsonl", data, short_side=16, workers=1, columns=("rgb", "text"))
    before = (data / "text/000000.tar").read_bytes()
    append(tmp_path / "three.jsonl", data, workers=1)
    complete(Job(url=str(data), workers=1), Local(), ignore)
    assert read_meta(str(data)).columns["text"].folder == "text" and (data / "text/000000.tar").read_bytes() == before
    assert texts(data) == [("number 0",), ("number 1",), ("two", "again")]
    assert not list(check(data)) and not stale_columns(data)


def test_a_shard_that_was_made_from_other_captions_is_not_put_in_force(dest, tmp_path):
    add_text(dest, workers=1)
    give(dest, tmp_path / "new.jsonl", {"video_005": "late"})
    add_text(dest, workers=1)
    folder = dest / read_meta(open_storage(dest)).columns["text"].folder
    receipt = json.loads((folder / "000001.json").read_text())
    receipt["sources"]["captions"] = "00" * 32
    (folder / "000001.json").write_text(json.dumps(receipt))
    with pytest.raises(DataError, match="made from other captions than there is now"):
        finalize_column(
            open_storage(dest), "text", kind="text", folder=folder.name, producer="vidprep text", sources=("captions",)
        )


def test_what_cannot_be_made(tmp_path):
    bare = build_dataset(tmp_path / "bare", samples=3, frames=3)
    give(bare, tmp_path / "none.jsonl", {f"video_{i:03d}": None for i in range(3)})
    with pytest.raises(UserError, match=r"no sample of .* has a caption.*vidprep annotate .*FILE"):
        add_text(bare, workers=1)
    with pytest.raises(UserError, match="no column 'text'.*make it with vidprep text"):
        open_dataset(bare, columns=("rgb", "text"))
    full = build_dataset(tmp_path / "full", samples=3, frames=3)
    with pytest.raises(UserError, match="column rgb of kind rgb, which a text column would replace"):
        add_text(full, column="rgb", workers=1)
    with pytest.raises(UserError, match="would be taken for the captions of the sample table"):
        add_text(full, column="captions", workers=1)
    add_text(full, column="text-b", workers=1)
    with pytest.raises(UserError, match="text-b of kind text, which a flow column would replace"):
        add_flow(full, column="text-b", backend="numba", workers=1)
    data = open_dataset(full, columns=("rgb", "text-b"))
    with pytest.raises(UserError, match="holds texts, not tables"):
        data.clip_table(0, column="text-b")
    with pytest.raises(UserError, match="holds no captions; vidprep text"):
        data.captions([0], column="rgb")


def test_damage_is_found_and_mended(dest):
    add_text(dest, workers=1)
    tar = dest / "text/000000.tar"
    whole = tar.read_bytes()
    at = whole.index(b"caption of 0")
    tar.chmod(0o644)
    tar.write_bytes(whole[:at] + b"x" + whole[at + 1 :])
    with pytest.raises(DataError, match="sample video_000.*checksum"):
        texts(dest)
    assert {problem.key for problem in check(dest)} == {None, "video_000"}
    report = repair(dest, workers=1)
    assert not report.problems and tar.read_bytes() == whole
    index = dest / "text/000001.idx"
    kept = index.read_bytes()
    index.unlink()
    report = repair(dest, workers=1)
    assert not report.problems and index.read_bytes() == kept


def test_operations_copy_captions_with_their_samples(dest, tmp_path):
    add_text(dest, workers=1)
    other = build_dataset(tmp_path / "other", samples=4, frames=5)
    add_text(other, workers=1)
    merge([dest, other], tmp_path / "both", prefixes=["a_", "b_"])
    assert texts(tmp_path / "both") == [*texts(dest), *texts(other)] == texts(tmp_path / "both", None)
    subset(dest, tmp_path / "part", columns=["rgb", "text"], fraction=0.5)
    reshard(dest, tmp_path / "small", shard_size=20_000)
    split(dest, tmp_path / "parts", by="class")
    for made in ("both", "part", "small", "parts/run", "parts/walk"):
        place = tmp_path / made
        assert not list(check(place)) and not stale_columns(place)
        assert texts(place) == texts(place, None)
        before = sorted(path.name for path in place.iterdir())
        add_text(place, workers=1)  # nothing to do
        assert sorted(path.name for path in place.iterdir()) == sorted({*before, "plan-text.json"})
    give(dest, tmp_path / "new.jsonl", {"video_005": "late"})
    with pytest.raises(UserError, match="column text .*stale: captions changed since"):
        subset(dest, tmp_path / "stale", fraction=0.5)


def test_several_captions_go_out_and_come_back(dest, tmp_path):
    assert run(["export", str(dest), str(tmp_path / "tars"), "--to", "webdataset-frames"]) == 0
    samples = webdataset.WebDataset(str(tmp_path / "tars/000000.tar"), shardshuffle=False)
    assert {s["__key__"]: s.get("txt") for s in samples}["video_001"].decode().split("\n") == list(CLEAN)
    assert run(["index-shards", str(tmp_path / "tars"), "-o", str(tmp_path / "back")]) == 0
    assert texts(tmp_path / "back", None) == texts(dest, None)
    add_text(tmp_path / "back", workers=1)  # also beside others' tars
    assert texts(tmp_path / "back") == texts(dest, None)


def test_preview_draws_captions(dest):
    add_text(dest, workers=1)
    plain = contact_sheet(open_dataset(dest), count=2)
    drawn = contact_sheet(open_dataset(dest), columns=("rgb", "text"), count=2)
    assert drawn.shape[0] > plain.shape[0] and np.ptp(drawn) > 0


def test_lines_of_captions():
    assert captions.lines(["", " \n\t", "a\n", "b\x0bc", "\ud800d"]) == ("a", "b c", "?d")
    for texts in (["\ufeffa", "\ufeffb"], ["\ufeff"]):  # the mark at the beginning of a file is none of its text
        assert captions.decode(captions.encode(texts)) == captions.lines(texts)
    assert captions.decode("\ufeffa\r\n\n b ".encode()) == ("a", "b")
    assert captions.decode(captions.encode(SEVERAL)) == CLEAN
    assert captions.sha256([("a", ("b",)), ("c", ())]) != captions.sha256([("a", ()), ("c", ("b",))])
