"""The RSPNet task: what it asks for, what it minimises, what moves and what does not, what it refuses."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from shards.errors import UserError
from tests.trainer.batches import make_batch
from tests.trainer.toys import THIS, newest_tensors, toy_recipe
from trainer.augment import augment
from trainer.config import DataConfig, load_recipe
from trainer.data.batch import Batch
from trainer.engine import train
from trainer.engine.launch import launch
from trainer.models import build_backbone
from trainer.tasks import build_task
from trainer.testing import check_task

DATA = DataConfig(frames=8, resize=(36, 44), crop=24, area=(0.4, 1.0), jitter={"hue": 0.4, "grey": 0.2})


def rspnet(data=DATA, backbone="r3d-vcop", **options):
    torch.manual_seed(0)
    network = build_backbone(backbone, base_width=2)
    return build_task("rspnet", backbone=network, data=data, options={"queue": 24, **options})


def batch_of(task, **options) -> Batch:
    """`make_batch` with clips of random areas shown as noise of the crop's size."""
    return make_batch(replace(task.spec, area=None), **options)


def test_it_asks_for_one_clip_and_another_at_both_speeds():
    spec = rspnet().spec
    assert (spec.clips, spec.strides, spec.windows, spec.deal) == (3, (1, 2), (0, 1, 1), True)
    assert (spec.stride_rows, spec.when_short) == (((0, 0, 1), (1, 1, 0)), "window")
    assert (spec.frames, spec.crop, spec.area, spec.jitter.grey) == (8, 24, (0.4, 1.0), 0.2)
    assert rspnet(draw="sample", rule="loop").spec == replace(spec, deal=False, when_short="loop")
    rows = rspnet(speeds=[2, 4]).spec.stride_rows
    assert rows == ((0, 0, 1), (1, 1, 0), (0, 0, 2), (2, 2, 0))


def unit(seed, shape, axis=1):
    rows = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=axis, keepdims=True))


@pytest.fixture
def embeddings():
    """Queries, keys and keys of the other speed, (8,2,128), and a queue (64,128), as the golden file makes them."""
    q_a, q_m, k_a, k_m, n_a, n_m = (unit(seed, (8, 128)) for seed in range(6))
    stacked = [torch.stack(pair, dim=1) for pair in ((q_a, q_m), (k_a, k_m), (n_a, n_m))]
    return *stacked, unit(6, (128, 64), axis=0).T


GOLDEN = {"total": 11.556888580322266, "appearance": 10.339115142822266, "motion": 1.217773199081421}


def test_losses_are_the_references(embeddings):
    queries, keys, negatives, queue = embeddings
    task = rspnet(projection=128, queue=64)
    task.queue.keys.copy_(queue)
    scalars = task.losses(queries, keys, negatives, torch.arange(8))
    assert scalars["loss"].item() == pytest.approx(GOLDEN["total"], rel=1e-5)
    assert scalars["appearance_loss"].item() == pytest.approx(GOLDEN["appearance"], rel=1e-5)
    assert scalars["motion_loss"].item() == pytest.approx(GOLDEN["motion"], rel=1e-5)


@pytest.mark.data
def test_the_facts_here_are_those_of_the_golden_file(research_data):
    golden = json.loads((research_data / "golden/losses/rspnet.json").read_text())
    assert {name: golden[name] for name in GOLDEN} == GOLDEN


def literal_losses(queries, keys, negatives, queue, options):
    """reference/rspnet.md section 6, term by term."""
    appearance, motion, t = 0.0, 0.0, options.temperature
    for q, k, n in zip(queries, keys, negatives, strict=True):
        for positive in (k[0], n[0]):
            logits = torch.stack([q[0] @ positive, *(q[0] @ key for key in queue)]) / t
            appearance = appearance - logits.log_softmax(0)[0] / len(queries)
        gap = options.margin - (q[1] @ k[1] - q[1] @ n[1]) / t
        motion = motion + (gap if gap > 0 else 0 * gap) / len(queries)
    return options.appearance_weight * appearance + options.motion_weight * motion, appearance, motion


