"""What `vidprep train` says to input that does not go: the value, what is allowed, and the next command.

A loss that is not finite is in test_engine.py and test_skips.py, options of recipes in test_config.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shards.errors import UserError
from shards.samples import annotate
from shards.storage.local import LocalStorage
from tests.tiny import build_dataset
from tests.trainer.toys import THIS as TOYS
from tests.trainer.toys import start_vidprep, toy_recipe
from trainer.engine import train
from trainer.engine.checkpoint import checkpoint_paths
from trainer.engine.run import check_shares
from vidprep.derive import add_flow, add_labels, add_text

Make = Callable[..., Path]
QUICK: dict[str, Any] = {"backend": "numba", "nscales": 1, "warps": 1, "outer_iterations": 1, "inner_iterations": 2}
CONCEPTS = {"name": "concepts", "concepts": 6, "active": 3, "queue": 16, "projection": 8}
PLAIN: dict[str, Any] = {"data": {"jitter": None}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten samples of 20 frames, every second one with a caption; no column but rgb. To be read only."""
    return build_dataset(tmp_path_factory.mktemp("bad") / "data", samples=10, frames=20)


def refused(recipe: Any, data: Any, tmp_path: Path, **options: Any) -> str:
    """The error's text; the run folder is not made, so that the mended command needs no --resume."""
    out = tmp_path / "run"
    with pytest.raises(UserError) as error:
        train(recipe, data, out=out, device="cpu", **options)
    assert not out.exists()
    return str(error.value)


# Columns, labels, captions that a task needs


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"task": {"name": "statistics"}}, "vidprep labels {url} --crop 16 --window 4 --resize 18x20"),
        ({"task": {"name": "statistics", "labels": "online"}}, "vidprep flow {url}"),
        ({"task": {"name": "pace"}, "data": {"column": "flow", "jitter": None}}, "vidprep flow {url}"),
        (
            {"task": {"name": "joint", "tasks": {"pace": {}, "statistics": {"data": {"jitter": None}}}}},
            "vidprep labels {url} --crop 16 --window 4 --resize 18x20",
        ),
    ],
)
def test_a_missing_column_names_the_command_that_adds_it(
    url: Path, tmp_path: Path, changes: dict[str, Any], command: str
) -> None:
    text = refused(toy_recipe(**changes), url, tmp_path)
    assert f"{url} has no column" in text
    assert "it has: rgb" in text
    assert command.format(url=url) in text


def test_of_a_mixture_the_data_set_that_lacks_the_column_is_named(url: Path, tmp_path: Path) -> None:
    whole = build_dataset(tmp_path / "whole", samples=4, frames=20)
    add_flow(whole, **QUICK, workers=1)
    recipe = toy_recipe(task={"name": "statistics", "labels": "online"}, **PLAIN)
    assert f"vidprep flow {url}" in refused(recipe, [whole, url], tmp_path)


def test_missing_captions_name_their_number_a_key_and_annotate(url: Path, tmp_path: Path) -> None:
    text = refused(toy_recipe(task={"name": "cpd"}), url, tmp_path)
    assert re.search(r"5 of 10 samples have no caption, such as video_001.*vidprep annotate", text)


@pytest.mark.parametrize(("classes", "found"), [((), "has 0"), (("run",), "has 1: run")])
def test_missing_classes_name_annotate(tmp_path: Path, classes: tuple[str, ...], found: str) -> None:
    data = build_dataset(tmp_path / "data", classes=classes)
    text = refused(toy_recipe(task={"name": "classify"}), data, tmp_path)
    assert f"at least 2 classes; this one {found}" in text
    assert "vidprep annotate DEST FILE" in text


def test_a_table_of_other_clips_names_the_command_for_these(tmp_path: Path) -> None:
    data = build_dataset(tmp_path / "data", samples=4, frames=20)
    add_flow(data, **QUICK, workers=1)
    add_labels(data, crop=8, window=4, resize=(18, 20), stride=3, views=1, workers=1)
    text = refused(toy_recipe(task={"name": "statistics"}, **PLAIN), data, tmp_path)
    assert "made with --crop 8 --window 4" in text
    assert f"vidprep labels {data} --crop 16 --window 4 --resize 18x20 --column" in text
    assert "--set task.table=statistics-16x4" in text
    tasks = {"pace": {}, "sts": {"name": "statistics"}}
    text = refused(toy_recipe(task={"name": "joint", "tasks": tasks}, **PLAIN), data, tmp_path)
    assert "--set task.tasks.sts.table=statistics-16x4" in text


