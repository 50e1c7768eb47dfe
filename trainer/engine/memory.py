"""How much GPU memory a step of a recipe needs, from shapes alone: nothing is computed and no GPU is needed.

One forward and backward pass of the recipe's task runs on tensors without contents (torch's FakeTensorMode), with the
number of videos of one GPU and the precision a GPU has, after every curriculum has begun. Every storage is counted from
the operation that makes it to the moment it is freed, whether autograd saved it for the backward pass or an operation
needs it for itself. The largest sum, with the optimiser's state and a second batch on its way, is the estimate.

Several GPUs are one process of torch's fake process group, so that what a task gathers from the others takes its place.
Text encoders of transformers are built from their configuration.

Not counted: what a CUDA context takes (about 0.5 GB), workspaces of cuDNN, rounding and gaps of torch's allocator,
changes of colour (which are over before activations are kept), and what torch.compile saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from shards.errors import UserError
from shards.rng import rng_for
from shards.spec import ClipSpec, VideoFacts
from trainer.config import Adam, AdamW, OptimConfig, Recipe, Sgd, load_recipe
from trainer.data.batch import Batch
from trainer.engine.storages import HalfPools, Live, Storages, empty_tensors
from trainer.models import build_backbone
from trainer.recipes.facts import tasks_of
from trainer.tasks import Task, build_task, find_task
from trainer.tasks.cpd import Cpd
from trainer.tasks.cpd.text import HubText, TextEncoder

_VIDEO = VideoFacts(frames=300, height=256, width=342, times_us=np.arange(300) * 40_000)
_CLASSES = 400
_SAMPLES = 10_000
_LATE = 10**6  # a step after every curriculum
_DEFAULT = {"distilbert-base-uncased": "DistilBertConfig"}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one GPU, at the moment of a step that needs most.

    Attributes:
        batch, gpus: videos a step over so many GPUs.
        samples: training videos, which decide the size of memory banks.
        precision: "bf16" or "float32", of activations.
        weights: what is learnt.
        kept: what is not: key networks, banks, queues, running statistics.
        optimizer: its state.
        exchange: buffers in which several GPUs add up their gradients.
        clips: two batches, of which the second is on its way.
        step: activations, gradients and what operations need for themselves.
        saved: of `step`, what the forward pass saves for the backward pass.
    """

    batch: int
    gpus: int
    samples: int | None
    precision: str
    weights: int
    kept: int
    optimizer: int
    exchange: int
    clips: int
    step: int
    saved: int

    @property
    def total(self) -> int:
        return self.weights + self.kept + self.optimizer + self.exchange + self.clips + self.step

    def tree(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "total": self.total}

    def lines(self) -> list[str]:
        """As a small table."""
        share = self.batch // self.gpus
        samples = "" if self.samples is None else f", {self.samples:,} training videos"
        title = f"memory of one GPU, estimate from shapes: {share} videos a step ({self.batch} on {self.gpus}){samples}"
        rows = (
            (self.total, "in all"),
            (self.weights, "weights"),
            (self.kept, "key networks, banks, queues, running statistics"),
            (self.optimizer, "state of the optimiser"),
            (self.exchange, "buffers for the exchange of gradients"),
            (self.clips, "clips, of this step and the next"),
            (self.step, f"activations ({self.precision}), gradients and temporaries at their peak; of these"),
            (self.saved, "saved by the forward pass"),
        )
        return [title, *(f"{size / 1e9:9.2f} GB  {what}" for size, what in rows)]


