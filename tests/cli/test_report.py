"""`vidprep report` finds the data set of a run for its contact sheet, and does without."""

from __future__ import annotations

import shutil

import pytest

from cli.main import run
from tests.trainer.evaluation_runs import SIZES, write_tiny_weights


@pytest.fixture
def evaluated(tiny_dataset, tmp_path, monkeypatch):
    """A data set, and the folder of a retrieval on it."""
    monkeypatch.setattr("trainer.report.figures.DPI", 40)
    data, weights = tiny_dataset(samples=10), write_tiny_weights(tmp_path / "tiny.safetensors")
    sizes = [part for value in SIZES for part in ("--set", value)]
    out = str(tmp_path / "out")
    arguments = ["evaluate", "retrieve", str(weights), "--data", str(data), "--out", out, "--views", "1", *sizes]
    assert run([*arguments, "--device", "cpu"]) == 0
    return data, tmp_path / "out"


def test_report_has_a_contact_sheet_of_the_data(evaluated, tmp_path, capsys):
    _, out = evaluated
    assert run(["report", str(out), "-o", str(tmp_path / "report.html"), "--title", "Tiny & small"]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "report.html: 0." in capsys.readouterr().out
    assert "<h1>Tiny &amp; small</h1>" in html
    assert "evenly spread frames" in html
    assert html.count("data:image/webp") > 0


def test_report_does_without_the_data(evaluated, tmp_path, capsys):
    data, out = evaluated
    shutil.rmtree(data)
    assert run(["report", str(out), "-o", str(tmp_path / "report.html")]) == 0
    assert "no contact sheet" in capsys.readouterr().err
    assert "No thumbnails from" in (tmp_path / "report.html").read_text()


def test_report_names_what_is_missing(tmp_path, capsys):
    assert run(["report", str(tmp_path / "none"), "-o", str(tmp_path / "report.html")]) == 1
    assert "there is no run folder" in capsys.readouterr().err
    assert run(["report"]) == 2
