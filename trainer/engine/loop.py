"""The training loop. It knows nothing of any method: a task makes scalars of a batch, everything else is here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shards.errors import UserError
from trainer.config import Recipe, ValidateConfig
from trainer.data.batch import Batch, upload
from trainer.data.loader import Loader
from trainer.engine.build import held_out
from trainer.engine.checkpoint import Checkpoint, best_info, save_checkpoint
from trainer.engine.device import out_of_memory
from trainer.engine.distributed import Ranks, SharedError, seed_step
from trainer.engine.finite import FiniteWatch, all_finite
from trainer.engine.meters import ScalarMeter, Stopwatch, peak_memory_mb
from trainer.engine.optim import build_optimizer, load_optimizer, set_learning_rate
from trainer.engine.runs import CHECKPOINTS, WEIGHTS
from trainer.engine.schedule import Length, learning_rate
from trainer.engine.sinks import Sink
from trainer.engine.skips import Skipped, Skips
from trainer.engine.stop import REASONS, Stop
from trainer.models.base import InputConvention
from trainer.models.weights import load_strict, save_weights
from trainer.tasks.base import Task

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of; see `trainer.engine.run.train`.

    Attributes:
        info: what every checkpoint tells besides step and epoch.
        sinks: empty on all ranks but 0.
        skip_nan: steps of the whole run that may be left out because their loss is not finite.
    """

    recipe: Recipe
    ranks: Ranks
    run: Path
    task: Task
    loader: Loader
    length: Length
    stop: Stop
    sinks: list[Sink]
    notify: Notify
    info: Mapping[str, Any]
    skip_nan: int = 0


