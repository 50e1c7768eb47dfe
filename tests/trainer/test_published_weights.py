"""Checkpoints in the layout of each code base, converted and evaluated: features are the original network's.

Networks have their full width, which converting needs; clips are tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.video import mc3_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from cli.main import run
from shards.dataset import open_dataset
from shards.errors import UserError
from tests.tiny import build_dataset
from tests.trainer import literal_networks as literal
from tests.trainer.reference_networks import filled, shapes
from tests.trainer.test_convert import coclr, prefixed
from trainer.engine import train
from trainer.engine.distributed import Ranks
from trainer.evaluation.features import extract
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.evaluation.subject import resolve
from trainer.evaluation.views import view_spec
from trainer.models import build_backbone
from trainer.models.convert import convert
from trainer.models.sources import SOURCES
from trainer.models.weights import load_reference

FRAMES, RESIZE, CROP = 8, (24, 28), 20
SETS = [f"data.frames={FRAMES}", f"data.resize=[{RESIZE[0]},{RESIZE[1]}]", f"data.crop={CROP}", "data.workers=0"]

# (channels, scale, mean, deviation) of reference/evaluation.md section 11.4 and of the libraries' own pages.
BGR = ("bgr", 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET = ("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = ("rgb", 1.0, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
HARA = ("rgb", 1.0, (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))
KINETICS = ("rgb", 1.0, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


@dataclass(frozen=True)
class Published:
    """A checkpoint as its code base saves it, and what its network makes of normalised clips (B,3,T,H,W)."""

    checkpoint: Any
    network: Callable[[Tensor], Tensor]
    pixels: tuple[str, float, tuple[float, ...], tuple[float, ...]]
    backbone: str


def refilled(module: torch.nn.Module) -> dict[str, Tensor]:
    """The module gets weights by rule, so that features do not fade out; its state dict."""
    module.load_state_dict(filled({key: tuple(value.shape) for key, value in module.state_dict().items()}))
    module.eval()
    return dict(module.state_dict())


def ours(name: str) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    """For networks whose names are the reference's, and that golden files show to be right."""
    backbone = build_backbone(name)
    return refilled(backbone), lambda clips: backbone(clips).pooled


def numbers(*names: str, width: int = 512) -> dict[str, Tensor]:
    return {name: torch.zeros(3, width) for name in names}


def pace() -> Published:
    state = filled(shapes("pace-r3d"))
    model = load_reference("pace-r3d", state)
    checkpoint = {"epoch": 17, "state_dict": prefixed("module.", state), "opt_dict": {"state": {}, "lr": [0.001]}}
    return Published(checkpoint, lambda clips: model.backbone(clips).pooled, BGR, "r3d-vcop")


def statistics() -> Published:
    state = filled(shapes("statistics-r3d"))
    model = load_reference("statistics-r3d", state)
    return Published(
        {"epoch": 9, "state_dict": state, "opt_dict": {}}, lambda clips: model.backbone(clips).pooled, BGR, "r3d-vcop"
    )


def rspnet() -> Published:
    state = filled(literal.mfnet_shapes(classes=1))
    checkpoint = {
        **prefixed("encoder_q.encoder.", state),
        **prefixed("encoder_k.encoder.", {key: value + 1 for key, value in state.items()}),
        **prefixed("encoder_q.", numbers("fc1.2.weight", "fc2.2.weight")),
        "queue": torch.zeros(128, 8),
        "queue_ptr": torch.zeros(1),
    }
    whole = {"epoch": 200, "arch": "mfnet", "model": checkpoint, "best_loss": 1.5, "optimizer": {}, "scheduler": {}}
    return Published(whole, lambda clips: literal.mfnet(state, clips), IMAGENET, "mfnet")


def cpd() -> Published:
    state, network = ours("cpd-r10")
    whole = {
        **prefixed("module.visual_encoder.", state),
        **prefixed("module.", numbers("vis_emb.weight", "text_emb.weight", "vis_memory", "text_memory")),
        **prefixed("module.textual_encoder.", numbers("embeddings.word_embeddings.weight")),
    }
    return Published({"epoch": 30, "arch": "resnet-10", "state_dict": whole}, network, GREY, "cpd-r10")