def told_of(data: Path, out: Path) -> list[str]:
    """The notes of a run on statistics."""
    notes: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        notes.extend([event["message"]] if event["event"] == "note" else [])

    recipe = toy_recipe(task={"name": "statistics"}, train={"steps": 1}, **PLAIN)
    train(recipe, data, out=out, device="cpu", on_event=listen)
    return notes


def test_a_table_of_flow_that_was_made_anew_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = build_dataset(tmp_path / "data", samples=4, frames=20)
    add_flow(data, **QUICK, workers=1)
    add_labels(data, crop=16, window=4, resize=(18, 20), stride=3, views=1, workers=1)
    assert told_of(data, tmp_path / "true") == []
    add_flow(data, **{**QUICK, "inner_iterations": 3}, workers=1)
    (note,) = told_of(data, tmp_path / "stale")
    assert note.startswith(f"{data}: column statistics was made from flow as before a change; make it anew with")
    monkeypatch.setattr(LocalStorage, "near", False)  # the index of flow, which is not in use, would have to come here
    assert told_of(data, tmp_path / "far") == []


def test_columns_that_are_no_longer_true_are_told(tmp_path: Path) -> None:
    """They are whole, so that training on them may be meant."""
    data = captioned(tmp_path)
    add_text(data)
    (tmp_path / "other.jsonl").write_text(json.dumps({"key": "video_000", "caption": "a bar stands still"}) + "\n")
    annotate(data, tmp_path / "other.jsonl")
    told: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        told.extend([event["message"]] if event["event"] == "note" else [])

    recipe = toy_recipe(task={"name": "cpd", "captions": "text"}, train={"steps": 1})
    train(recipe, data, out=tmp_path / "run", device="cpu", on_event=listen)
    remedy = f"make it anew with vidprep text {data} --column text"
    assert told == [f"{data}: column text was made from captions as before a change; {remedy}"]


# Videos that are shorter than the clips