def test_losses_and_gradients_are_those_of_a_loop(embeddings):
    queries, keys, negatives, queue = embeddings
    queries = queries.clone().requires_grad_()
    task = rspnet(projection=128, queue=64, appearance_weight=0.5, motion_weight=3, temperature=0.2, margin=1.0)
    task.queue.keys.copy_(queue)
    scalars = task.losses(queries, keys, negatives, torch.arange(8))
    expected = literal_losses(queries, keys, negatives, queue, task.options)
    for name, value in zip(("loss", "appearance_loss", "motion_loss"), expected, strict=True):
        assert scalars[name].item() == pytest.approx(value.item(), rel=1e-5)
    grads = [torch.autograd.grad(value, queries, retain_graph=True)[0] for value in (scalars["loss"], expected[0])]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "mlp", "conv", "convbn"])
def test_the_loss_of_a_batch_is_that_of_its_embeddings(head):
    task = rspnet(head=head, bn_groups=1).eval()
    batch = batch_of(task)
    scalars = task(batch)
    clips = augment(batch, task.backbone.convention)

    def embed(backbone, heads, v):
        features = backbone(clips[:, v])
        return torch.stack([functional.normalize(h(features), dim=1) for h in heads], dim=1)

    q = embed(task.backbone, task.heads, 0)
    k, n = (embed(task.key_backbone, task.key_heads, v) for v in (1, 2))
    expected = literal_losses(q, k, n, task.queue.keys, task.options)
    assert scalars["loss"].item() == pytest.approx(expected[0].item(), rel=1e-4)
    closer = [(q[i, 1] @ k[i, 1] > q[i, 1] @ n[i, 1]).item() for i in range(4)]
    assert scalars["motion_accuracy"].item() == pytest.approx(sum(closer) / 4)
    first = [(q[i, 0] @ k[i, 0] > (task.queue.keys @ q[i, 0]).max()).item() for i in range(4)]
    assert scalars["appearance_accuracy"].item() == pytest.approx(sum(first) / 4)


def test_gradients_reach_the_query_network_alone():
    task = rspnet()
    task(batch_of(task))["loss"].backward()
    moved = {name for name, p in task.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in task.named_parameters() if not name.startswith("key_")}
    # The bias before batch normalisation has no effect; everything else has.
    assert all(p.grad.abs().sum() > 0 for name, p in task.named_parameters() if name.startswith("heads."))


def test_a_step_moves_the_keys_and_fills_the_queue_with_keys_of_the_other_speed():
    task = rspnet(momentum=0.9, bn_groups=1)
    optimiser = torch.optim.SGD(task.backbone.parameters(), lr=0.5)
    batch = batch_of(task)
    seen = []
    hook = task.key_backbone.register_forward_hook(lambda _, clip, out: seen.append((clip[0], out.pooled)))
    before = {name: p.clone() for name, p in task.key_backbone.named_parameters()}
    task(batch)["loss"].backward()
    assert torch.equal(task.queue.place, torch.tensor(0))  # the loss still needs the queue as it was
    optimiser.step()
    task.after_step(0)
    hook.remove()
    for name, p in task.key_backbone.named_parameters():
        query = dict(task.backbone.named_parameters())[name]
        torch.testing.assert_close(p, 0.9 * before[name] + 0.1 * query)
    clips = augment(batch, task.backbone.convention)
    order = [int(np.argmin([(clip - c).abs().max() for c in clips[:, 2]])) for clip in seen[0][0]]
    torch.testing.assert_close(seen[0][0], clips[order, 2])  # first the other speed, shuffled
    with torch.no_grad():
        head = rspnet(momentum=0.9, bn_groups=1).key_heads[0]
        keys = functional.normalize(head.project(seen[0][1]), dim=1)
    torch.testing.assert_close(task.queue.keys[:4][order], keys)
    assert task.queue.owner[:5].tolist() == [0, 1, 2, 3, -1]
    assert int(task.queue.place) == 4


def test_looking_at_held_out_videos_leaves_no_trace():
    task = rspnet().eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task(batch_of(task, step=3))
    task.train().after_step(3)
    after = task.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_both_networks_begin_with_the_weights_that_the_backbone_was_given():
    task = rspnet()
    for p in task.backbone.parameters():
        p.data += 0.1
    task.begin()
    for p, q in zip(task.key_backbone.parameters(), task.backbone.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("batch", "groups", "better"), [(12, 4, 1), (20, 4, 1), (31, 2, None), (32, 4, None), (4, 1, None)]
)
def test_groups_of_few_clips_are_told(batch, groups, better):
    task = rspnet(queue=64, bn_groups=groups)
    task.check_batch(batch)
    assert len(task.notes) == (better is not None)
    if better is not None:
        assert f"leaves {batch // groups} clips a group" in task.notes[0]
        assert f"--set task.bn_groups={better}" in task.notes[0]