class Trainer:
    """Trains `parts.task` from a checkpoint (or the beginning) to the end or until it should stop.

    Attributes:
        step: steps done.
        row: the last log line.
        skips: steps that were left out.
    """

    def __init__(self, parts: Parts, start: Checkpoint | None) -> None:
        self.parts, self.step, self.row = parts, 0, dict[str, float]()
        self._config, self._ranks, self._task = parts.recipe.train, parts.ranks, parts.task
        self._device = parts.ranks.device
        self._optimizer = build_optimizer(parts.task, parts.recipe.optim, fused=self._config.fused)
        self.skips = Skips(parts.skip_nan, () if start is None else start.info.get("skipped", ()))
        if start is None:
            self._task.begin()
        else:
            self._restore(start)
        self._saved = self.step
        if self._config.compile:
            for backbone in self._task.backbones:
                backbone.compile()
        self._model: nn.Module = self._task
        if parts.ranks.world > 1:
            ids = [self._device.index] if self._device.type == "cuda" else None
            self._model = DistributedDataParallel(self._task, device_ids=ids, gradient_as_bucket_view=True)
        self._precision = precision(self._config.precision, self._device)
        self._scalars, self._watch, self._finite = ScalarMeter(), Stopwatch(), FiniteWatch()
        self._held_out: Loader | None = None

    def fit(self) -> str:
        """Train; returns why it stopped before the end (an entry of `trainer.engine.stop.REASONS`), or "".

        Raises:
            UserError: a loss that is not finite, a full GPU, a task without "loss".
        """
        total = self.parts.length.total
        batches = upload(self.parts.loader.batches(self.step, total), self._device)
        try:
            for batch in self._watch.waits(batches):
                scalars = self._train_step(batch)
                reason = self._after(batch, scalars)
                if reason:
                    return reason
        except torch.cuda.OutOfMemoryError as error:
            raise out_of_memory(error, self._device, batch=self._config.batch, world=self._ranks.world) from error
        finally:
            if self._held_out is not None:
                self._held_out.close()
        return ""

    def _train_step(self, batch: Batch) -> dict[str, Tensor] | None:
        """The task's scalars; None where the step was left out."""
        recipe, skips = self.parts.recipe, self.skips
        seed_step(self._config.seed, batch.step, self._ranks.rank)
        lr = learning_rate(recipe.schedule, recipe.optim.lr, batch.step, self.parts.length)
        set_learning_rate(self._optimizer, lr)
        if skips.left:
            skips.hold(self._task)
        with self._autocast():
            scalars: dict[str, Tensor] = self._model(batch)
        if "loss" not in scalars:
            raise UserError(
                f"task {recipe.task.name} gave {', '.join(scalars) or 'nothing'}; one of its scalars must be 'loss'"
            )
        if skips.left and self._left_out(batch, scalars["loss"]):
            return None
        scalars["loss"].backward()  # type: ignore[no-untyped-call]
        self._task.before_step(batch.step)
        if recipe.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._task.parameters(), recipe.optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._task.after_step(batch.step)
        return scalars

    def _left_out(self, batch: Batch, loss: Tensor) -> bool:
        """Leave a step out if its loss is not finite on any rank; waits for the device."""
        mine = float(loss.detach())
        bad = not math.isfinite(mine)
        if not self._ranks.most([bad])[0]:
            return False
        self.skips.put_back(self._task)
        keys = [self.parts.loader.dataset.key(int(i)) for i in batch.sample.tolist()] if bad else []
        found = [it for it in self._ranks.gather((mine, keys)) if it[1]]
        every = tuple(key for _, keys in found for key in keys)
        skipped = Skipped(step=batch.step + 1, loss=str(found[0][0]), keys=every)
        if self._ranks.most([not all_finite(self._task)])[0]:
            raise self._error(f"{skipped}, and the weights are not finite, so no batch is to blame. {self._remedy()}")
        self.skips.steps.append(skipped)
        left = f"left out; {self.skips.left} more may be (--skip-nan {self.skips.allowed})"
        self.parts.notify({"event": "skip", **asdict(skipped), "keys": list(every), "message": f"{skipped}: {left}"})
        return True

    def _after(self, batch: Batch, scalars: dict[str, Tensor] | None) -> str:
        """Bookkeeping of a step: finiteness, log, validation, checkpoint; returns why to stop, or ""."""
        self.step = done = batch.step + 1
        if scalars is not None:
            self._finite.add(batch.step, scalars["loss"], batch.sample)
            self._scalars.update(scalars)
        self._watch.count(self._config.batch * sum(spec.clips for spec in self._task.specs))
        stop, bad = self._ranks.most([self.parts.stop.reason(), self._finite.bad() is not None])
        if bad:
            self._report_bad()
        self.parts.notify({"event": "step", "done": done})
        last = done == self.parts.length.total
        if self._scalars and (done % self._config.log_every == 0 or last):  # no line where all steps were left out
            self._log()
        validation = self._config.validation
        if validation is not None and (last or self._crosses(validation.every)):
            with self._watch.pause():
                self._validate(validation)
        elif done % self._config.save_every == 0 or last or stop:
            with self._watch.pause():
                self._save()
        return "" if last else REASONS[stop]

    def _crosses(self, every: float) -> bool:
        """Whether this step completes another `every` epochs."""
        epoch = self.parts.length.epoch
        return math.floor(epoch(self.step) / every + 1e-9) > math.floor(epoch(self.step - 1) / every + 1e-9)

    def _autocast(self) -> AbstractContextManager[None]:
        enabled = self._precision is not torch.float32
        return torch.autocast(self._device.type, dtype=self._precision, enabled=enabled)

    def _log(self) -> None:
        scalars = self._mean()
        rates = self._watch.read()
        recipe, length = self.parts.recipe, self.parts.length
        self.row = {
            "step": self.step,
            "epoch": length.epoch(self.step),
            **scalars,
            "lr": learning_rate(recipe.schedule, recipe.optim.lr, self.step - 1, length),
            **rates,
            "memory_mb": peak_memory_mb(self._device),
        }
        for sink in self.parts.sinks:
            sink.write("log", self.row)
        self.parts.notify({"event": "log", **self.row, "total": length.total})

    def _mean(self) -> dict[str, float]:
        """Means of the scalars since the last call, over all ranks; loss comes first."""
        parts = self._ranks.gather(self._scalars.read())
        names = sorted(parts[0], key=lambda name: (name != "loss", name))
        return {name: sum(p[name][0] for p in parts) / sum(p[name][1] for p in parts) for name in names}

    @torch.no_grad()
    def _validate(self, config: ValidateConfig) -> None:
        loader = self._validation_loader(config)
        kept, self._scalars = self._scalars, ScalarMeter()
        self._task.eval()
        # Ranks have to meet in a task's own collectives: with several, every batch is full (first samples come twice).
        batches = loader.epoch() if self._ranks.world == 1 else loader.batches(0, math.ceil(loader.steps_per_epoch))
        for batch in upload(batches, self._device):
            seed_step(self._config.seed, batch.step, self._ranks.rank)
            with self._autocast():
                self._scalars.update(self._task(batch), weight=len(batch))
        self._task.train()
        row = {"step": self.step, "epoch": self.parts.length.epoch(self.step), **self._mean()}
        self._scalars = kept
        for sink in self.parts.sinks:
            sink.write("validation", row)
        self.parts.notify({"event": "validation", **row})
        self._save(validation=row, metric=config.metric)

    def _validation_loader(self, config: ValidateConfig) -> Loader:
        if self._held_out is None:
            recipe, ranks = self.parts.recipe, self._ranks
            self._held_out = Loader(
                self.parts.loader.dataset,
                [replace(spec, crop_at="center", flip=0.0, jitter=None) for spec in self._task.specs],
                batch=self._config.batch,
                seed=self._config.seed,
                samples=held_out(self.parts.loader.dataset, config.split),
                shuffle="none",
                weighted=False,
                rank=ranks.rank,
                world=ranks.world,
                workers=min(1, recipe.data.workers),
                threads=recipe.data.threads,
            )
            self._task.check_labels(self.parts.loader.dataset.labels[self._held_out.samples])
        return self._held_out

    def _save(self, *, validation: dict[str, float] | None = None, metric: str = "loss") -> None:
        if self._saved == self.step:
            return
        if self._ranks.most([self._finite.bad(wait=True) is not None])[0]:
            self._report_bad()
        if self._ranks.most([not all_finite(self._task)])[0]:
            raise self._error(f"weights are not finite after step {self.step}, though the loss is. {self._remedy()}")
        self._ranks.on_main(lambda: self._write(validation, metric))
        self._saved = self.step

    def _write(self, validation: dict[str, float] | None, metric: str) -> None:
        parts = self.parts
        info = {**parts.info, "step": self.step, "epoch": parts.length.epoch(self.step)}
        info["convention"] = self._task.backbone.convention.tree()
        info["skipped"] = self.skips.tree()
        if validation is not None:
            info["validation"] = validation
        path = save_checkpoint(
            parts.run / CHECKPOINTS,
            tensors=self._task.state_dict(),
            optimizer=self._optimizer.state_dict(),
            info=info,
            keep=self._config.keep,
            best=validation is not None and self._is_best(validation, metric),
        )
        save_weights(parts.run / WEIGHTS, self._task.backbone)
        parts.notify({"event": "checkpoint", "step": self.step, "path": str(path)})

    def _is_best(self, validation: dict[str, float], metric: str) -> bool:
        if metric not in validation:
            shown = ", ".join(name for name in validation if name not in ("step", "epoch"))
            raise UserError(f"train.validation.metric is {metric!r}; task {self.parts.recipe.task.name} gives: {shown}")
        best = best_info(self.parts.run / CHECKPOINTS)
        before = (best or {}).get("validation", {}).get(metric)
        sign = -1 if metric == "loss" else 1
        return before is None or sign * validation[metric] > sign * before

    def _restore(self, start: Checkpoint) -> None:
        load_strict(
            self._task,
            start.tensors,
            what=f"{start.path} does not fit the task",
            remedy="The task's or backbone's code has changed; start another run with another --out.",
        )
        self._task.backbone.convention = InputConvention.of(start.info["convention"])
        load_optimizer(self._optimizer, start.optimizer)
        self.step = start.step

    def _report_bad(self) -> None:
        """Raise on every rank what the rank with the first bad loss has to tell."""
        bad = self._finite.bad(wait=True)
        dataset = self.parts.loader.dataset
        mine = None
        if bad is not None:
            mine = (bad.step, float(bad.loss), [dataset.key(int(i)) for i in bad.samples.tolist()])
        step, loss, keys = min(found for found in self._ranks.gather(mine) if found is not None)
        bad_step, before = Skipped(step=step + 1, loss=str(loss), keys=tuple(keys)), self.skips.steps
        told = f", after steps left out: {', '.join(str(it.step) for it in before)}" if before else ""
        again = "--resume" if self._saved else "another --out"
        more = f"{again} --skip-nan {len(before) + 1} leaves such steps out"
        raise self._error(f"{bad_step}{told}. {self._remedy()}; {more}")

    def _remedy(self) -> str:
        saved = f"The last good checkpoint is of step {self._saved}" if self._saved else "There is no checkpoint yet"
        lower = f"--set optim.lr={self.parts.recipe.optim.lr / 10:g}"
        start = f" --init {self.parts.run}" if self._saved else ""
        return f"{saved}; look at the videos with vidprep preview, or start another run with {lower}{start} --out OTHER"

    def _error(self, message: str) -> UserError:
        return UserError(message) if self._ranks.is_main else SharedError(message)


def precision(wanted: str, device: torch.device) -> torch.dtype:
    """The autocast type of a run: "auto" is bf16 on a GPU that computes in it, float32 elsewhere.

    Raises:
        UserError: bf16 on a CPU, where torch 2.15's oneDNN gives wrong weight gradients (also NaN) for 3x3x3
            convolutions over two frames, the last stage of every 16-frame network here.
    """
    if wanted == "bf16" and device.type == "cpu":
        raise UserError(
            "train.precision is bf16 on the CPU, where torch computes wrong gradients of 3-D convolutions; "
            "allowed there: auto, float32 (--set train.precision=auto)"
        )
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if wanted == "bf16" else torch.float32
