"""`vidprep convert` and `vidprep export-weights`."""

from __future__ import annotations

from pathlib import Path

import click

SOURCES = ("pace", "statistics", "rspnet", "cpd", "concepts", "coclr", "kenshohara", "torchvision", "pyslowfast")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--from", "source", required=True, type=click.Choice(SOURCES), help="Whose checkpoint it is.")
@click.option(
    "-o", "--output", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Weights file to write."
)
@click.option(
    "--convention",
    metavar="YAML",
    help="How the network wants pixels, if not as the source's: '{channels: bgr, scale: 255}'.",
)
def convert(checkpoint: Path, source: str, output: Path, convention: str | None) -> None:
    """Make a published checkpoint a weights file for --init and evaluate.

    Finds out which backbone it is, and refuses to leave out anything but what it names: heads, queues, key encoders.
    Nothing that a file brings along is run.

    \b
    vidprep convert checkpoint.pth.tar --from rspnet -o rspnet-r21d.safetensors
    vidprep evaluate finetune rspnet-r21d.safetensors --data DATA
    vidprep train finetune --data DATA --init rspnet-r21d.safetensors --set backbone.name=r21d-vcop
    """
    import yaml

    from shards.errors import UserError
    from trainer.models.convert import convert as run

    try:
        pixels = yaml.safe_load(convention) if convention is not None else None
    except yaml.YAMLError as error:
        raise UserError(f"--convention is not YAML: {convention!r}; write '{{channels: rgb, scale: 1.0}}'") from error
    conversion = run(checkpoint, source, output, convention=pixels)
    click.echo("\n".join([*conversion.lines(), f"wrote {output}"]))


@click.command("export-weights")
@click.argument("run", metavar="RUN|WEIGHTS", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(path_type=Path), help="File to write.")
@click.option(
    "--to", type=click.Choice(["safetensors", "torchscript", "onnx"]), help="Format.  [by the ending of FILE]"
)
@click.option("--clip", metavar="TxHxW", help="Size of clips, for torchscript and onnx.  [that of the run]")
@click.option("--pixels", is_flag=True, help="Take RGB as uint8 and normalise inside (torchscript and onnx).")
def export_weights(run: Path, output: Path, to: str | None, clip: str | None, pixels: bool) -> None:
    """Write a backbone for other programs: safetensors, TorchScript or ONNX.

    TorchScript and ONNX files turn clips (B,3,T,H,W) of one size into features (B,D), without this package. Each is run
    and compared before the command ends.

    \b
    vidprep export-weights runs/pace-r3d-ucf101 -o backbone.safetensors
    vidprep export-weights runs/pace-r3d-ucf101 -o backbone.pt --pixels
    vidprep export-weights weights.safetensors -o backbone.onnx --clip 16x112x112
    """
    from trainer.api import clip_size, load_backbone
    from trainer.models.export import export

    size = _size(clip) if clip is not None else clip_size(run)
    for line in export(load_backbone(run), output, to=to, clip=size, pixels=pixels):  # type: ignore[arg-type]
        click.echo(line)


def _size(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r} is not FRAMESxHEIGHTxWIDTH, such as 16x112x112", param_hint="--clip")
    return tuple(int(part) for part in parts)
