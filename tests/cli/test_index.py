"""`vidprep index` and `vidprep annotate` from the command line."""

import json
from pathlib import Path

import pytest

from cli.main import run
from shards.dataset import open_dataset
from tests.tiny import build_dataset
from vidprep.records import read_manifest


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for name in ("walk/ann_1.mp4", "walk/bob_1.avi", "run/ann_1.mp4", "run/bob 2.mp4", "run/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_index_writes_manifest_and_class_table_and_prints_a_summary(videos, tmp_path, capsys):
    output = tmp_path / "set.jsonl"
    code = run(["index", str(videos), "-o", str(output), "--holdout", "bob*", "--group", "([a-z]+)_"])
    assert code == 0
    found = {v.path: v for v in read_manifest(output)}
    assert {path: v.splits for path, v in found.items()} == {
        "run/ann_1.mp4": ("train",),
        "run/bob 2.mp4": ("test",),
        "walk/ann_1.mp4": ("train",),
        "walk/bob_1.avi": ("test",),
    }
    assert (tmp_path / "set.classes.txt").read_text() == "run\nwalk\n"
    out, err = capsys.readouterr()
    assert [line.split("\t") for line in out.splitlines()[1:5]] == [
        ["split", "videos", "classes", "groups", "without label"],
        ["all", "4", "2", "2", "0"],
        ["test", "2", "2", "1", "0"],
        ["train", "2", "2", "1", "0"],
    ]
    assert f"next: vidprep pack {output}" in out
    assert "1 entries that are no videos: .txt (1)" in err
    assert "--group fits 3 of 4" in err


def test_index_reports_split_files_and_shared_groups(videos, tmp_path, capsys):
    (tmp_path / "a=b.json").write_text(json.dumps({"train": ["run/ann_1.mp4"], "test": ["walk/ann_1"]}))
    (tmp_path / "list.txt").write_text("WALK/bob_1.avi\nwalk/none.avi\n")
    line = ["index", str(videos), "-o", f"{tmp_path}/set.jsonl", "--group", "([a-z]+)[_ ]"]
    line += ["--split-file", f"mine={tmp_path}/list.txt", "--split-file", f"{tmp_path}/a=b.json"]
    assert run(line) == 0
    out, err = capsys.readouterr()
    assert "list.txt is a UCF101 list: mine 1; 1 only with letter case ignored" in err
    assert "warning: " in err
    assert "1 entries without a video: walk/none.avi" in err
    assert "a=b.json is a JSON split to names: train 1, test 1" in err
    assert "warning: train and test share 1 groups: ann" in err
    assert "(in no split)\t1\t" in out
    assert run([*line, "--strict"]) == 1


def test_index_with_a_catalog_of_ones_own(tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "from vidprep.records import Video\n"
        "def clips(root, *, number):\n"
        "    return [Video(key=f'k{i}', path=f'{i}.mp4', root=str(root)) for i in range(int(number))]\n"
    )
    line = ["index", str(tmp_path), "-o", f"{tmp_path}/m.jsonl", "--format", f"{tmp_path}/own.py:clips"]
    assert run([*line, "--option", "number=3"]) == 0
    assert len(list(read_manifest(tmp_path / "m.jsonl"))) == 3
    assert not (tmp_path / "m.classes.txt").exists()
    assert run([*line, "--option", "number"]) == 2
    assert "'number' is not KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{tmp}/none", "-o", "{tmp}/m.jsonl"], 1, "does not exist"),
        (["{tmp}/empty", "-o", "{tmp}/m.jsonl"], 1, "is empty"),
        (["{videos}", "-o", "{tmp}/no/m.jsonl"], 1, "cannot write"),
        (["{videos}", "-o", "{tmp}/m.jsonl", "--split-file", "x="], 2, "not NAME=FILE"),
        (["{videos}", "-o", "{tmp}/m.jsonl", "--split-file", "x={tmp}/none.txt"], 1, "cannot read the split file"),
        (["{videos}"], 2, "--output"),
    ],
)
def test_mistakes_end_with_a_message(videos, tmp_path, capsys, arguments, code, words):
    (tmp_path / "empty").mkdir()
    assert run(["index", *(a.format(tmp=tmp_path, videos=videos) for a in arguments)]) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "m.jsonl").exists()


def test_annotate_replaces_labels_without_touching_tars(tmp_path, capsys):
    dest = build_dataset(tmp_path / "data")
    tars = {path: path.read_bytes() for path in dest.rglob("*.tar")}
    (tmp_path / "labels.csv").write_text("key,label,splits\nvideo_000,jump,a;b\nvideo_001,,\n")
    (tmp_path / "classes.txt").write_text("1 walk\n2 jump\n3 run\n")
    assert run(["annotate", str(dest), f"{tmp_path}/labels.csv", "--classes", f"{tmp_path}/classes.txt"]) == 0
    data = open_dataset(dest)
    assert data.classes == ("walk", "jump", "run")
    assert (data[0].label, data[0].label_index, data[0].splits) == ("jump", 1, ("a", "b"))
    assert (data[1].label, data[1].splits) == (None, ())
    assert data[2].label == "run"
    assert {path: path.read_bytes() for path in dest.rglob("*.tar")} == tars
    out = capsys.readouterr().out
    assert "2 lines; 2 samples changed" in out
    assert "classes: 3" in out
    assert run(["annotate", str(dest), f"{tmp_path}/none.csv"]) == 1
    assert "none.csv" in capsys.readouterr().err