RULES = [
    {"task": {"name": "classify"}, "data": {"when_short": rule}} for rule in ("window", "restart", "loop", "clamp")
]
RULES += [{"task": {"name": "classify"}, "data": changes} for changes in ({"fps": 60}, {"fps": 5}, {"cover": True})]
RULES += [{"task": {"name": "pace", "rule": rule}} for rule in ("window", "restart")]
RULES += [{"task": {"name": "rspnet", "queue": 10, "rule": rule}} for rule in ("window", "loop")]
RULES += [{"task": CONCEPTS, **PLAIN}]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 1, 2, 3 and 20 frames."""
    return build_dataset(tmp_path_factory.mktemp("short") / "data", samples=8, frames=(1, 2, 3, 20))


@pytest.mark.parametrize(
    "changes", RULES, ids=lambda it: "-".join(map(str, [*it["task"].values(), *it.get("data", {}).items()]))
)
def test_videos_of_one_frame_and_more_are_shown_by_every_rule(short: Path, tmp_path: Path, changes: Any) -> None:
    """Clips have 4 frames at strides of up to 4; no video is dropped."""
    recipe = toy_recipe(**changes, train={"steps": 4, "log_every": 1})
    result = train(recipe, short, out=tmp_path / "run", device="cpu")
    assert result.finished
    assert torch.isfinite(torch.tensor(result.log["loss"]))
    assert json.loads((result.run / "run.json").read_text())["data"]["samples"] == 8


def test_rules_that_a_task_decides_itself_are_named(url: Path, tmp_path: Path) -> None:
    for task, rule in (("pace", "window, restart"), ("rspnet", "window, loop")):
        text = refused(toy_recipe(task={"name": task}, data={"when_short": "clamp"}), url, tmp_path)
        assert f"data.when_short is 'clamp', but the task {task} decides this itself" in text
        assert f"set task.rule to one of: {rule}" in text


def test_an_unknown_rule_names_all(url: Path, tmp_path: Path) -> None:
    text = refused(toy_recipe(data={"when_short": "drop"}), url, tmp_path)
    assert "'window', 'restart', 'loop' or 'clamp' (got 'drop')" in text


def test_videos_shorter_than_a_tables_window_are_left_out_and_counted(tmp_path: Path) -> None:
    data = build_dataset(tmp_path / "data", samples=8, frames=(3, 20))
    add_flow(data, **QUICK, workers=1)
    add_labels(data, crop=16, window=4, resize=(18, 20), stride=3, views=2, workers=1)
    events: list[dict[str, Any]] = []
    recipe = toy_recipe(task={"name": "statistics"}, train={"steps": 1}, **PLAIN)
    assert train(recipe, data, out=tmp_path / "run", device="cpu", on_event=events.append).finished
    told = next(event["message"] for event in events if event["event"] == "start")
    assert (
        f"4 samples of {data} (4 more have nothing in column rgb or statistics; vidprep info counts the reasons)"
        in told
    )


def test_where_all_videos_are_too_short_the_command_that_tells_why_is_named(tmp_path: Path) -> None:
    data = build_dataset(tmp_path / "data", samples=4, frames=3)
    add_flow(data, **QUICK, workers=1)
    add_labels(data, crop=16, window=4, resize=(18, 20), stride=3, views=2, workers=1)
    text = refused(toy_recipe(task={"name": "statistics"}, **PLAIN), data, tmp_path)
    assert "no sample of" in text
    assert f"4 failed in an open column; vidprep info {data} counts the reasons" in text


def test_frames_smaller_than_the_crop_name_the_pack_command(url: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"sample video_\d+: a crop of 40x40 does not fit.*vidprep pack --short-side 40"
    ):
        train(toy_recipe(data={"crop": 40}), url, out=tmp_path / "run", device="cpu")


# Batches larger than queues, and few concepts


def captioned(tmp_path: Path) -> Path:
    data = build_dataset(tmp_path / "captioned", samples=6, frames=20)
    lines = [json.dumps({"key": f"video_{i:03d}", "caption": f"a bar goes {i} steps"}) for i in range(6)]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    annotate(data, tmp_path / "captions.jsonl")
    return data


TOO_LARGE = r"a batch brings 4 keys and the queue holds 3: --set task.queue=4 or more, or --set train.batch=3 or less"


@pytest.mark.parametrize("task", [{"name": "rspnet", "queue": 3}, {"name": "cpd", "loss": "infonce", "queue": 3}])
def test_a_batch_larger_than_the_queue_is_refused_before_there_is_a_run(task: dict[str, Any], tmp_path: Path) -> None:
    assert TOO_LARGE in refused(toy_recipe(task=task), captioned(tmp_path), tmp_path)


def test_the_queue_of_a_task_among_others_is_checked_too(url: Path, tmp_path: Path) -> None:
    tasks = {"pace": {}, "rspnet": {"queue": 3}}
    told = TOO_LARGE.replace("task.queue", "task.tasks.rspnet.queue")
    assert told in refused(toy_recipe(task={"name": "joint", "tasks": tasks}), url, tmp_path)


def test_a_queue_of_concepts_may_be_smaller_than_the_batch(url: Path, tmp_path: Path) -> None:
    """It holds the newest rows of scores, which no row has to find again: a part of the batch then."""
    recipe = toy_recipe(task={**CONCEPTS, "queue": 3, "queue_from": 0}, train={"steps": 3}, **PLAIN)
    assert train(recipe, url, out=tmp_path / "run", device="cpu").finished


def test_fewer_concepts_than_the_active_set_names_both_options(url: Path, tmp_path: Path) -> None:
    text = refused(toy_recipe(task={"name": "concepts", "concepts": 6}, **PLAIN), url, tmp_path)
    assert "concepts is 6, fewer than the 10 that active ranks" in text
    assert "set task.concepts to at least 10, or task.active to at most 6" in text


# Checkpoints of something else


@pytest.fixture(scope="module")
def run(url: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pace on r3d-vcop, 2 steps; to be read only."""
    return train(toy_recipe(train={"steps": 2}), url, out=tmp_path_factory.mktemp("runs") / "pace", device="cpu").run


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": {"name": "classify"}}, "task.name: pace → classify"),
        ({"task": {"name": "rspnet", "queue": 8}}, "task.name: pace → rspnet"),
        ({"backbone": {"name": "c3d-bn", "base_width": 1}}, "backbone.name: r3d-vcop → c3d-bn"),
        ({"backbone": {"base_width": 2}}, "backbone.base_width: 1 → 2"),
    ],
)
def test_resuming_another_task_or_backbone_names_the_change_and_init(
    url: Path, run: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError) as error:
        train(toy_recipe(train={"steps": 2}, **changes), url, out=run, resume=True, device="cpu")
    text = str(error.value)
    assert f"{run} cannot go on at step 2" in text
    assert named in text
    assert f"--out OTHER (--init {run} starts from its weights)" in text