def concepts() -> Published:
    """A bare state dict; the network is torchvision's class with one block a stage."""
    network = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [1, 1, 1, 1], R2Plus1dStem)
    state = refilled(network)
    network.fc = torch.nn.Identity()
    heads = numbers("fv.0.weight", "gs.0.weight", "prototype.weight", "lit.to_kv.weight")
    whole = prefixed("module.", {**prefixed("backbone.", state), **heads, "queue": torch.zeros(4, 6, 20)})
    return Published(whole, network, IMAGENET, "r21d-tv")


def coclr_s3d() -> Published:
    state, network = ours("s3d-coclr")
    theirs = {coclr(key): value for key, value in state.items()}
    whole = {
        **prefixed("encoder_q.0.", theirs | {f"block1.{i}": value for i, value in enumerate(theirs.values())}),
        **prefixed("encoder_q.2.", {"weight": torch.zeros(1024, 1024, 1, 1, 1)}),
        **prefixed("encoder_k.0.", theirs),
        "queue": torch.zeros(128, 8),
    }
    return Published({"epoch": 99, "state_dict": whole}, network, IMAGENET, "s3d-coclr")


def kenshohara() -> Published:
    state, network = ours("resnet3d-hara-10")
    whole = prefixed("module.", {**state, **numbers("fc.weight")})
    return Published({"arch": "resnet-10", "state_dict": whole}, network, HARA, "resnet3d-hara-10")


def torchvision() -> Published:
    network = mc3_18(weights=None)
    state = refilled(network)
    network.fc = torch.nn.Identity()
    return Published(state, network, KINETICS, "mc3-18")


def pyslowfast() -> Published:
    state = filled(literal.pyslowfast_shapes("c2d-r50"))
    whole = {"epoch": 196, "model_state": state, "optimizer_state": {}, "cfg": "MODEL:\n  ARCH: c2d\n"}
    return Published(whole, lambda clips: literal.one_pathway(state, clips, pairs=True), GREY, "c2d-r50")


