"""The estimate of GPU memory: what it counts is what there is, and the numbers in the recipe files are its."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.samples import annotate
from tests.trainer.batches import make_batch
from trainer.config import Recipe, load_recipe
from trainer.engine.memory import batches_of, build, estimate_memory, measure, prepare
from trainer.engine.storages import HalfPools, Live, Storages, empty_tensors
from trainer.models import BACKBONES, build_backbone
from trainer.recipes.files import recipe_names
from trainer.tasks.cpd import Cpd
from trainer.tasks.cpd.text import BuiltinText

SMALL = ["backbone.base_width=4", "data.frames=8", "data.crop=32", "data.area=null", "data.jitter=null"]
QUICK = ("demo-pace", "pace-r3d", "finetune", "statistics-r21d")
AS_STORED = 0.02  # memory_gb has two or three digits, and torch's operations change from version to version


def small(name: str) -> Recipe:
    recipe = load_recipe(name, SMALL)
    changes = ["data.resize=[40,48]"] if recipe.data.resize is not None else []
    changes += ["data.resize_range=[36,40]"] if recipe.data.resize_range is not None else []
    options = recipe.task.options
    changes += [f"task.{key}=16" for key in ("queue", "negatives") if isinstance(options.get(key), int)]
    return load_recipe(recipe, changes + (["task.text=builtin"] if recipe.task.name == "cpd" else []))


@pytest.mark.parametrize(
    "name", ["pace-r3d", "rspnet-c3d", "concepts-ucf101", "finetune", "cpd-r50", "statistics-s3dg"]
)
def test_shapes_need_what_numbers_need(name: str) -> None:
    """Bytes saved for the backward pass, and at the worst moment: without contents, and with a pass that computes."""
    recipe = small(name)
    shaped, real = build(recipe), build(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True):
        empty_tensors(shaped)
        if isinstance(shaped, Cpd):
            prepare(shaped, 4)
        found = measure(shaped, batches_of(shaped.specs, 4), half=False)
    if isinstance(real, Cpd):
        prepare(real, 4)
    batch = replace(make_batch(real.spec, videos=4), step=10**6, steps_per_epoch=1)  # after every curriculum
    expected = measure(real, batch, half=False)
    for key, size in expected.items():
        assert found[key] == pytest.approx(size, rel=0.02), key
    assert found["weights"] == sum(p.nbytes for p in real.parameters() if p.requires_grad)
    assert found["step"] > found["saved"]


def test_what_a_pass_saves() -> None:
    """Of relu(x @ w): x, and the result, which the product made and relu overwrote."""
    w, x = torch.ones(3, 5, requires_grad=True), torch.ones(2, 3)
    saved = Storages()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        (x @ w).relu_()
    assert saved.bytes == 4 * (2 * 3 + 2 * 5)


def test_a_peak_is_the_largest_sum_of_what_lives() -> None:
    """Of 100 and 50 numbers made, the first freed before the last 70 are: 150, not 220."""
    live = Live()
    with live:
        first = torch.ones(100)
        second = first[:50].clone()
        del first
        third = torch.ones(70)
    assert live.peak == 4 * 150
    assert live.now == 4 * 120
    del second, third
    assert live.now == 0


@contextmanager
def autocast_of_cuda() -> Iterator[None]:
    """CUDA's list of operations, also where there is no CUDA."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def saved_by(name: str, device: str) -> int:
    backbone, saved = build_backbone(name), Storages()
    with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as stack:
        empty_tensors(backbone, device=device)
        clip = torch.empty(2, 3, 32, 224, 224, device=device)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor))
        if device == "cpu":
            stack.enter_context(HalfPools())
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        else:
            stack.enter_context(autocast_of_cuda())
        backbone(clip)
    return saved.bytes