def estimate_memory(
    recipe: Recipe, *, batch: int | None = None, gpus: int | None = None, samples: int | None = None
) -> Memory:
    """What one GPU holds in a step of a recipe.

    Args:
        batch, gpus: in place of the recipe's batch and of `about.gpus`.
        samples: training videos, in place of `about.samples`; only for tasks with an entry for each.

    Raises:
        UserError: GPUs that do not share the batch evenly, or a text encoder that cannot be told from here.
    """
    gpus = gpus or recipe.about.gpus
    batch = batch or recipe.train.batch
    if batch % gpus:
        raise UserError(f"{gpus} GPUs cannot share a batch of {batch} evenly; give --batch or --gpus that can")
    half = recipe.train.precision != "float32"
    samples = samples or recipe.about.samples or _SAMPLES
    with torch.random.fork_rng(devices=[]):
        task = build(load_recipe(recipe, ["data.jitter=null"]))
    with _processes(gpus), FakeTensorMode(allow_non_fake_inputs=True):
        empty_tensors(task)
        for part in task.modules():
            if isinstance(part, Cpd):
                prepare(part, samples)
        clips = batches_of(task.specs, batch // gpus, channels=task.backbone.in_channels)
        found = measure(task, clips, half=half)
    learnt = found.pop("learnt")
    return Memory(
        batch=batch,
        gpus=gpus,
        samples=samples if any(isinstance(part, Cpd) for part in task.modules()) else None,
        precision="bf16" if half else "float32",
        optimizer=_states(recipe.optim) * learnt,
        exchange=learnt if gpus > 1 else 0,
        clips=2 * sum(tensor.nbytes for tensor in clips.tensors()),
        **found,
    )


@contextmanager
def _processes(count: int) -> Iterator[None]:
    """Be the first of so many processes; the others are not there, and collectives give tensors of their shapes."""
    if count == 1:
        yield
        return
    if dist.is_initialized():
        raise UserError("memory of several GPUs is estimated by one process alone: run this outside of torchrun")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


def measure(task: Task, batch: Batch, *, half: bool) -> dict[str, int]:
    """Bytes of a task in one forward and backward pass: `weights`, `learnt` (of them, those with a gradient), `kept`,
    `step` and `saved`, as `Memory` has them. Within FakeTensorMode nothing is computed."""
    learnt = [parameter for parameter in task.parameters() if parameter.requires_grad]
    kept = [*(p for p in task.parameters() if not p.requires_grad), *task.buffers()]
    outside = Storages()
    outside.add([*learnt, *kept, *batch.tensors()])
    live, saved = Live(but=outside), Storages(but=outside)
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor)
    with live:
        with hooks, HalfPools(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = task(batch)["loss"]
        saved.release()
        loss.backward()
    return {
        "weights": sum(p.nbytes for p in learnt),
        "learnt": sum(p.nbytes for p in learnt),
        "kept": sum(t.nbytes for t in kept),
        "step": live.peak,
        "saved": saved.bytes,
    }


def batches_of(specs: Iterable[ClipSpec], videos: int, *, channels: int = 3) -> Batch:
    """A batch without contents, as the loader would make it of videos of 256 x 342.

    Args:
        specs: of the task.
        videos: B, how many.
        channels: of the clips: 3 of RGB, 2 of a flow column, as the backbone takes them.
    """
    first, *more = (_batch(spec, videos, channels) for spec in specs)
    return replace(first, more=tuple(more))


def _batch(spec: ClipSpec, videos: int, channels: int) -> Batch:
    free = replace(spec, table=None, flow=None)
    plans = [free.plan(_VIDEO, rng_for(0, 0, i)) for i in range(videos)]
    height, width = spec.crop_size or plans[0].size
    shape = (videos, spec.clips, spec.frames, height, width)
    draws = [plan.draws for plan in plans if plan.draws is not None]
    flow = None if spec.flow is None else torch.empty((*shape, 2), dtype=torch.uint8)
    return Batch(
        step=_LATE,
        clips=torch.empty((*shape, channels), dtype=torch.uint8),
        sample=torch.zeros(videos, dtype=torch.int64),
        label=torch.zeros(videos, dtype=torch.int64),
        stride=torch.zeros((videos, spec.clips), dtype=torch.int64),
        frames=torch.zeros((videos, spec.clips, spec.frames), dtype=torch.int64),
        flip=torch.zeros((videos, spec.clips), dtype=torch.bool),
        flow=flow,
        flow_step=torch.empty((videos, 2)) if flow is not None or channels == 2 else None,
        targets=None if spec.table is None else torch.zeros((videos, spec.clips, 27), dtype=torch.int64),
        draws=np.stack(draws) if draws else None,
        steps_per_epoch=1,
    )


def build(recipe: Recipe) -> Task:
    """The recipe's task on the CPU; text encoders of transformers are not loaded but made of their configuration."""
    texts = {
        part.path: str(part.options["text"])
        for part in tasks_of(recipe)
        if part.options.get("text", "builtin") != "builtin" and issubclass(find_task(part.name), Cpd)
    }
    recipe = load_recipe(recipe, [f"{'.'.join(filter(None, ('task', path, 'text')))}=builtin" for path in texts])
    task = build_task(
        recipe.task.name,
        backbone=build_backbone(recipe.backbone.name, **recipe.backbone.options),
        data=recipe.data,
        options=recipe.task.options,
        classes=tuple(map(str, range(_CLASSES))),
    )
    for path, name in texts.items():
        part = task.get_submodule(path)
        assert isinstance(part, Cpd)
        part.text = _OfConfig(name)
        part.text_head[0] = nn.Linear(part.text.width, part.options.hidden)
    return task


def prepare(task: Cpd, samples: int) -> None:
    """What `Cpd.prepare` does with so many captions of full length."""
    options = task.options
    length = options.most_tokens
    task.register_buffer("ids", torch.zeros((samples, length), dtype=torch.int32), persistent=False)
    task.register_buffer("mask", torch.ones((samples, length), dtype=torch.bool), persistent=False)
    for name in ("place", "first", "count"):
        task.register_buffer(name, torch.zeros(samples, dtype=torch.int64), persistent=False)
    if options.loss == "nce":
        for name in ("video_bank", "text_bank"):
            bank = nn.Parameter(torch.empty(samples, options.embedding), requires_grad=False)
            task.register_parameter(name, bank)


class _OfConfig(HubText):
    """A transformers model of its configuration, without its weights."""

    def __init__(self, name: str) -> None:
        TextEncoder.__init__(self)
        try:
            import transformers  # noqa: PLC0415 (an extra, and slow to import)

            known = _DEFAULT.get(name)
            config: Any = getattr(transformers, known)() if known else transformers.AutoConfig.from_pretrained(name)
            self.model: Any = transformers.AutoModel.from_config(config)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(
                f"the size of task.text={name} cannot be told here ({str(error).splitlines()[0]}); give a local "
                "folder, or estimate with --set task.text=builtin"
            ) from error
        self.width = int(self.model.config.hidden_size)


def _states(config: OptimConfig) -> int:
    """Bytes of an optimiser's state for each byte of weights."""
    match config:
        case Sgd():
            return 1 if config.momentum else 0
        case Adam() | AdamW():
            return 2
