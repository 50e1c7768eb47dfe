"""The demo prints the commands it runs, ends with a report, and goes on after an interruption."""

from __future__ import annotations

import json
import shlex

import pytest

import cli.demo
from cli.main import run


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A demo of two persons and a few steps."""
    monkeypatch.setattr(cli.demo, "PERSONS", 2)
    monkeypatch.setattr(cli.demo, "TEST_PERSONS", 1)
    monkeypatch.setattr("vidprep.synthetic.TAKES", 1)
    monkeypatch.setattr("trainer.report.figures.DPI", 40)
    whole = cli.demo.commands

    def shorter(*args, **options):
        for command in whole(*args, **options):
            short = ["--set", "train.epochs=null", "--set", "train.steps=2", "--set", "train.batch=4"]
            trains = command[0] == "train" or command[:2] == ["evaluate", "finetune"]
            views = ["--views", "1"] if command[0] == "evaluate" else []
            yield [*command, *(short if trains else []), *views]

    monkeypatch.setattr(cli.demo, "commands", shorter)
    return tmp_path / "demo"


@pytest.mark.slow
def test_the_demo_ends_with_a_report(small, capsys):
    assert run(["demo", "--out", str(small)]) == 0
    shown = capsys.readouterr().out
    commands = [shlex.split(line[2:])[1:] for line in shown.splitlines() if line.startswith("$ ")]
    kinds = [" ".join(command[:2] if command[0] == "evaluate" else command[:1]) for command in commands]
    evaluations = ["evaluate retrieve", "evaluate finetune"] * 2
    assert kinds == ["index", "pack", "check", "train", *evaluations, "report"]
    assert f"open {small}/report.html in a browser" in shown
    html = (small / "report.html").read_text()
    for text in ("random initialisation", "Retrieval", "Fine-tuning", "zigzag"):
        assert text in html
    results = [json.loads(path.read_text()) for path in (small / "run" / "evaluation").glob("*.json")]
    assert sorted((r["kind"], r["init"]) for r in results) == [
        ("finetune", "pretrained"),
        ("finetune", "random"),
        ("retrieve", "pretrained"),
        ("retrieve", "random"),
    ]
    assert all(r["command"].startswith(f"vidprep evaluate {r['kind']} {small}/run") for r in results)

    # Interrupted before the report: the same command goes on with what is there.
    (small / "report.html").unlink()
    assert run(["demo", "--out", str(small)]) == 0
    assert capsys.readouterr().out.count("--resume") >= 3
    assert (small / "report.html").exists()
