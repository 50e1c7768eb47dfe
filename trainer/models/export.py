"""Backbones for programs without this package: TorchScript and ONNX, each checked by running what was written."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from shards.errors import UserError
from shards.publish import Aside
from trainer.models.base import Backbone
from trainer.models.weights import save_weights

Format = Literal["safetensors", "torchscript", "onnx"]
SUFFIXES: dict[str, Format] = {".safetensors": "safetensors", ".pt": "torchscript", ".onnx": "onnx"}
DESCRIPTION = "vidprep.json"
Run: TypeAlias = Callable[[Tensor], Tensor]
_TOLERANCE = 1e-3
_BATCHES = (1, 2, 3)


class Pixels(nn.Module):
    """Features of a clip as a video file has it: (B,3,T,H,W), RGB, uint8 → (B,D)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        convention = backbone.convention
        mean, std = (torch.tensor(values)[:, None, None, None] for values in (convention.mean, convention.std))
        self.register_buffer("scale", convention.scale / 255 / std)
        self.register_buffer("shift", mean / std)
        self.flipped = convention.channels == "bgr"

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        x = clip_BCTHW.flip(1) if self.flipped else clip_BCTHW
        return pooled(self.backbone, x.float() * self.scale - self.shift)


class Normalised(nn.Module):
    """Features of a clip in the backbone's convention: (B,C,T,H,W) float → (B,D)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        return pooled(self.backbone, clip_BCTHW)


def pooled(backbone: Backbone, clip_BCTHW: Tensor) -> Tensor:
    """The pooled vector, without the checks that a trace would turn into constants."""
    last = next(reversed(backbone.stages(clip_BCTHW).values()))
    return last.mean((2, 3, 4))


def export(
    backbone: Backbone,
    output: str | Path,
    *,
    to: Format | None = None,
    clip: Sequence[int] | None = None,
    pixels: bool = False,
) -> list[str]:
    """Write a backbone for others to use; returns lines that say what was written and how it was checked.

    TorchScript and ONNX files map clips of one size, in batches of any size, to pooled vectors.

    Args:
        backbone: on the CPU; it is put in eval mode.
        output: file to write; one that is there is replaced.
        to: by default what the ending of `output` says: .safetensors, .pt (TorchScript), .onnx.
        clip: (T,H,W) of the clips, for TorchScript and ONNX.
        pixels: take RGB of 0..255, uint8, and bring it to the backbone's convention inside.

    Raises:
        UserError: an unknown format or ending, a package that is missing, a clip that is too small, or an exported
            file that gives other features.
        StorageError: the file cannot be written.
    """
    path = Path(output)
    chosen = to or SUFFIXES.get(path.suffix)
    if chosen not in get_args(Format):
        allowed = f"--to {', '.join(get_args(Format))}, or a file that ends with {', '.join(SUFFIXES)}"
        raise UserError(f"{output}: unknown format {to or path.suffix!r}; allowed: {allowed}")
    backbone.eval()
    if chosen == "safetensors":
        if pixels:
            raise UserError("--pixels is for torchscript and onnx; a safetensors file says which pixels it wants")
        save_weights(path, backbone)
        return [f"{path}: {backbone.id}, {sum(t.numel() for t in backbone.state_dict().values()):,} values"]
    if clip is None or len(clip) != 3:
        raise UserError(f"{chosen} needs the size of clips: --clip FRAMESxHEIGHTxWIDTH, such as --clip 16x112x112")
    if pixels and backbone.in_channels != 3:
        raise UserError("--pixels is for RGB; this backbone takes flow. Leave it out")
    with torch.no_grad():
        backbone(torch.zeros(1, backbone.in_channels, *clip))  # says what is wrong with the size
    module = (Pixels(backbone) if pixels else Normalised(backbone)).eval()
    example = _example(backbone.in_channels, clip, 2, pixels=pixels)
    write = _torchscript if chosen == "torchscript" else _onnx
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of both exporters: sizes become constants, which is what is asked for
        file = Path(folder) / "exported"
        error = _largest_difference(
            module, example, write(module, example, file, _description(backbone, clip, pixels=pixels))
        )
        if not error <= _TOLERANCE:
            raise UserError(
                f"{chosen} gives features {error:.1e} (relative) apart from the backbone's; nothing was written"
            )
        _publish(path, file.read_bytes())
    size = " x ".join(map(str, clip))
    shape = ",".join(map(str, (backbone.in_channels, *clip)))
    return [
        f"{path}: {backbone.id} as {chosen}, clips (B,{shape}) to features (B,{backbone.width})",
        f"ran it on batches of 1, 2 and 3 clips of {size}: largest difference {error:.1e} of the largest feature",
    ]


def _example(channels: int, clip: Sequence[int], batch: int, *, pixels: bool) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, channels, *clip)
    if pixels:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator)


def _description(backbone: Backbone, clip: Sequence[int], *, pixels: bool) -> str:
    said = {
        "backbone": backbone.id,
        "width": backbone.width,
        "clip": list(clip),
        "input": "RGB, uint8" if pixels else "normalised",
        "convention": backbone.convention.tree(),
    }
    return json.dumps(said)


def _torchscript(module: nn.Module, example: Tensor, file: Path, description: str) -> Run:
    traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call, unused-ignore]
    torch.jit.save(traced, file, _extra_files={DESCRIPTION: description})  # type: ignore[no-untyped-call, unused-ignore]
    again: Run = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call, unused-ignore]
    return again


def _onnx(module: nn.Module, example: Tensor, file: Path, description: str) -> Run:
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"onnx needs {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed: pip install "
            "'vidprep[export]'. Or use --to torchscript"
        )
    # Packages that training does not need.
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    torch.onnx.export(
        module,
        (example,),
        str(file),
        input_names=["clip"],
        output_names=["pooled"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {DESCRIPTION: description})
    file.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run(["pooled"], {"clip": clip.numpy()})[0])


def _publish(path: Path, data: bytes) -> None:
    file = Aside(path)
    try:
        file.write(data)
        file.publish(replace=True)
    finally:
        file.discard()


def _largest_difference(module: nn.Module, example: Tensor, run: Run) -> float:
    """Relative, over batches of one to three clips.

    Raises:
        UserError: the backbone's own features are not finite, so that nothing can be compared.
    """
    found = []
    for batch in _BATCHES:
        clip = example[torch.arange(batch) % len(example)].roll(batch, 2)
        expected, got = module(clip), run(clip)
        if not expected.isfinite().all():
            raise UserError(
                "the backbone's features of a clip of noise are not finite; are its weights? Nothing written"
            )
        found.append((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return float(torch.stack(found).max())  # NaN if one is
