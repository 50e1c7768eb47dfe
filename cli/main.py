"""The `vidprep` command. Commands are imported when they are called, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import click

from cli.storage import shown, with_storage_option
from shards.errors import UserError


@dataclass(frozen=True)
class _Entry:
    section: str
    target: str  # module:command
    help: str


_COMMANDS: Mapping[str, _Entry] = {
    "demo": _Entry("Start", "cli.demo:demo", "From rendered videos to a report, in minutes."),
    "index": _Entry("Prepare", "cli.index:index", "List the videos of a folder in a manifest."),
    "pack": _Entry("Prepare", "cli.pack:pack", "Decode the videos of a manifest into a data set."),
    "plan": _Entry("Farm", "cli.farm:plan", "Fix shards and options, to be written in parts anywhere."),
    "run": _Entry("Farm", "cli.farm:run", "Write one part of what is planned."),
    "finalize": _Entry("Farm", "cli.farm:finalize", "Put finished columns in force."),
    "status": _Entry("Farm", "cli.farm:status", "What is done, running, failed and lost."),
    "retry": _Entry("Farm", "cli.farm:retry", "Try videos that gave no frame again."),
    "cancel": _Entry("Farm", "cli.farm:cancel", "End what was submitted to Slurm."),
    "import": _Entry("Prepare", "cli.folders:import_", "Bring frame and flow folders into a data set."),
    "index-shards": _Entry("Prepare", "cli.foreign:index_shards", "Index WebDataset tars of other tools."),
    "flow": _Entry("Prepare", "cli.derive:flow", "Add or regenerate the optical flow column."),
    "labels": _Entry("Prepare", "cli.derive:labels", "Add or regenerate the statistics label column."),
    "text": _Entry("Prepare", "cli.derive:text", "Add or regenerate the column of captions."),
    "flow-folders": _Entry("Prepare", "cli.folders:flow_folders", "Write flow as u and v folders of JPEGs."),
    "annotate": _Entry("Prepare", "cli.index:annotate", "Replace labels, splits, groups or captions."),
    "prune": _Entry("Prepare", "cli.derive:prune", "Delete column folders that are no longer used."),
    "merge": _Entry("Rearrange", "cli.ops:merge", "Put data sets behind each other into a new one."),
    "subset": _Entry("Rearrange", "cli.ops:subset", "Copy a part: by split, class, list or random share."),
    "split": _Entry("Rearrange", "cli.ops:split", "Write a data set for each split, class or group."),
    "reshard": _Entry("Rearrange", "cli.ops:reshard", "Write a data set with shards of another size."),
    "dedupe": _Entry("Rearrange", "cli.ops:dedupe", "Find samples that show the same, across splits."),
    "migrate": _Entry("Rearrange", "cli.ops:migrate", "Bring a data set up to the present format version."),
    "export": _Entry("Rearrange", "cli.foreign:export", "Write the layouts that older code reads."),
    "info": _Entry("Look", "cli.inspect:info", "What a data set holds."),
    "check": _Entry("Look", "cli.inspect:check", "Re-read a data set against its checksums."),
    "preview": _Entry("Look", "cli.inspect:preview", "Draw a contact sheet of clips with labels."),
    "train": _Entry("Train", "cli.train:train", "Pretrain a backbone by a recipe."),
    "simulate": _Entry("Train", "cli.simulate:simulate", "Tell what training will read, without training."),
    "recipes": _Entry("Train", "cli.recipes:recipes", "List, show and compare recipes."),
    "convert": _Entry("Train", "cli.weights:convert", "Make a published checkpoint a weights file."),
    "export-weights": _Entry("Train", "cli.weights:export_weights", "Write a backbone as TorchScript or ONNX."),
    "evaluate": _Entry("Train", "cli.evaluate:evaluate", "Measure how good the features are."),
    "report": _Entry("Train", "cli.report:report", "Write a report of runs."),
}


class _Group(click.Group):
    """Knows names and one-line helps of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return with_storage_option(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{hint} (commands: {', '.join(_COMMANDS)})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for section in dict.fromkeys(entry.section for entry in _COMMANDS.values()):
            with formatter.section(section):
                rows = [(f"{n:<{width}}", e.help) for n, e in _COMMANDS.items() if e.section == section]
                formatter.write_dl(rows)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"vidprep {version('vidprep')}")
        except PackageNotFoundError:
            click.echo("vidprep, run from a source tree that is not installed")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, help="Show the version.", callback=_show_version
)
def root() -> None:
    """Raw videos to WebDataset shards, and a streaming trainer for self-supervised video learning.

    \b
    vidprep index VIDEOS -o manifest.jsonl
    vidprep pack manifest.jsonl DATA
    vidprep train pace-r3d --data DATA --out RUN
    """


def main() -> NoReturn:
    """Entry point: runs the command line and exits with its status.

    0 done; 1 an error that the message says how to mend; 2 wrong usage; 130 ended by Ctrl-C.
    """
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit status.

    A reader of our output that has seen enough (`| head`) ends the command quietly; click takes care of that.
    """
    try:
        result = root.main(arguments, prog_name="vidprep", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        again = shown(["vidprep", *arguments])
        click.echo(f"\nstopped by Ctrl-C; to continue, run: {_with_resume(again, arguments)}", err=True)
        return 130
    return result if isinstance(result, int) else 0


def _with_resume(command: str, arguments: list[str]) -> str:
    """The command that goes on: training needs to be told that it may take up an existing run."""
    return f"{command} --resume" if "train" in arguments[:1] and "--resume" not in arguments else command


if __name__ == "__main__":
    main()