@pytest.mark.parametrize("source", ["run", "weights", "checkpoint"])
@pytest.mark.parametrize("backbone", [{"name": "r21d-vcop", "base_width": 1}, {"name": "r3d-vcop", "base_width": 2}])
def test_init_with_another_backbone_is_a_table(
    url: Path, run: Path, tmp_path: Path, source: str, backbone: dict[str, Any]
) -> None:
    start = {"run": run, "weights": run / "weights.safetensors", "checkpoint": newest(run)}[source]
    out = tmp_path / "run"
    with pytest.raises(UserError) as error:
        train(toy_recipe(backbone=backbone), url, out=out, init=start, device="cpu")
    text = str(error.value)
    assert "does not fit" in text
    assert re.search(r"\d+ of \d+ entries match, \d+ missing, \d+ unexpected, \d+ other shape", text)
    assert "Set the backbone's name and options to those of the" in text


def test_init_takes_the_backbone_of_another_task(url: Path, run: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(task={"name": "classify"}, train={"steps": 1})
    assert train(recipe, url, out=tmp_path / "run", init=run, device="cpu").finished


def newest(run: Path) -> Path:
    return checkpoint_paths(run / "checkpoints")[-1]


def test_files_inside_a_checkpoint_name_the_folder(url: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"whole task of a checkpoint; give the checkpoint's folder, {newest(run)}"):
        train(toy_recipe(), url, out=tmp_path / "run", init=newest(run) / "model.safetensors", device="cpu")
    with pytest.raises(UserError, match=f"is a checkpoint of the run {run}: --out {run} --resume goes on"):
        train(toy_recipe(), url, out=newest(run), resume=True, device="cpu")


# Other numbers of processes


@pytest.mark.parametrize(
    ("batch", "world", "remedy"),
    [
        (4, 3, "--gpus 2 or 4, or another run with --set train.batch=3 or 6"),
        (10, 4, "--gpus 2 or 5, or another run with --set train.batch=8 or 12"),
        (2, 8, "--gpus 2, or another run with --set train.batch=8"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_names_what_can(batch: int, world: int, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        check_shares(batch, world)
    assert f"train.batch is {batch}, of all processes together" in str(error.value)
    assert remedy in str(error.value)
    check_shares(batch, 2)


def test_an_error_of_all_processes_is_told_once(url: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(toy_recipe(train={"batch": 5})))
    out = tmp_path / "run"
    process = start_vidprep(
        "train", str(tmp_path / "r.yaml"), "--data", str(url), "--out", str(out), "--device", "cpu", "--gpus", "2"
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("error: train.batch is 5, of all processes together, and cannot be shared out to 2") == 1, (
        output
    )
    assert "--gpus 1 or 5, or another run with --set train.batch=4 or 6" in output
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["r3d-vcop", "plain"])
def test_resuming_on_another_number_of_processes_says_what_it_means(url: Path, tmp_path: Path, backbone: str) -> None:
    """The global batch stays as it is (tests/trainer/test_two_ranks.py has what is learnt from it)."""
    networks: dict[str, Any] = {
        "r3d-vcop": {"name": "r3d-vcop", "base_width": 1},
        "plain": {"name": f"{TOYS}:Plain"},
    }
    recipe = toy_recipe(backbone=networks[backbone], train={"steps": 4})
    run = train(recipe, url, out=tmp_path / "run", device="cpu", overrides=["train.steps=2"]).run
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    process = start_vidprep(
        "train", str(tmp_path / "r.yaml"), "--data", str(url), "--out", str(run), "--device", "cpu", "--gpus", "2",
        "--resume",
    )  # fmt: skip
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    norm = "each process normalises by its own share of a batch; equal up to rounding but for that"
    assert f"world: 1 → 2 ({'equal up to rounding' if backbone == 'plain' else norm})" in output
    assert "going on at step 2 of 4" in output
