"""Captions for sets of videos that have none, and what a text encoder makes of real ones."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shards.dataset import open_dataset
from shards.samples import annotate
from trainer.config import load_recipe
from trainer.engine.build import task_of
from trainer.engine.checkpoint import checkpoint_paths, read_checkpoint
from trainer.engine.distributed import open_ranks
from trainer.engine.runs import CHECKPOINTS, RECIPE
from trainer.evaluation.features import extract
from trainer.evaluation.views import view_spec
from trainer.models.weights import load_strict
from trainer.tasks.cpd.losses import info_nce
from trainer.tasks.cpd.task import Cpd
from trainer.tasks.cpd.text import TextEncoder, build_text

_WORDS = re.compile(r"[^\W\d_]+")


def caption(key: str) -> str:
    """A caption made of the folder and set names in a sample's key, SET--FOLDER--FILE; FILE where there is no folder.

    Raises:
        ValueError: a key without folder.
    """
    parts = key.split("--")
    if len(parts) < 2:
        raise ValueError(f"{key!r} has no folder")
    what = parts[-2] if len(parts) > 2 else parts[-1]
    return f"a video of {_words(what)} from {_words(parts[0])}"


def _words(name: str) -> str:
    """Words of a name: `BabyCrawling` is `baby crawling`, `fight_surveillance` is `fight surveillance`."""
    return " ".join(_WORDS.findall(re.sub(r"([a-z])([A-Z])", r"\1 \2", name))).lower()


def captions_of(data: Path, *, name: str | None = None) -> dict[str, str]:
    """Key → caption of all samples of a packed data set, in its order; `name` as for `add_captions`."""
    keys = [row.key for row in open_dataset(data).table.rows()]
    return {key: caption(key if name is None else f"{name}--{key}") for key in keys}


def add_captions(data: Path, *, name: str | None = None) -> int:
    """Write captions of all samples into a packed data set; returns how many different ones there are.

    Args:
        name: of the set, where keys do not begin with it.
    """
    captions = captions_of(data, name=name)
    file = data.with_suffix(".captions.jsonl")
    lines = (json.dumps({"key": key, "caption": text}) for key, text in captions.items())
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    annotate(data, file)
    return len(set(captions.values()))


@torch.no_grad()
def caption_accuracy(run: Path, data: Path, *, name: str | None = None, split: str, device: str) -> tuple[float, float]:
    """How often, of all captions of the data set, a video's own is the nearest to it; and the share of the split that
    has the caption which is most frequent there. `name` as for `add_captions`."""
    recipe, dataset = load_recipe(run / RECIPE), open_dataset(data)
    task = task_of(recipe, dataset)
    assert isinstance(task, Cpd)
    task.prepare(dataset, dataset.select(split=recipe.data.split))
    path = checkpoint_paths(run / CHECKPOINTS)[-1]
    load_strict(task, read_checkpoint(path).tensors, what=f"{path} does not fit the task", remedy="")
    captions = list(captions_of(data, name=name).values())
    distinct = sorted(set(captions))
    tokens = task.text.tokenize(distinct, most=task.options.most_tokens)
    task.eval()
    text = functional.normalize(task.text_head(task.text(tokens.ids, tokens.mask)), dim=1)
    with open_ranks(device) as ranks:
        spec, samples = view_spec(recipe.data), dataset.select(split=split)
        videos = extract(task.backbone, dataset, samples, spec, ranks=ranks, workers=recipe.data.workers)
    head = task.video_head.cpu()
    video = functional.normalize(head(torch.from_numpy(np.asarray(videos.values, np.float32))), dim=1)
    own = torch.tensor([distinct.index(captions[int(sample)]) for sample in videos.samples])
    nearest = (video @ text.T).argmax(1)
    return float((nearest == own).float().mean()), float(torch.bincount(own).max() / len(own))


def read_samples(annotations: Path) -> dict[str, list[str]]:
    """The caption samples below annotations, by name."""
    with (annotations / "msrvtt/MSRVTT_JSFUSION_test.csv").open(encoding="utf-8") as file:
        english = [row["sentence"] for row in csv.DictReader(file, delimiter=";")]
    italian = json.loads((annotations / "msrvtt/videodatainfo_it.sample100.json").read_text(encoding="utf-8"))
    folder = annotations / "something_something_v2"
    objects = json.loads((folder / "something-something-v2-validation.first500.json").read_text(encoding="utf-8"))
    return {
        "MSR-VTT 1k-A, English": english,
        "MSR-VTT-it, 100 videos": [sentence["caption"] for sentence in italian["sentences"]],
        "Something-Something v2, first 500": [entry["label"] for entry in objects],
    }


def token_rows(samples: dict[str, list[str]], *, most: int) -> list[list[str]]:
    """Rows of a table: captions, different ones, mean and largest number of tokens, share that is cut, words, and how
    many of them share their number with another word."""
    encoder, rows = build_text("builtin"), []
    for name, captions in samples.items():
        lengths = encoder.tokenize(captions, most=512).mask.sum(1)
        words = sorted({word for text in captions for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())})
        numbers = encoder.tokenize(words, most=2).ids[:, 1]
        shared = len(words) - len(numbers.unique())
        cut = f"{100 * float((lengths > most).float().mean()):.1f} %"
        cells = [len(captions), len(set(captions)), f"{lengths.float().mean():.1f}", int(lengths.max()), cut]
        rows.append([name, *map(str, cells), str(len(words)), str(shared)])
    return rows


def paraphrases(annotations: Path, *, seed: int, steps: int, batch: int = 32) -> tuple[float, float, float]:
    """Whether the builtin text encoder can learn: which captions describe the same video?

    Of the training videos of the Italian MSR-VTT sample, pairs of captions of one video are brought together by
    `info_nce`; on the other videos, the nearest other caption ought to be of the same video.

    Returns:
        Share of captions for which it is: untrained, trained, and by chance.
    """
    content = json.loads((annotations / "msrvtt/videodatainfo_it.sample100.json").read_text(encoding="utf-8"))
    train = {video["video_id"] for video in content["videos"] if video["split"] == "train"}
    groups: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        groups.setdefault(sentence["video_id"], []).append(sentence["caption"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, rng = build_text("builtin"), np.random.default_rng(seed)
        learnt = [captions for video, captions in groups.items() if video in train]
        held_out = [captions for video, captions in groups.items() if video not in train]
        before, chance = _nearest(encoder, held_out)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-4, weight_decay=0.01)
        for _ in range(steps):
            videos = rng.choice(len(learnt), min(batch, len(learnt)), replace=False)
            pairs = [rng.choice(learnt[video], 2, replace=False) for video in videos]
            one, other = (_embed(encoder, [str(pair[side]) for pair in pairs]) for side in (0, 1))
            loss = info_nce(one, other, temperature=0.07)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return before, _nearest(encoder, held_out)[0], chance


def _embed(encoder: TextEncoder, captions: Sequence[str]) -> Tensor:
    tokens = encoder.tokenize(captions, most=64)
    return functional.normalize(encoder(tokens.ids, tokens.mask), dim=1)


@torch.no_grad()
def _nearest(encoder: TextEncoder, groups: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Share of captions whose nearest other one is of their group, and what a random neighbour would reach."""
    encoder.eval()
    vectors = _embed(encoder, [text for group in groups for text in group])
    encoder.train()
    owner = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(group) for group in groups]))
    nearest = (vectors @ vectors.T).fill_diagonal_(-2).argmax(1)
    same = float((owner[nearest] == owner).float().mean())
    chance = float(((torch.bincount(owner)[owner] - 1) / (len(owner) - 1)).mean())
    return same, chance
