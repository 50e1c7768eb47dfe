"""Checks that any task should pass, one's own too: it learns, it resumes, it runs on several processes.

from trainer.testing import check_task

def test_my_task(tmp_path):
    check_task("my_task.py:MyTask", tmp_path)
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from shards import jpeg
from shards.dataset import open_dataset
from shards.finalize import finalize
from shards.plan import Entry, write_plan
from shards.storage import open_storage
from shards.tarwriter import ShardWriter
from trainer.config import Recipe, load_recipe
from trainer.engine import train
from trainer.engine.build import loader_of, task_of
from trainer.engine.checkpoint import MODEL, checkpoint_paths
from trainer.engine.distributed import Ranks, open_ranks
from trainer.engine.launch import launch
from trainer.engine.runs import CHECKPOINTS
from trainer.tasks import TASKS

SMALL: Mapping[str, Any] = {
    "backbone": {"name": "r3d-vcop", "base_width": 2},
    "data": {"frames": 8, "resize": [32, 40], "crop": 24, "workers": 0, "threads": 1},
    "optim": {"name": "adamw", "lr": 3e-3},
    "train": {"batch": 4, "steps": 4, "save_every": 2, "log_every": 2, "keep": 9, "precision": "float32"},
}
_SIZE, _FRAMES, _CLASSES = (32, 40), 24, ("left", "right")


def check_task(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    folder: Path,
    *,
    data: str | Path | None = None,
    overrides: Sequence[str] = (),
    overfit_steps: int = 60,
    falls_to: float = 0.5,
) -> None:
    """Run the three checks below on a small generated data set.

    Args:
        recipe: a recipe, or a task alone (`pace`, `file.py:Name`), which is then trained with the recipe `SMALL`.
        folder: an empty folder to work in.
        data: a data set of at least 8 samples in place of the generated one.
        overrides: as for `trainer.config.load_recipe`; make a real recipe small with them.
        overfit_steps, falls_to: as for `check_overfit`.

    Raises:
        AssertionError: which promise is broken, with numbers.
    """
    alone = isinstance(recipe, str) and (recipe in TASKS or ".py:" in recipe)
    source = {**SMALL, "name": "check", "task": {"name": recipe}} if alone else recipe
    checked = load_recipe(source, overrides)
    dest = Path(data) if data is not None else generate(folder / "data")
    check_overfit(checked, dest, steps=overfit_steps, falls_to=falls_to)
    check_resume(checked, dest, folder / "resume")
    check_ranks(checked, dest, folder / "ranks")


def check_overfit(recipe: Recipe, data: Path, *, steps: int = 60, falls_to: float = 0.5) -> None:
    """The loss of one batch of 4 videos, shown again and again, falls to `falls_to` times the highest of the first
    five (not the first: a queue begins with random keys, which are easier to tell from than those that follow)."""
    losses = [scalars["loss"] for scalars in learn_by_heart(recipe, data, steps=steps)]
    first, last = max(losses[:5]), float(np.mean(losses[-5:]))
    assert last <= falls_to * first, (
        f"{recipe.task.name} does not learn 4 videos by heart: loss {first:.3f} fell to {last:.3f} in {steps} steps, "
        f"not to {falls_to * first:.3f}. Does forward use the batch's labels, and does a gradient reach the backbone?"
    )


def learn_by_heart(recipe: Recipe, data: Path, *, steps: int, lr: float = 3e-3) -> list[dict[str, float]]:
    """Scalars of every step on one and the same batch of 4 videos: same clips, cuts and colours. Learnt with Adam at a
    constant rate, whatever the recipe has."""
    recipe = _with(recipe, "train.batch=4", "data.workers=0")
    torch.manual_seed(recipe.train.seed)
    dataset = open_dataset(data)
    task, ranks = task_of(recipe, dataset), Ranks(0, 1, torch.device("cpu"))
    with loader_of(recipe, dataset, task, ranks) as loader:
        task.prepare(loader.dataset, loader.samples)
        batch = next(loader.batches(0, 1))
    optimizer = torch.optim.Adam((p for p in task.parameters() if p.requires_grad), lr=lr)
    rows: list[dict[str, float]] = []
    task.begin()
    for step in range(steps):
        scalars = task(replace(batch, step=step))
        optimizer.zero_grad()
        scalars["loss"].backward()
        task.before_step(step)
        optimizer.step()
        task.after_step(step)
        rows.append({name: value.item() for name, value in scalars.items()})
    return rows


def check_resume(recipe: Recipe, data: Path, folder: Path) -> None:
    """Training that goes on from a checkpoint ends with the same bytes as training that never stopped."""
    recipe = _with(recipe, "train.epochs=null", "train.steps=4", "train.save_every=2", "train.keep=9")
    whole = train(recipe, data, out=folder / "whole", device="cpu").run
    parts = Path(shutil.copytree(whole, folder / "parts"))
    shutil.rmtree(checkpoint_paths(parts / CHECKPOINTS)[-1])
    train(recipe, data, out=parts, resume=True, device="cpu")
    one, other = (load_file(checkpoint_paths(run / CHECKPOINTS)[-1] / MODEL) for run in (whole, parts))
    wrong = [name for name in one if not torch.equal(one[name], other[name])]
    assert not wrong, (
        f"{recipe.task.name} resumed at step 2 of 4 gives other tensors: {', '.join(wrong[:5])}. Is something that the "
        "task remembers neither parameter nor buffer, or drawn from a generator other than torch's?"
    )


def check_ranks(recipe: Recipe, data: Path, folder: Path) -> None:
    """Two gloo processes with half a batch each get the gradient of one process with the whole batch.

    Batch normalisation and dropout are in eval mode: their statistics are of one process by definition.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = _with(recipe, "train.batch=4", "data.workers=0")
    request = {"recipe": recipe.tree(), "data": str(data), "out": str(folder / "two.safetensors")}
    status = launch(["-m", "trainer.testing", json.dumps(request)], processes=2)
    assert status == 0, f"{recipe.task.name} on two processes ended with status {status}; its output is above"
    two, one = load_file(folder / "two.safetensors"), _gradients(recipe, data, Ranks(0, 1, torch.device("cpu")))
    for name in one:
        apart, scale = (one[name] - two[name]).abs().max().item(), one[name].abs().max().item()
        assert apart <= 1e-3 * scale + 1e-6, (
            f"{recipe.task.name} on two processes has another gradient of {name}: {apart:.2e} apart, largest entry "
            f"{scale:.2e}. A loss over the whole batch has to gather it: trainer.tasks.losses.gather_ranks"
        )


