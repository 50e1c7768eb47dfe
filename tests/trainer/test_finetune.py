"""Fine-tuning: what is tested is the trained network, classes go by name, and a stopped one goes on exactly."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from shards.dataset import open_dataset
from shards.errors import UserError
from tests.trainer.evaluation_runs import TINY, write_recipe, write_tiny_weights
from trainer.config import load_recipe
from trainer.engine.checkpoint import checkpoint_paths, read_checkpoint
from trainer.engine.distributed import Ranks
from trainer.evaluation.finetune import evaluate_finetuning
from trainer.evaluation.predict import load_classifier, predict
from trainer.evaluation.views import view_spec

ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def setup(tiny_dataset, tmp_path):
    """Run the fine-tuning of a tiny network: `run(folder, **options)`."""
    url = tiny_dataset(samples=15)
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    recipe = write_recipe(tmp_path / "recipe.yaml")

    def run(folder, *, source=weights, data=url, **options):
        options = {"recipe": str(recipe), "views": 3, "device": "cpu", **options}
        return evaluate_finetuning(source, data, out=tmp_path / folder, **options)

    run.url, run.weights = url, weights
    return run


def tensors(run):
    return read_checkpoint(checkpoint_paths(run / "checkpoints")[-1]).tensors


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_numbers_are_those_of_the_trained_network(setup):
    done = setup("out")
    run = done.training.run
    assert run.name == "finetune-tiny-train"
    assert load_recipe(run / "recipe.yaml").init == str(setup.weights)
    dataset, task = open_dataset(setup.url), load_classifier(run)
    samples = dataset.select(split="test")
    right, clips_right = 0, []
    for number in samples:
        probabilities = []
        for start in np.round(np.linspace(0, 12 - 4, 3)).astype(int):
            import cv2

            frames = [
                cv2.resize(f, (24, 20), interpolation=cv2.INTER_LINEAR)
                for f in dataset.frames(number, range(start, start + 4))
            ]
            clip = torch.from_numpy(np.stack(frames)[:, 2:18, 4:20].astype(np.float32) / 255)
            clip = (clip.permute(3, 0, 1, 2)[None] - 0.4) / 0.2
            with torch.inference_mode():
                scores = task.logits(clip).softmax(1)[0].numpy()
            probabilities.append(scores)
            clips_right.append(scores.argmax() == dataset.labels[number])
        right += np.mean(probabilities, axis=0).argmax() == dataset.labels[number]
    last = done.result["results"]["last"]
    assert last["top1"] == pytest.approx(right / len(samples))
    assert last["clip_top1"] == pytest.approx(np.mean(clips_right))
    assert done.result["videos"] == len(samples)
    assert json.loads(done.path.read_text())["results"]["last"] == last
    with (run / "predictions-last.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [dataset.key(int(i)) for i in samples]
    assert sum(row["label_rank"] == "1" for row in rows) == right
    assert all((row["label"] == row["predicted"]) == (row["label_rank"] == "1") for row in rows)


def test_a_stopped_one_goes_on_to_the_same_parameters(setup, monkeypatch):
    whole = setup("whole")
    from trainer.engine.stop import Stop

    asked = iter(range(100))
    stop = Stop.reason
    monkeypatch.setattr(Stop, "reason", lambda self: 1 if next(asked) >= 2 else stop(self))
    stopped = setup("stopped")
    assert stopped.result is None
    assert 0 < stopped.training.step < 6
    monkeypatch.setattr(Stop, "reason", stop)
    with pytest.raises(UserError, match="Continue it with --resume"):
        setup("stopped")
    resumed = setup("stopped", resume=True)
    assert same(tensors(whole.training.run), tensors(resumed.training.run))
    assert whole.result["results"] == resumed.result["results"]
    again = setup("stopped", resume=True)
    assert again.result["results"] == resumed.result["results"]


def test_random_weights_do_not_look_at_the_pretrained_ones(setup, tmp_path):
    fresh = setup("a", init="random", seed=5)
    assert fresh.training.run.name == "finetune-tiny-train-random"
    assert load_recipe(fresh.training.run / "recipe.yaml").init is None
    assert load_recipe(fresh.training.run / "recipe.yaml").train.seed == 5
    other = setup("b", source=write_tiny_weights(tmp_path / "other.safetensors", seed=9), init="random", seed=5)
    assert same(tensors(fresh.training.run), tensors(other.training.run))
    named = setup("c", source=f"random:{TINY}", seed=5)
    assert same(tensors(fresh.training.run), tensors(named.training.run))
    assert named.result["init"] == fresh.result["init"] == "random"
    assert not same(tensors(fresh.training.run), tensors(setup("d", seed=5).training.run))


def test_the_best_checkpoint_is_reported_beside_the_last(setup):
    changes = ["train.validation.every=0.5"]
    done = setup("out", val_split=None)
    assert set(done.result["results"]) == {"last"}
    with pytest.raises(UserError, match="both splits 'test' and 'test'"):
        setup("both", val_split="test", overrides=changes)
    with pytest.raises(UserError, match="no best checkpoint"):
        load_classifier(done.training.run, "best")


def test_best_is_the_checkpoint_of_the_best_validation(setup, tiny_dataset):
    done = setup("out", val_split="test", test_data=tiny_dataset(samples=20), overrides=["train.validation.every=0.25"])
    assert set(done.result["results"]) == {"last", "best"}
    with (done.training.run / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1
    best = max(rows, key=lambda row: float(row["accuracy"]))
    link = (done.training.run / "checkpoints" / "best").resolve()
    assert int(link.name.removeprefix("step-")) == int(best["step"])


def test_classes_go_by_name(setup, tiny_dataset):
    same_videos = tiny_dataset(samples=15, classes=("walk", "run"))  # sample i has the other name
    straight = setup("a").result["results"]["last"]
    mirrored = setup("a", test_data=same_videos, resume=True).result["results"]["last"]
    assert mirrored["top1"] == pytest.approx(1 - straight["top1"])
    assert np.array_equal(np.array(mirrored["confusion"]), np.array(straight["confusion"])[::-1])
    with pytest.raises(UserError, match=r"the model does not know: 'jump'"):
        setup("a", test_data=tiny_dataset(samples=15, classes=("run", "jump")), resume=True)


def test_fusion_of_logits_is_the_mean_of_logits(setup):
    run = setup("out").training.run
    dataset, task = open_dataset(setup.url), load_classifier(run)
    spec = view_spec(load_recipe(run / "recipe.yaml").data, views=3)
    samples = dataset.select(split="test")
    options = {"ranks": ONE, "workers": 0}
    logits = predict(task, dataset, samples, spec, fusion="logits", **options)
    shares = predict(task, dataset, samples, spec, **options)
    assert np.allclose(shares.scores.sum(1), 1, atol=1e-5)
    assert not np.allclose(logits.scores.sum(1), 1, atol=1e-3)
    assert logits.clip_top1 == shares.clip_top1
    with pytest.raises(UserError, match="allowed: probabilities, logits"):
        predict(task, dataset, samples, spec, fusion="max", **options)


def test_a_run_brings_its_backbone_and_clips(setup, tmp_path):
    from trainer.evaluation.subject import resolve

    run = setup("out").training.run
    subject = resolve(str(run))
    assert subject.recipe.backbone.name == TINY
    assert (subject.data.frames, subject.data.resize, subject.data.crop) == (4, (20, 24), 16)
    assert subject.folder == run
    assert resolve(str(run), recipe="finetune").data.crop == 112
    assert resolve(str(run), overrides=["data.crop=12"]).data.crop == 12
    checkpoint = checkpoint_paths(run / "checkpoints")[0]
    assert resolve(str(checkpoint)).data.crop == 16
    assert resolve(str(checkpoint)).folder.name == f"finetune-tiny-train-{checkpoint.name}"
    with pytest.raises(UserError, match="needs the name of a backbone"):
        resolve("random:")
    wrong = resolve(str(run), overrides=["backbone.features=8"])
    with pytest.raises(UserError, match="does not fit"):
        wrong.backbone(seed=0)
