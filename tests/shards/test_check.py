"""`check` finds every kind of damage and says where it is."""

import json

import pytest

from shards.check import check
from shards.dataset import open_dataset
from shards.errors import DataError, UserError
from shards.finalize import finalize
from shards.samples import annotate
from tests.shards.test_dataset import flip, frame_offset


@pytest.fixture
def dest(tiny_dataset):
    return tiny_dataset(samples=7, frames=(5, 9), per_shard=3)


def test_a_whole_data_set_has_no_problem(dest):
    assert list(check(dest)) == []


def test_every_flipped_byte_is_found(dest):
    """One bit in each of many places of every file but plan and receipts' free text."""
    for path in sorted(
        [*dest.glob("rgb/*.tar"), *dest.glob("rgb/*.idx"), dest / "rgb/index.bin", *dest.glob("samples.*")]
    ):
        size = path.stat().st_size
        for offset in {0, 13, size // 3, size // 2, size - 1}:
            flip(path, offset)
            found = list(check(dest))
            assert found, f"{path.name} at {offset}"
            flip(path, offset)
    assert list(check(dest)) == []


def test_a_flipped_frame_is_named(dest):
    flip(dest / "rgb/000001.tar", frame_offset(dest, 4, 2))
    problems = list(check(dest))
    assert [(p.file, p.shard, p.key) for p in problems] == [
        ("rgb/000001.tar", 1, None),
        ("rgb/000001.tar", 1, "video_004"),
    ]
    assert "SHA-256" in problems[0].message and "frames 2 do not agree" in problems[1].message
    assert f"remove {dest}/rgb/000001.json" in problems[1].command
    assert str(problems[1]).startswith("rgb/000001.tar, sample video_004: ")


def test_a_truncated_tar_is_named_with_its_samples(dest):
    path = dest / "rgb/000000.tar"
    path.write_bytes(path.read_bytes()[: frame_offset(dest, 1, 3)])
    problems = list(check(dest))
    assert {p.shard for p in problems} == {0}
    assert {p.key for p in problems} == {None, "video_001", "video_002"}
    assert any("instead of" in p.message for p in problems) and any("not a whole tar" in p.message for p in problems)


@pytest.mark.parametrize(
    "name", ["rgb/000002.tar", "rgb/000002.idx", "rgb/000002.json", "rgb/index.bin", "samples.bin"]
)
def test_missing_files(dest, name):
    (dest / name).unlink()
    (problem,) = check(dest)
    assert problem.file.startswith(name.partition(".")[0]) and "does not exist" in problem.message
    assert str(problem).count("run the same vidprep pack command") == 1
    if name.startswith("rgb/000002"):
        assert problem.shard == 2


def test_a_sample_table_edited_by_hand_can_be_saved(dest, tmp_path):
    edited = tmp_path / "EDITED.jsonl"
    edited.write_text((dest / "samples.jsonl").read_text().replace('"walk"', '"stroll"'))
    (dest / "samples.jsonl").write_text(edited.read_text())
    with pytest.raises(DataError, match=r"changed after.*EDITED\.jsonl, remove dataset\.json.*vidprep annotate"):
        open_dataset(dest)
    (dest / "dataset.json").unlink()
    finalize(dest)
    annotate(dest, edited)
    assert "stroll" in open_dataset(dest).classes and not list(check(dest))


def test_exchanged_shards(dest):
    for extension in ("tar", "idx", "json"):
        first, second = dest / f"rgb/000000.{extension}", dest / f"rgb/000001.{extension}"
        a, b = first.read_bytes(), second.read_bytes()
        first.write_bytes(b)
        second.write_bytes(a)
    assert {problem.shard for problem in check(dest)} == {0, 1}


def test_the_index_of_another_tar(dest, tiny_dataset):
    other = tiny_dataset(samples=7, frames=(5, 8), per_shard=3)
    for extension in ("idx", "json"):
        (dest / f"rgb/000001.{extension}").write_bytes((other / f"rgb/000001.{extension}").read_bytes())
    messages = [problem.message for problem in check(dest)]
    assert any("not the index that index.bin was made from" in message for message in messages)
    assert any("SHA-256 is not that of the receipt" in message for message in messages)


def test_a_sample_table_that_does_not_fit(dest):
    path = dest / "dataset.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "classes": meta["classes"][::-1]}))
    assert {problem.key for problem in check(dest)} == {f"video_{i:03d}" for i in range(7)}


def test_wrong_counts(dest):
    path = dest / "dataset.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "shards": 2}))
    assert any("dataset.json says 7 in 2" in problem.message for problem in check(dest))


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match="not a packed data set"):
        list(check(tmp_path))