def generate(dest: Path, *, samples: int = 8) -> Path:
    """A data set of moving gratings, 24 frames of 32x40 each; two classes, by direction."""
    storage = open_storage(dest)
    options = {"name": "gratings", "classes": list(_CLASSES), "size": {"height": _SIZE[0], "width": _SIZE[1]}}
    videos = [
        {"key": f"grating_{i}", "label": _CLASSES[i % 2], "label_index": i % 2, "splits": ["train"]}
        for i in range(samples)
    ]
    write_plan(storage, options, (Entry(shard=0, video=video) for video in videos))
    with ShardWriter(storage, 0, parameters={"quality": 90}) as writer:
        for i, video in enumerate(videos):
            frames = [jpeg.encode(_grating(i, t), quality=90) for t in range(_FRAMES)]
            writer.add(str(video["key"]), {"frames": _FRAMES}, frames, fps=25.0, size=_SIZE)
        writer.finish()
    finalize(storage)
    return dest


def _grating(sample: int, t: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    phase = (1 if sample % 2 else -1) * 0.5 * t
    waves = [np.sin(0.25 * (1 + sample % 3) * x + 0.1 * sample * y + phase + c) for c in range(3)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def _with(recipe: Recipe, *overrides: str) -> Recipe:
    return load_recipe(recipe, overrides)


def _gradients(recipe: Recipe, data: Path, ranks: Ranks) -> dict[str, Tensor]:
    """Gradients of the first step's loss, on whole or shared batches."""
    dataset = open_dataset(data)
    torch.manual_seed(recipe.train.seed)
    task = task_of(recipe, dataset).eval()
    with loader_of(recipe, dataset, task, ranks) as loader:
        task.prepare(loader.dataset, loader.samples)
        model = task if ranks.world == 1 else DistributedDataParallel(task)
        model(next(loader.batches(0, 1)))["loss"].backward()
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def _main(text: str) -> None:
    """One of the processes of `check_ranks`."""
    request = json.loads(text)
    with open_ranks("cpu") as ranks:
        gradients = _gradients(load_recipe(request["recipe"]), Path(request["data"]), ranks)
        if ranks.is_main:
            save_file(gradients, request["out"])


if __name__ == "__main__":
    _main(sys.argv[1])
