"""Cross pair discrimination: which caption belongs to which video? (Li, Wang, arXiv 2001.05691; reference/cpd.md)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from shards.rng import rng_for
from trainer.augment import augment
from trainer.config import DataConfig
from trainer.models.base import Backbone
from trainer.strict import Strict
from trainer.tasks.base import Task
from trainer.tasks.cpd.captions import TABLE, check_captions, read_captions, stale_captions
from trainer.tasks.cpd.losses import info_nce, nce, normaliser, scores, update_bank
from trainer.tasks.cpd.text import build_text
from trainer.tasks.losses import gather_ranks
from trainer.tasks.momentum import Queue, rank

if TYPE_CHECKING:
    from shards.dataset import Dataset
    from shards.mixture import Mixture
    from shards.order import IntArray
    from trainer.data.batch import Batch

_OF_CAPTIONS = ("ids", "mask", "first", "count", "place")
_ROUNDING = 1e-9  # of step / steps per epoch


class CpdOptions(Strict):
    """Options of the task `cpd`.

    Args:
        text: "builtin" (a small transformer over hashed words, from scratch), or a transformers model: a local folder
            or a name on the hub, such as distilbert-base-uncased.
        captions: where they are: "table", the sample table, or the name of a text column.
        most_tokens: captions are cut to so many.
        embedding: length of the vectors that are compared; hidden: width of the text head's inner layer.
        loss: "nce" over two memory banks with one entry for each training sample, or "infonce" within the batch.
        negatives: K, entries drawn for each pair; only for nce.
        bank_momentum: share of the old entry in the new one; only for nce.
        queue: past pairs that are further negatives; only for infonce.
        temperature: of the scores.
        train_text_from: epochs after which the text encoder learns too; its head learns from the beginning.
        text_lr_scale: factor of the recipe's learning rate for the text encoder.
        attend_all: pad captions to `most_tokens` and let the text encoder attend to that, as the reference does.
    """

    text: str = "builtin"
    captions: str = Field(default=TABLE, min_length=1)
    most_tokens: int = Field(default=64, ge=2, le=512)
    embedding: int = Field(default=256, ge=1)
    hidden: int = Field(default=512, ge=1)
    loss: Literal["nce", "infonce"] = "nce"
    negatives: int = Field(default=16392, ge=1)
    bank_momentum: float = Field(default=0.5, ge=0, lt=1)
    queue: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    train_text_from: float = Field(default=150, ge=0)
    text_lr_scale: float = Field(default=0.003, ge=0)
    attend_all: bool = False


class Cpd(Task):
    """A video head and a text head into one sphere, and the loss of `options.loss`.

    Attributes:
        ids, mask: (C,L) all captions of the data set, one after the other, as `trainer.tasks.cpd.text.Tokens` has them.
        first, count: (N,) the first of each sample's captions, and how many it has.
        place: (N,) each sample's entry in the banks, −1 without.

    Logs "accuracy" (of the batch's videos, those whose own caption is nearest in the batch) and the parts of the loss.
    Held-out samples have no entry in the banks: in evaluation mode the loss is InfoNCE within the batch.
    Of several captions of a sample one is drawn each time it is shown, by seed, epoch, sample and repeat; in evaluation
    mode it is the first.
    Batch normalisation in the text head uses each process's own statistics, as the networks do.
    """

    Options = CpdOptions
    options: CpdOptions
    video_bank: nn.Parameter
    text_bank: nn.Parameter
    constants: Tensor
    ids: Tensor
    mask: Tensor
    first: Tensor
    count: Tensor
    place: Tensor

    def __init__(self, backbone: Backbone, data: DataConfig, options: CpdOptions, classes: tuple[str, ...]) -> None:
        super().__init__(backbone, data, options, classes)
        self.options = options
        self.spec = replace(data.spec(), draws=1)  # which caption
        self.text = build_text(options.text)
        if options.most_tokens > self.text.longest:
            raise UserError(
                f"task.most_tokens is {options.most_tokens}, and task.text={options.text} reads up to "
                f"{self.text.longest}: --set task.most_tokens={self.text.longest}"
            )
        self.video_head = nn.Linear(backbone.width, options.embedding)
        self.text_head = nn.Sequential(
            nn.Linear(self.text.width, options.hidden),
            nn.BatchNorm1d(options.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(options.hidden, options.embedding),
        )
        self.lr_scales = {"text.": options.text_lr_scale}
        self.register_buffer("constants", torch.zeros(2))  # Z of the video and the text side; 0: not set yet
        self.queues = nn.ModuleList(Queue(options.queue, options.embedding) for _ in range(2 if options.queue else 0))
        self._draws = int(torch.randint(2**31, ()))  # the same on every process, whose generators are seeded alike
        self._frozen = True
        self._new: tuple[Tensor, Tensor, Tensor] | None = None

    def prepare(self, dataset: Dataset | Mixture, samples: IntArray) -> None:
        """Turn all captions into tokens and make the banks, one entry for each of `samples`.

        Raises:
            UserError: a training sample has no caption, or there is no such column.
        """
        captions = read_captions(dataset, self.options.captions)
        check_captions(dataset, self.options.captions, captions, samples)
        texts = [text for of_one in captions for text in of_one]
        tokens = self.text.tokenize(texts, most=self.options.most_tokens)
        if self.options.attend_all:  # what is attended to must not depend on the other captions
            tokens = tokens.padded(self.options.most_tokens)
        count = np.array([len(of_one) for of_one in captions], np.int64)
        self.ids, self.mask = tokens.ids, tokens.mask
        self.first, self.count = torch.from_numpy(np.cumsum(count) - count), torch.from_numpy(count)
        trained = np.repeat(np.isin(np.arange(len(captions)), samples), count)
        self.notes = (*stale_captions(dataset, self.options.captions), *self._cut(trained, tokens.cut.numpy()))
        self.place = torch.full((len(captions),), -1)
        self.place[torch.from_numpy(samples)] = torch.arange(len(samples))
        if self.options.loss == "nce":
            # Parameters that are never learnt: unlike buffers they are not sent from process to process at every step.
            bound = (self.options.embedding / 3) ** -0.5
            for name in ("video_bank", "text_bank"):
                bank = (2 * torch.rand(len(samples), self.options.embedding) - 1) * bound
                self.register_parameter(name, nn.Parameter(bank, requires_grad=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Cpd:
        """Captions go where the task goes. They are no buffers: processes send each other all buffers at every step."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in _OF_CAPTIONS:
            if name in vars(self):
                setattr(self, name, fn(getattr(self, name)))
        return self

    def _cut(self, trained: npt.NDArray[np.bool_], cut: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        """What to tell of captions that lose their end."""
        most, long, of = self.options.most_tokens, int((trained & cut).sum()), int(trained.sum())
        told = f"{long:,} of {of:,} captions are longer than task.most_tokens={most} and are cut to it"
        return (told,) if long else ()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of a batch of videos, one clip each, and their captions."""
        if batch.stride.shape[1] != 1:
            raise UserError(f"the task cpd takes one clip a video; the batch has {batch.stride.shape[1]}")
        if self.training:
            self._frozen = batch.epoch + _ROUNDING < self.options.train_text_from
        clips_BCTHW = augment(batch, self.backbone.convention).flatten(0, 1)
        video_BD = self._unit(self.video_head(self.backbone(clips_BCTHW).pooled))
        text_BD, idle = self._texts(self._rows(batch))
        with torch.no_grad():
            nearest = (video_BD @ gather_ranks(text_BD).T).argmax(1)
            own = rank() * len(nearest) + torch.arange(len(nearest), device=nearest.device)
            accuracy = (nearest == own).float().mean()
        if self.options.loss == "infonce" or not self.training:
            found = self._in_batch(video_BD, text_BD, batch.sample)
        else:
            found = self._over_banks(video_BD, text_BD, batch)
        return {**found, "loss": found["loss"] + idle, "accuracy": accuracy}

    def before_step(self, step: int) -> None:
        """Leave a frozen text encoder exactly as it is: neither momentum nor weight decay moves it."""
        if self._frozen:
            for parameter in self.text.parameters():
                parameter.grad = None

    def after_step(self, step: int) -> None:
        """Bring the banks, or the queues, up to date with the global batch."""
        if self._new is None:
            return
        video_BD, text_BD, sample_B = self._new
        self._new = None
        if self.options.loss == "nce":
            places = self.place[sample_B]
            update_bank(self.video_bank, places, video_BD, self.options.bank_momentum)
            update_bank(self.text_bank, places, text_BD, self.options.bank_momentum)
        elif self.options.queue:
            for queue, new in zip(self.queues, (video_BD, text_BD), strict=True):
                queue.push(new, sample_B)  # type: ignore[operator]

    def _unit(self, vectors: Tensor) -> Tensor:
        return functional.normalize(vectors.float(), dim=1)

    def _rows(self, batch: Batch) -> Tensor:
        """(B,) which of all captions each of the batch's samples shows."""
        first, count = self.first[batch.sample], self.count[batch.sample]
        if not self.training:
            if not bool(count.all()):
                raise UserError(
                    f"{int((count == 0).sum())} of {len(count)} samples in a batch of held-out videos have no caption; "
                    "add them with vidprep annotate DEST FILE, or validate on another split (train.validation)"
                )
            return first
        if batch.draws is None:
            raise ValueError("the task cpd needs a batch with draws")
        u_B = torch.from_numpy(batch.draws[:, 0, 0]).to(first.device)
        return first + (u_B * count).long()

    def _texts(self, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B,D) of these captions, and a zero that reaches the parameters of a frozen encoder: processes wait for each
        other's gradients of every parameter, learnt or not."""
        frozen = self._frozen and self.training
        ids, mask = self.ids[row_B], self.mask[row_B]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            encoded = self.text(ids, mask, attend_all=self.options.attend_all)
        idle = encoded.new_zeros(())
        if frozen:
            idle = torch.stack([p.sum() for p in self.text.parameters()]).sum() * 0
        return self._unit(self.text_head(encoded.float())), idle

    def _in_batch(self, video_BD: Tensor, text_BD: Tensor, sample_B: Tensor) -> dict[str, Tensor]:
        video, text, sample = gather_ranks(video_BD), gather_ranks(text_BD), gather_ranks(sample_B)
        queues, foreign = None, None
        if self.training and self.options.queue:
            past = [queue.keys.clone() for queue in self.queues]  # type: ignore[operator]
            queues, foreign = (past[0], past[1]), self.queues[0].owner[None] != sample[:, None]  # type: ignore[index]
            self._new = (video.detach(), text.detach(), sample)
        loss = info_nce(video, text, temperature=self.options.temperature, queues=queues, foreign_BK=foreign)
        return {"loss": loss}

    def _over_banks(self, video_BD: Tensor, text_BD: Tensor, batch: Batch) -> dict[str, Tensor]:
        entries, options = len(self.video_bank), self.options
        places_BK = self._places(batch)
        with torch.autocast(video_BD.device.type, enabled=False):
            sides = (
                scores(video_BD, self.text_bank, places_BK, options.temperature),
                scores(text_BD, self.video_bank, places_BK, options.temperature),
            )
            first = torch.stack([gather_ranks(normaliser(side, entries)[None]).mean() for side in sides])
            self.constants.copy_(torch.where(self.constants > 0, self.constants, first))
            losses = [nce(side, self.constants[k], entries) for k, side in enumerate(sides)]
        with torch.no_grad():
            self._new = (gather_ranks(video_BD.detach()), gather_ranks(text_BD.detach()), gather_ranks(batch.sample))
        video_loss, text_loss = (it.positive + it.negative for it in losses)
        return {"loss": video_loss + text_loss, "video_loss": video_loss, "text_loss": text_loss}

    def _places(self, batch: Batch) -> Tensor:
        """(B,K+1) places in the banks: the own entry, then K drawn ones, which may be any, also the own or one twice.

        A function of run, step and sample, so that the processes of a run draw what one process would.
        """
        own = self.place[batch.sample].tolist()
        entries, drawn = len(self.video_bank), self.options.negatives
        rows = np.empty((len(own), drawn + 1), np.int64)
        for row, place in zip(rows, own, strict=True):
            row[0] = place
            row[1:] = rng_for(self._draws, batch.step, place).integers(0, entries, drawn)
        return torch.from_numpy(rows).to(batch.sample.device)