@pytest.mark.parametrize("name", ["c3d-bn", "r21d-vcop", "s3dg-pace", "cpd-r50", "resnet3d-hara-18", "r21d-tv"])
def test_half_precision_is_that_of_a_gpu(name: str) -> None:
    assert saved_by(name, "cpu") == pytest.approx(saved_by(name, "cuda"), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_half_precision_is_that_of_a_gpu_for_every_backbone(name: str) -> None:
    assert saved_by(name, "cpu") == pytest.approx(saved_by(name, "cuda"), rel=1e-3)


def test_memory_follows_batch_and_gpus() -> None:
    recipe = load_recipe("pace-r3d")
    one, other = (estimate_memory(recipe, batch=batch, gpus=gpus) for batch, gpus in ((16, 1), (64, 2)))
    assert (one.exchange, other.exchange) == (0, one.weights)
    assert (one.weights, one.kept, one.optimizer) == (other.weights, other.kept, other.optimizer)
    assert one.optimizer == one.weights  # momentum
    assert other.step == pytest.approx(2 * one.step, rel=0.05)
    assert other.clips == pytest.approx(2 * one.clips, rel=0.05)
    full = estimate_memory(load_recipe("pace-r3d", ["train.precision=float32"]), batch=16, gpus=1)
    assert 1.5 < full.step / one.step < 2.1
    assert full.precision == "float32"


def test_what_is_gathered_counts() -> None:
    """Keys of rspnet are encoded among the clips of all processes."""
    recipe = load_recipe("rspnet-c3d", ["backbone.base_width=4", "data.crop=64", "data.frames=8", "task.bn_groups=1"])
    alone, among = (estimate_memory(recipe, batch=4 * gpus, gpus=gpus) for gpus in (1, 8))
    assert among.saved == pytest.approx(alone.saved, rel=0.01)
    assert among.step - alone.step > 0.5 * 32 * 3 * 8 * 64 * 64 * 4
    assert not torch.distributed.is_initialized()


def test_banks_follow_the_number_of_videos() -> None:
    recipe = load_recipe("cpd-r50", ["task.text=builtin", "backbone.base_width=4", "data.crop=64", "train.batch=8"])
    few, many = (estimate_memory(recipe, gpus=1, samples=samples) for samples in (1000, 2000))
    row = 2 * 256 * 4 + 64 * (4 + 1) + 3 * 8  # two entries, tokens and their mask, three numbers
    assert many.kept - few.kept == 1000 * row
    assert few.samples == 1000
    assert estimate_memory(load_recipe("demo-pace")).samples is None


def test_banks_are_those_of_the_task(tiny_dataset: Callable[..., Path], tmp_path: Path) -> None:
    """For captions of full length."""
    recipe = load_recipe(small("cpd-r50"), ["task.most_tokens=8"])
    url = tiny_dataset()
    dataset = open_dataset(url)
    keys = [dataset.key(sample) for sample in range(len(dataset))]
    lines = [json.dumps({"key": key, "caption": "a bar goes on and on and on and on"}) for key in keys]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    annotate(url, tmp_path / "captions.jsonl")
    real, shaped = build(recipe), build(recipe)
    real.prepare(open_dataset(url), np.arange(len(keys)))
    assert isinstance(shaped, Cpd)
    prepare(shaped, len(keys))
    sizes = []
    for task in (real, shaped):
        # The task itself holds captions apart from its buffers, which are sent between processes.
        captions = [(name, getattr(task, name)) for name in ("ids", "mask", "first", "count", "place")]
        tensors = (*task.named_buffers(), *task.named_parameters(), *captions)
        sizes.append({name: tensor.nbytes for name, tensor in tensors})
    assert sizes[0] == sizes[1]


def test_clips_have_the_channels_of_the_backbone() -> None:
    """Two for flow, of a byte each."""
    small = ["backbone.base_width=2", "data.crop=32"]
    rgb = estimate_memory(load_recipe("pace-r3d", small), batch=4)
    flow = estimate_memory(load_recipe("pace-r3d", [*small, "data.column=flow", "backbone.in_channels=2"]), batch=4)
    assert rgb.clips - flow.clips == 2 * (4 * 16 * 32 * 32 - 4 * 2 * 4)  # less the length of a step in both planes


def test_text_encoders_within_a_joint_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only cpd's `text` is one; a mistake in the recipe is told as in training."""
    made: list[str] = []

    class Encoder(BuiltinText):
        def __init__(self, name: str) -> None:
            super().__init__(width=16)
            made.append(name)

    monkeypatch.setattr("trainer.engine.memory._OfConfig", Encoder)
    tree = {**small("pace-r3d").tree(), "task": {"name": "joint", "tasks": {"pace": {}}}}
    inner = {"name": "joint", "tasks": {"words": {"name": "cpd", "text": "far/away"}}}
    task = build(load_recipe({**tree, "task": {"name": "joint", "tasks": {"pace": {}, "inner": inner}}}))
    assert made == ["far/away"]
    cpd = task.get_submodule("tasks.inner.tasks.words")
    assert isinstance(cpd, Cpd) and isinstance(cpd.text, Encoder) and cpd.text_head[0].in_features == 16
    with pytest.raises(UserError, match="tasks.pace: Input should be a valid dictionary"):
        build(load_recipe({**tree, "task": {"name": "joint", "tasks": {"pace": None}}}))


def test_what_it_says() -> None:
    lines = estimate_memory(load_recipe("demo-pace"), batch=32, gpus=2).lines()
    assert "estimate from shapes: 16 videos a step (32 on 2)" in lines[0]
    assert "GB  in all" in lines[1]


def test_mistakes_are_errors() -> None:
    with pytest.raises(UserError, match="3 GPUs cannot share a batch of 32"):
        estimate_memory(load_recipe("demo-pace"), gpus=3)
    with pytest.raises(UserError, match=r"nowhere cannot be told here.*task.text=builtin"):
        estimate_memory(load_recipe("cpd-r50", ["task.text=/nowhere"]))


def check_stored(name: str) -> None:
    recipe = load_recipe(name)
    stored, found = recipe.about.memory_gb, estimate_memory(recipe).total / 1e9
    assert stored is not None, f"about.memory_gb of {name} is missing: it is {found:.2g}"
    assert stored == pytest.approx(found, rel=AS_STORED, abs=0.06), f"about.memory_gb of {name}: it is {found:.3g} now"


@pytest.mark.parametrize("name", QUICK)
def test_the_file_has_the_estimate(name: str) -> None:
    check_stored(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in QUICK])
def test_every_file_has_the_estimate(name: str) -> None:
    check_stored(name)
