"""What the benchmarks of learning have in common: sets of real videos, their splits, and how a network is scored."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trainer.evaluation.finetune import evaluate_finetuning
from trainer.evaluation.retrieval import evaluate_retrieval
from vidprep.catalog import Index, index, write_index
from vidprep.pack import pack

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """A set of ../shared/clips.

    Attributes:
        folders: of the clips folder; with several, the folder is the class.
        held_out: file name patterns of the test videos.
        group: regular expression of what a video shares with others that it must not be tested on.
        split: says in a sentence which videos are held out.
    """

    name: str
    folders: tuple[str, ...]
    held_out: tuple[str, ...]
    group: str | None
    split: str


SEQUENCES = (4, 9, 14, 19)
SETS = {
    "weizmann": VideoSet(
        name="weizmann",
        folders=("weizmann",),
        held_out=("denis_*", "eli_*"),
        group="([a-z]+)_",
        split="9 actions; denis and eli (18 videos) held out, the other 5 persons (45 videos) for training",
    ),
    "ut_interaction": VideoSet(
        name="ut_interaction",
        folders=("ut_interaction",),
        # Names are NUMBER_SEQUENCE_CLASS; 1 to 10 are set 1 (a car park), 11 to 20 set 2 (a lawn).
        held_out=tuple(f"*_{sequence}_?.avi" for sequence in SEQUENCES),
        group=r"_(\d+)_\d\.",
        split="6 interactions; sequences 4 and 9 of set 1, 14 and 19 of set 2 (24 videos) held out, the other 11 "
        "sequences (66 videos) for training; the actors of a held-out sequence may be in other ones",
    ),
    "others": VideoSet(
        name="others",
        folders=(
            *("arid", "asl_gestures", "colored_shapes_synthetic", "fight_surveillance", "hmdb51"),
            *("hmdb51_stabilized", "kinetics400", "something_something_v2", "ucf101"),
        ),
        held_out=("*_5.mp4", "fi1*.mp4", "nofi1*.mp4", "[TW]*_1_1.mp4"),
        group=None,
        split="all other folders but odd",
    ),
}


def clips_folder() -> Path:
    """The folder clips of the research data. Ends the program where there is none."""
    found = Path(os.environ.get("VIDPREP_TEST_DATA", ROOT.parent / "shared")) / "clips"
    if not found.is_dir():
        sys.exit(f"there is no {found}; set VIDPREP_TEST_DATA to the folder that holds clips")
    return found


def listed(videos: VideoSet) -> Index:
    """The videos of a set, with classes, groups and splits."""
    clips = clips_folder()
    if len(videos.folders) == 1:
        return index(clips / videos.folders[0], holdout=videos.held_out, group=videos.group)
    found = index(clips, holdout=videos.held_out, group=videos.group)
    return replace(found, videos=tuple(video for video in found.videos if video.label in videos.folders))


def prepare(videos: VideoSet, dest: Path, *, size: tuple[int, int], fps: float | None = None) -> Path:
    """Index and pack a set into `dest`, going on where an earlier call stopped; returns `dest`."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    manifest = dest.with_suffix(".manifest.jsonl")
    write_index(listed(videos), manifest)
    pack(manifest, dest, size=size, fps=fps)
    return dest


def score(
    source: Path,
    data: Path,
    *,
    init: Literal["pretrained", "random"],
    seed: int,
    ks: Sequence[int],
    finetune: str,
    overrides: Sequence[str],
    clips: Sequence[str] = (),
    device: str = "auto",
    out: Path | None = None,
) -> tuple[Scores, Scores]:
    """Retrieval and fine-tuning of a run's network, and their chance levels, as shares.

    Args:
        source: run folder.
        ks: of retrieval.
        finetune, overrides: recipe of fine-tuning, and what is changed in it.
        clips: what is changed of the run's clips in retrieval.
    """
    options: dict[str, Any] = {"init": init, "seed": seed, "device": device, "out": out}
    retrieval, _ = evaluate_retrieval(source, data, ks=ks, overrides=clips, **options)
    tuned = evaluate_finetuning(source, data, recipe=finetune, overrides=overrides, resume=True, **options)
    if tuned.result is None:
        sys.exit(f"fine-tuning was stopped ({tuned.training.stopped}); the same command goes on")
    last = tuned.result["results"]["last"]
    found = {f"retrieval top {k}": retrieval["hits"][str(k)] for k in ks}
    found |= {"fine-tuned top 1": last["top1"], "fine-tuned clip top 1": last["clip_top1"]}
    chance = {f"retrieval top {k}": retrieval["chance"][str(k)] for k in ks}
    chance |= {"fine-tuned top 1": tuned.result["chance"], "fine-tuned clip top 1": tuned.result["chance"]}
    return found, chance


def spread(values: Sequence[float], *, digits: int = 1) -> str:
    """Mean ± standard deviation of the sample; the mean alone of one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def percent(by_seed: Mapping[int, float]) -> list[str]:
    """Cells of a table: each seed's share in percent, then mean ± standard deviation."""
    values = [100 * value for value in by_seed.values()]
    return [*(f"{value:.1f}" for value in values), spread(values)]
