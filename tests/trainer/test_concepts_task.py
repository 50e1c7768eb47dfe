"""The task concepts: what it asks for, what it minimises in which epoch, what it remembers, what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from shards.errors import UserError
from shards.spec import ClipSpec
from tests.trainer.batches import make_batch
from tests.trainer.toys import assert_same_weights, start_vidprep
from trainer.config import DataConfig, load_recipe
from trainer.models import build_backbone
from trainer.tasks import build_task
from trainer.tasks.concepts import losses
from trainer.tasks.concepts.views import DRAWS
from trainer.testing import SMALL, check_task, generate

DATA = DataConfig(frames=4, resize=(40, 48), crop=24, area=(0.5, 1.0))
C = 6


def concepts(data=DATA, backbone="r3d-vcop", **options):
    torch.manual_seed(0)
    options = {"concepts": C, "active": 4, "queue": 10, **options}
    return build_task("concepts", backbone=build_backbone(backbone, base_width=2), data=data, options=options)


def batch_of(task, *, epoch=0.0, videos=4, seed=0):
    return replace(make_batch(task.spec, videos=videos, seed=seed), step=int(epoch * 8), steps_per_epoch=8)


def step(task, batch, optimizer=None):
    """A training step as the engine makes it; gives scalars and gradients as the optimiser sees them."""
    scalars = task(batch)
    scalars["loss"].backward()
    task.before_step(batch.step)
    gradients = {name: p.grad for name, p in task.named_parameters()}
    if optimizer is not None:
        optimizer.step()
    task.zero_grad(set_to_none=True)
    task.after_step(batch.step)
    return scalars, gradients


def test_it_asks_for_both_clips_once_and_uncut():
    spec = concepts(data=DATA.model_copy(update={"flip": 0.3}), rate=2.5).spec
    assert spec == ClipSpec(frames=8, rates=(1.0, 2.5), resize=(40, 48), flip=0.0, draws=DRAWS)


def literal_loss(task, batch, *, epoch, queue):
    """reference/concepts.md section 6.6, written out; the task is in eval mode."""
    pooled, maps = [], []
    for view in task.six_views(batch).unbind(1):
        features = task.backbone(view)
        pooled.append(features.pooled)
        maps.append(features.last)
    h, static, dynamic = task.heads, slice(0, C), slice(C, 2 * C)
    embed = torch.nn.functional.normalize
    scores = []
    for v, view in enumerate(pooled):
        head, bank = ((h.fv, h.prototype), (h.fs, h.prototype_s), (h.fd, h.prototype_d))[v // 2]
        scores.append(embed(head(view), dim=1) @ bank.weight.T)
    scores = torch.stack(scores, dim=1)

    def c(query, key):
        return losses.instance_contrast(query, key, first=0, temperature=0.07)

    (r1, r2, f1, f2, d1, d2), both = pooled, []
    both.append(c(h.fvv(r1), h.fvv(r2)) + c(h.fvv(r2), h.fvv(r1)))
    for rgb, other, o1, o2 in ((h.fvs, h.fsv, f1, f2), (h.fvd, h.fdv, d1, d2)):
        both.append(c(rgb(r1), other(o2)) + c(rgb(r2), other(o1)) + c(other(o1), rgb(r2)) + c(other(o2), rgb(r1)))
    instance = sum(both) / 2
    every = scores.detach() if queue is None else torch.cat([scores.detach(), queue])
    align = 0.0
    for views, concept in (([0, 1, 2, 3], static), ([0, 1, 4, 5], dynamic)):
        target = losses.sinkhorn(every[:, views, concept], epsilon=0.05, iterations=3)[: len(scores)]
        align = align + losses.alignment(scores[:, views, concept], target, temperature=0.1)
    entropy = sum(
        losses.negative_entropy(scores[:, views, concept], temperature=0.1)
        for views, concept in (([4, 5], static), ([2, 3], dynamic))
    )
    rebuilt, local = 0.0, 0.0
    for k, (g, bank, concept) in enumerate(
        ((h.gv, h.prototype, slice(None)), (h.gs, h.prototype_s, static), (h.gd, h.prototype_d, dynamic))
    ):
        pair = [2 * k, 2 * k + 1]
        rebuilt = rebuilt + sum(losses.reconstruction(g(scores[:, v, concept]), pooled[v]) for v in pair) / 2
        mine = scores[:, pair, concept]
        active = losses.top_concepts(mine, above=4)
        u = torch.stack([h.lit(maps[v], bank.weight[concept]) for v in pair], dim=1)
        local = local + losses.local_contrast(u, u, active, terms=2 * active.sum() + 1, first=0, margin=1.4)
    parts = {
        "instance_loss": instance,
        "alignment_loss": align,
        "entropy_loss": entropy,
        "reconstruction_loss": rebuilt,
        "local_loss": local if epoch >= 10 else torch.zeros(()),
    }
    return {"loss": instance + align + 0.1 * entropy + rebuilt + parts["local_loss"], **parts}


@pytest.mark.parametrize(("epoch", "backbone"), [(0, "r3d-vcop"), (9.9, "c3d-bn"), (10, "r21d-vcop")])
def test_the_loss_is_the_references(epoch, backbone):
    task = concepts(backbone=backbone, data=DATA.model_copy(update={"frames": 16, "crop": (32, 40)}))
    task.queue.mul_(0.2)
    task.queued.fill_(10)
    task.eval()
    task._epoch = epoch
    batch = batch_of(task, epoch=epoch)
    scalars = task(batch)
    expected = literal_loss(task, batch, epoch=epoch, queue=task.queue if epoch >= 1 else None)
    assert list(scalars) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(scalars[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_weights():
    options = {
        "instance_weight": 2,
        "alignment_weight": 3,
        "entropy_weight": 4,
        "reconstruction_weight": 5,
        "local_weight": 6,
    }
    task = concepts(**options, local_from=0)
    scalars = task(batch_of(task))
    total = sum(factor * scalars[name.replace("weight", "loss")] for name, factor in options.items())
    torch.testing.assert_close(scalars["loss"], total)
    assert scalars["local_loss"] > 0


def test_what_is_not_learnt_yet_does_not_move():
    task = concepts()
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2, weight_decay=1e-2)
    banks = [name for name, _ in task.named_parameters() if "prototype." in name or "prototype_" in name]
    lit = [name for name, _ in task.named_parameters() if ".lit." in name]
    assert len(banks) == 3 and len(lit) == 13
    start = {name: p.detach().clone() for name, p in task.named_parameters()}

    def moved(names):
        now = dict(task.named_parameters())
        return [not torch.allclose(now[name], start[name], atol=1e-6) for name in names]

    for epoch, learnt in ((0, []), (0.9, []), (1, banks), (9.9, banks), (10, banks + lit)):
        scalars, gradients = step(task, batch_of(task, epoch=epoch), optimizer)
        assert {name for name, grad in gradients.items() if grad is None} == {*banks, *lit} - {*learnt}
        assert (scalars["local_loss"] != 0) == (epoch >= 10)
        assert all(moved(learnt)) and not any(moved({*banks, *lit} - {*learnt}))
        for name in banks:
            lengths = dict(task.named_parameters())[name].norm(dim=1)
            torch.testing.assert_close(lengths, torch.ones(2 * C))


def test_the_queue_holds_the_newest_scores():
    task = concepts()
    assert task.queued == 0
    before, pushed = task.queue.clone(), []
    for number in range(3):
        batch = batch_of(task, seed=number)
        with torch.no_grad():
            task(batch)
        pushed.append(task._scores)
        task.after_step(number)
        assert task.queued == min(10, 4 * (number + 1))
    assert torch.equal(task.queue, torch.cat([before, *pushed])[-10:])
    wide = concepts(queue=3)
    with torch.no_grad():
        wide(batch_of(wide))
    scores = wide._scores
    wide.after_step(0)
    assert torch.equal(wide.queue, scores[-3:]) and wide.queued == 3


def test_validation_leaves_no_trace():
    task = concepts()
    step(task, batch_of(task, epoch=10))
    state = {name: value.clone() for name, value in task.state_dict().items()}
    task.eval()
    with torch.no_grad():
        scalars = task(batch_of(task, epoch=0, seed=1))
    task.after_step(80)
    assert scalars["local_loss"] > 0  # the losses of the training's epoch
    for name, value in task.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-7, msg=name)


def test_an_empty_queue_takes_no_part_and_a_noisy_one_does():
    empty, noisy = concepts(), concepts(queue_start="noise")
    assert torch.equal(empty.queue, noisy.queue)
    batch = batch_of(empty, epoch=1)
    found = {}
    for name, task, epoch in (("batch", empty, 0), ("empty", empty, 1), ("noise", noisy, 1)):
        task.eval()
        task._epoch = epoch
        found[name] = task(batch)["alignment_loss"].item()
    assert found["empty"] == pytest.approx(found["batch"], rel=1e-5)
    assert abs(found["noise"] - found["batch"]) > 1e-3


def test_a_threshold_in_place_of_ranks():
    task = concepts(threshold=0.3)
    scores = torch.tensor([[[0.5, 0.4, 0.0, 0.0], [0.5, 0.0, 0.4, 0.0]]])
    assert task.active(scores).tolist() == [[True, False, False, False]]
    few = concepts(concepts=2, threshold=0.3, active=10)  # active is of no matter then
    assert few(batch_of(few, epoch=10))["loss"].isfinite()


def test_views_are_a_function_of_the_batch():
    task = concepts(data=DATA.model_copy(update={"crop": (20, 28)}))
    batch = batch_of(task)
    one = task.six_views(batch)
    torch.manual_seed(99)
    assert torch.equal(one, task.six_views(batch))
    assert one.shape == (4, 6, 3, 4, 20, 28)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({}, {"concepts": 9, "active": 10}, r"fewer than the 10 .*task.concepts.*task.active"),
        ({"crop": None, "area": None}, {}, r"data.crop=128"),
        ({"jitter": {"hue": 0.1, "per_frame": True}}, {}, r"per_frame=false"),
        ({}, {"rate": 0.5}, "rate"),
        ({}, {"concept": 5}, "did you mean concepts"),
    ],
)
def test_what_is_refused(data, options, message):
    with pytest.raises(UserError, match=message):
        concepts(data=DataConfig(**{**DATA.model_dump(), **data}), **options)


def test_flow_is_refused():
    backbone = build_backbone("r3d-vcop", base_width=2, in_channels=2)
    with pytest.raises(UserError, match=r"in_channels is 2.*RGB"):
        build_task("concepts", backbone=backbone, data=DATA, options={})


JITTER = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.25}
EVERYTHING = {
    **SMALL,
    "name": "check",
    "task": {"name": "concepts", "concepts": 12, "queue": 12, "prototypes_from": 0, "queue_from": 0, "local_from": 0},
    "data": {**SMALL["data"], "frames": 4, "area": [0.5, 1.0], "jitter": JITTER},
}


def test_it_learns_resumes_and_shares_out_its_batch(tmp_path: Path):
    """With all losses on. On several processes batch normalisation aside (docs/from-the-references.md)."""
    check_task(EVERYTHING, tmp_path, overfit_steps=40)


@pytest.mark.slow
def test_two_processes_pass_through_all_epochs_and_resume_bit_for_bit(tmp_path: Path):
    """Parameters that are not learnt yet get gradients, which are dropped, so that no process waits for them."""
    data = generate(tmp_path / "data")
    task = {**EVERYTHING["task"], "prototypes_from": 1, "queue_from": 1, "local_from": 2}
    recipe = {**EVERYTHING, "task": task, "train": {**SMALL["train"], "steps": 6}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ["train", str(file), "--data", str(data), "--device", "cpu", "--gpus", "2"]
    for run, options in ((whole, []), (parts, ["--max-time", "0s"]), (parts, ["--resume"])):
        process = start_vidprep(*common, "--out", str(run), *options)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert_same_weights(whole, parts)


def test_the_references_network_has_its_number_of_parameters():
    """18,013,805 with 50 concepts, of which 205,200 are an unused classifier."""
    recipe = load_recipe("concepts-ucf101")
    with torch.device("meta"):
        backbone = build_backbone("r21d-tv")
        task = build_task("concepts", backbone=backbone, data=recipe.data, options=recipe.task.options)
    assert sum(p.numel() for p in task.parameters()) == 18_013_805 - 205_200