PUBLISHED: dict[str, Callable[[], Published]] = {
    "pace": pace,
    "statistics": statistics,
    "rspnet": rspnet,
    "cpd": cpd,
    "concepts": concepts,
    "coclr": coclr_s3d,
    "kenshohara": kenshohara,
    "torchvision": torchvision,
    "pyslowfast": pyslowfast,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos; to be read only."""
    return build_dataset(tmp_path_factory.mktemp("published"), samples=10)


def literal_features(published: Published, url: Path, samples: np.ndarray, views: int) -> np.ndarray:
    """(videos,D): pixels by hand, the mean over a video's clips."""
    dataset, (channels, scale, mean, std) = open_dataset(url), published.pixels
    rows = []
    for number in samples:
        clips = []
        for start in np.round(np.linspace(0, 12 - FRAMES, views)).astype(int):
            frames = [
                cv2.resize(frame, RESIZE[::-1], interpolation=cv2.INTER_LINEAR)[2:22, 4:24]
                for frame in dataset.frames(int(number), range(start, start + FRAMES))
            ]
            pixels = np.stack(frames)[..., ::-1] if channels == "bgr" else np.stack(frames)
            clips.append(torch.from_numpy((pixels.astype(np.float32) / 255 * scale - mean) / std).float())
        with torch.no_grad():
            rows.append(published.network(torch.stack(clips).permute(0, 4, 1, 2, 3)).mean(0).numpy())
    return np.stack(rows)


def test_every_source_is_here():
    assert list(PUBLISHED) == list(SOURCES)


FAST = ("pace", "rspnet", "cpd", "torchvision")


@pytest.mark.parametrize("source", [pytest.param(it, marks=[] if it in FAST else pytest.mark.slow) for it in PUBLISHED])
def test_converted_weights_are_evaluated_with_the_original_features(source, url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    published = PUBLISHED[source]()
    torch.save(published.checkpoint, "c.pth.tar", _use_new_zipfile_serialization=source != "pace")
    assert run(["convert", "c.pth.tar", "--from", source, "-o", "w.safetensors"]) == 0
    assert f"backbone    {published.backbone}" in capsys.readouterr().out
    dataset = open_dataset(url)
    samples = dataset.select(split="test")
    subject = resolve("w.safetensors", overrides=SETS)
    found = extract(
        subject.backbone(seed=0),
        dataset,
        samples,
        view_spec(subject.data, views=2),
        ranks=Ranks(0, 1, torch.device("cpu")),
        workers=0,
    )
    expected = literal_features(published, url, samples, views=2)
    assert expected.std() > 1e-3
    assert np.abs(found.values - expected).max() < 1e-4 * np.abs(expected).max()
    # Another network than the file's is refused, with the one to name.
    with pytest.raises(UserError, match=rf"holds {published.backbone} .*does not fit c3d-bn(.|\n)*backbone\.name="):
        evaluate_retrieval("w.safetensors", url, overrides=[*SETS, "backbone.name=c3d-bn"], device="cpu")


def test_the_commands_of_the_documentation(url, tmp_path, monkeypatch, capsys):
    """docs/evaluation.md, for one source: convert, retrieve, fine-tune by a reference's recipe, train."""
    monkeypatch.chdir(tmp_path)
    published = kenshohara()
    torch.save(published.checkpoint, "c.pth")
    data, sets = ["--data", str(url)], [part for value in SETS for part in ("--set", value)]
    few = ["--views", "2", "--device", "cpu", *sets]
    assert run(["convert", "c.pth", "--from", "kenshohara", "-o", "w.safetensors"]) == 0
    assert run(["evaluate", "retrieve", "w.safetensors", *data, *few]) == 0
    assert "retrieval, pretrained weights" in capsys.readouterr().out
    short = ["--set", "train.batch=4", "--set", "train.epochs=null", "--set", "train.steps=1"]
    recipe = ["--recipe", "rspnet-finetune-ucf101-resnet18"]
    assert run(["evaluate", "finetune", "w.safetensors", *data, *recipe, *few, *short]) == 0
    assert "resnet3d-hara-10 starts from w.safetensors: 72 of 72 tensors match" in capsys.readouterr().out
    command = ["train", "finetune", *data, "--split", "train", "--init", "w.safetensors", "--device", "cpu", *sets]
    assert run([*command, *short, "--out", "wrong"]) == 1
    assert "--set backbone.name=resnet3d-hara-10" in capsys.readouterr().err
    assert run([*command, *short, "--set", "backbone.name=resnet3d-hara-10", "--out", "right"]) == 0


def test_training_goes_on_with_the_pixels_of_the_weights(url, tmp_path):
    """The convention of the file, not that of the backbone's own reference."""
    published = cpd()
    torch.save(published.checkpoint, tmp_path / "c.pth")
    given = {"channels": "bgr", "scale": 255.0, "mean": [99.5, 107.7, 114.8], "std": [1.0, 1.0, 1.0]}
    convert(tmp_path / "c.pth", "cpd", tmp_path / "w.safetensors", convention=given)
    recipe = {
        "name": "small",
        "task": {"name": "pace"},
        "backbone": {"name": "cpd-r10"},
        "data": {"frames": 4, "resize": [24, 28], "crop": 16, "workers": 0},
        "optim": {"name": "sgd", "lr": 0.001},
        "train": {"batch": 2, "steps": 1},
    }
    done = train(recipe, url, out=tmp_path / "run", init=tmp_path / "w.safetensors", device="cpu").run
    import trainer

    assert trainer.load_backbone(done).convention.tree() == given
    with pytest.raises(UserError, match=r"remove backbone\.convention"):
        recipe["backbone"]["convention"] = {"channels": "rgb"}
        train(recipe, url, out=tmp_path / "other", init=tmp_path / "w.safetensors", device="cpu")