def test_keys_of_the_own_video_can_be_left_out():
    task = rspnet(negatives="others").eval()
    batch = batch_of(task)
    whole = task(batch)["appearance_loss"].item()
    with torch.no_grad():  # the query's own embedding as a negative would cost a lot
        clips = augment(batch, task.backbone.convention)
        own = functional.normalize(task.heads[0](task.backbone(clips[:, 0])), dim=1)
    task.queue.push(own, batch.sample)
    same = task.queue.keys.clone()
    left_out = task(batch)["appearance_loss"].item()
    task.queue.owner[:4] = -1
    counted = task(batch)["appearance_loss"].item()
    assert torch.equal(task.queue.keys, same)
    assert counted > left_out + 1 and math.isfinite(whole)


def test_in_half_precision_embeddings_stay_exact():
    task = rspnet(DATA.model_copy(update={"frames": 24})).eval()
    batch = batch_of(task)
    exact = task(batch)["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        half = task(batch)["loss"]
    assert half.dtype is torch.float32 and half.item() == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speeds": [1, 2]}, "slow clips have speed 1"),
        ({"speeds": []}, "at least 2"),
        ({"rule": "restart"}, "'window' or 'loop'"),
        ({"quue": 3}, "did you mean queue"),
        ({"momentum": 1.0}, "less than 1"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        rspnet(**options)


def test_the_rule_is_the_tasks_own():
    with pytest.raises(UserError, match=r"task\.rule"):
        rspnet(DATA.model_copy(update={"when_short": "loop"}))
    assert rspnet(DATA.model_copy(update={"when_short": "loop"}), rule="loop").spec.when_short == "loop"


def test_a_batch_larger_than_the_queue_is_refused():
    task = rspnet(queue=3)
    with pytest.raises(
        UserError, match=r"brings 4 keys and the queue holds 3: --set task.queue=4 or more, or --set tr"
    ):
        task(batch_of(task))


def test_it_learns_resumes_and_runs_on_two_processes(tmp_path: Path):
    # A short queue of other videos only: it is full of real keys after two steps, from when on the loss can fall.
    check_task("rspnet", tmp_path, overrides=["task.queue=8", "task.negatives=others", "data.area=[0.5, 1.0]"])


BOTH = """
import sys
from trainer.engine import train
train(sys.argv[1], sys.argv[2], out=sys.argv[3], device="cpu")
"""


@pytest.mark.parametrize("backbone", [{"name": "r3d-vcop", "base_width": 1}, {"name": f"{THIS}:Plain"}])
def test_two_processes_learn_what_one_learns(tiny_dataset, tmp_path, backbone):
    """With equal groups for batch statistics, which then are the same groups; running statistics alone differ: each
    process sees its own groups, and rank 0's are kept."""
    recipe = toy_recipe(
        task={"name": "rspnet", "queue": 10, "bn_groups": 2, "momentum": 0.8, "projection": 5},
        backbone=backbone,
        optim={"name": "sgd", "lr": 0.05},
        train={"batch": 4, "steps": 5, "save_every": 5},
    )
    data = tiny_dataset(samples=9, frames=20)
    one = train(recipe, data, out=tmp_path / "one", device="cpu").run
    file = tmp_path / "recipe.yaml"
    file.write_text(load_recipe(recipe).yaml())
    assert launch(["-c", BOTH, str(file), str(data), str(tmp_path / "two")], processes=2) == 0
    first, second = newest_tensors(one), newest_tensors(tmp_path / "two")
    assert first.keys() == second.keys()
    for name in first:
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=1e-5)
    assert second["queue.owner"].tolist() == first["queue.owner"].tolist() and int(first["queue.place"]) == 0


def test_both_networks_are_laid_out_alike_and_learn_the_same(tiny_dataset, tmp_path):
    recipe = toy_recipe(task={"name": "rspnet", "queue": 8}, backbone={"name": "c3d-bn", "base_width": 1})
    recipe["data"].update(frames=8, resize=[20, 24])
    data, short = tiny_dataset(frames=20), ["train.steps=2"]
    runs = [
        train(recipe, data, out=tmp_path / name, device="cpu", overrides=[*short, f"train.channels_last={name}"]).run
        for name in ("true", "false")
    ]
    one, other = map(newest_tensors, runs)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    assert [type(b).__name__ for b in rspnet().backbones] == ["ResNet3d", "ResNet3d"]
