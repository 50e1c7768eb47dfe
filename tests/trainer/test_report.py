"""A report is one file without outside resources, made from whatever a run has."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from shards.errors import DataError, UserError
from trainer.report import write_report
from trainer.report.figures import running_mean
from trainer.report.page import Sheet
from trainer.report.runs import read_curves

CLASSES = ["run", "walk <fast>", "jump", "wave", "spin", "bend"]
RECIPE = """\
name: demo
description: Pace prediction on <rendered> videos.
task: {name: pace, paces: 4}
backbone: {name: r3d-vcop, base_width: 8}
data: {frames: 8, crop: 56}
"""


def retrieve_result(url, init="pretrained", **changes):
    keys = [f"video_{i:03d}" for i in range(10)]
    name = [CLASSES[i % 2] for i in range(10)]
    examples = [
        {
            "query": {"key": keys[q], "sample": keys[q], "label": name[q]},
            "neighbours": [
                {"key": keys[g], "sample": keys[g], "label": name[g], "similarity": 0.9 - g / 50} for g in range(1, 6)
            ],
        }
        for q in (0, 5)
    ]
    top1 = 0.62 if init == "pretrained" else 0.31
    return {
        "kind": "retrieve",
        "init": init,
        "variant": "",
        "backbone": "r3d-vcop",
        "data": {"name": "tiny", "url": str(url)},
        "gallery_data": {"name": "tiny", "url": str(url)},
        "query_split": "test",
        "gallery_split": "train",
        "views": 10,
        "queries": 2,
        "gallery": 8,
        "hits": {"1": top1, "5": top1 + 0.2, "10": None},
        "chance": {"1": 0.167, "5": 0.6, "10": None},
        "examples": examples,
        "notes": ["1 of 2 queries share a source video with the gallery."],
        "command": "vidprep evaluate retrieve runs/demo --data data/tiny",
        "versions": {"vidprep": "0.1.0", "torch": "2.11"},
        **changes,
    }


def finetune_result(url, init="pretrained"):
    rng = np.random.default_rng(len(init))
    confusion = rng.integers(0, 3, (6, 6)) + 12 * np.eye(6, dtype=int)
    scores = {"top1": 0.8 if init == "pretrained" else 0.5, "top5": 0.97, "clip_top1": 0.7, "mean_class": 0.79}
    scores["confusion"] = confusion.tolist()
    return {
        **retrieve_result(url, init),
        "kind": "finetune",
        "train_split": "train",
        "test_split": "test",
        "videos": 90,
        "results": {"last": scores},
        "classes": CLASSES,
        "chance": 1 / 6,
        "notes": [],
        "command": f"vidprep evaluate finetune runs/demo --data data/tiny{' --init random' * (init == 'random')}",
    }


def write_training(folder, *, seed=0):
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "run.json").write_text(json.dumps({"data": {"url": "/data/tiny set"}}))
    rng = np.random.default_rng(seed)
    lines, held_out = ["step,loss,accuracy,lr"], ["step,loss,accuracy"]
    for step in range(10, 1001, 10):
        loss = 1.4 * math.exp(-step / 500) + 0.08 * rng.normal()
        right = 0.9 - 0.65 * math.exp(-step / 400) + 0.04 * rng.normal()
        lines.append(f"{step},{loss},{right},{0.05 * (1 + math.cos(step / 320))}")
        if step % 200 == 0:
            held_out.append(f"{step},{loss + 0.1},{right - 0.1}")
    (folder / "validation.csv").write_text("\n".join(held_out) + "\n")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    monkeypatch.setattr("trainer.report.figures.DPI", 40)


@pytest.fixture
def run(tmp_path, tiny_dataset):
    url = tiny_dataset(frames=40)
    folder = tmp_path / "demo"
    write_training(folder)
    for init in ("pretrained", "random"):
        suffix = "-random" if init == "random" else ""
        write_training(folder / "evaluation" / f"finetune-tiny{suffix}", seed=len(init))
        for result in (retrieve_result(url, init), finetune_result(url, init)):
            (folder / "evaluation" / f"{result['kind']}-tiny{suffix}.json").write_text(json.dumps(result))
    return folder


class Links(HTMLParser):
    """Everything that a browser would load, and the text."""

    def __init__(self):
        super().__init__()
        self.loaded, self.text, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.loaded += [(tag, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def parse(path):
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    assert links.open == []
    return links, " ".join(" ".join(links.text).split())


def test_a_full_report_is_self_contained(run, tmp_path):
    sheet = Sheet(image=b"\x89PNG\r\n\x1a\n", caption="six clips")
    out = write_report([run], tmp_path / "report.html", sheet=sheet, command="vidprep report runs/demo")
    links, text = parse(out)
    assert {tag for tag, _ in links.loaded} == {"img"}
    assert all(value.startswith("data:image/") for _, value in links.loaded)
    kinds = [re.match(r"data:image/(\w+);base64,", value)[1] for _, value in links.loaded]
    assert kinds.count("webp") == 12  # two queries with five neighbours each
    assert "@import" not in out.read_text()
    assert "url(" not in out.read_text()
    for expected in (
        "62.0 %",
        "31.0 %",
        "80.0 %",
        "chance",
        "16.7 %",
        "vidprep report runs/demo",
        "torch",
        "six clips",
        "demo/recipe.yaml --data '/data/tiny set'",
    ):
        assert expected in text
    assert "Pace prediction on <rendered> videos." in text
    assert "1 of 2 queries share a source video" in text


def test_names_are_escaped(run, tmp_path):
    html = write_report([run], tmp_path / "report.html").read_text()
    assert "walk &lt;fast&gt;" in html
    assert "<fast>" not in html
    assert "<rendered>" not in html


def test_without_the_data_set_there_are_no_thumbnails(run, tmp_path):
    for path in (run / "evaluation").glob("retrieve*.json"):
        path.write_text(json.dumps(retrieve_result(tmp_path / "gone")))
    links, text = parse(write_report([run], tmp_path / "report.html"))
    assert not any("webp" in value for _, value in links.loaded)
    assert "No thumbnails from" in text


@pytest.mark.parametrize("absent", ["log.csv", "recipe.yaml", "evaluation", "retrieve", "finetune"])
def test_any_part_may_be_absent(run, tmp_path, absent):
    import shutil

    if absent == "evaluation":
        shutil.rmtree(run / absent)
    elif absent in ("retrieve", "finetune"):
        for path in (run / "evaluation").glob(f"{absent}-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        (run / absent).unlink()
    parse(write_report([run], tmp_path / "report.html"))


def test_several_runs_stand_side_by_side(run, tmp_path):
    write_training(tmp_path / "second")
    (tmp_path / "second" / "evaluation").mkdir()
    result = retrieve_result(tmp_path, hits={"1": 0.77, "5": None, "10": None}, variant="max pooling")
    (tmp_path / "second" / "evaluation" / "retrieve-tiny-max.json").write_text(json.dumps(result))
    _, text = parse(write_report([run, tmp_path / "second"], tmp_path / "report.html"))
    assert "second: pretrained (max pooling)" in text
    assert "77.0 %" in text
    assert "demo: random initialisation" in text


def test_bad_input_is_named(run, tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no recipe\.yaml and no evaluation"):
        write_report([tmp_path / "empty"], tmp_path / "report.html")
    with pytest.raises(UserError, match=r"does not end in \.html"):
        write_report([run], tmp_path / "report.pdf")
    with pytest.raises(UserError, match="each once"):
        write_report([run, run], tmp_path / "report.html")
    (run / "evaluation" / "retrieve-tiny.json").write_text("{")
    with pytest.raises(DataError, match=r"retrieve-tiny\.json is not JSON"):
        write_report([run], tmp_path / "report.html")


def test_curves_keep_only_finite_numbers(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss,val_loss\n1,0.5,\n2,nan,0.25\n3,1.5,inf\n")
    assert read_curves(path) == {"loss": ([1, 3], [0.5, 1.5]), "val_loss": ([2], [0.25])}


def test_running_mean_equals_the_literal_one():
    values = np.random.default_rng(0).normal(size=90).tolist()
    smooth = running_mean(values)
    assert smooth[40] == pytest.approx(np.mean(values[32:41]))
    assert smooth[3] == pytest.approx(np.mean(values[:4]))
    assert running_mean(values[:15]) == values[:15]
