"""What benchmarks/pretext.py is made of: captions, settings, and the page. Training is tried by running it."""

import re

import pytest

from benchmarks._captions import caption, paraphrases, token_rows
from benchmarks._learning import SETS, listed, percent, spread
from benchmarks._pretext import FULL, PLANS, SMALL
from benchmarks._pretext_page import describe
from trainer.config import load_recipe


def test_captions_are_made_of_folder_and_set():
    assert caption("weizmann--jack--denis_jack") == "a video of jack from weizmann"
    assert caption("ucf101--BabyCrawling--v_BabyCrawling_g01_c01") == "a video of baby crawling from ucf"
    assert caption("asl_gestures--again") == "a video of again from asl gestures"
    with pytest.raises(ValueError, match="no folder"):
        caption("denis_jack")


@pytest.mark.parametrize("task", PLANS)
@pytest.mark.parametrize("size", [SMALL, FULL], ids=lambda size: size.name)
def test_settings_fit_their_recipes(task, size):
    plan = PLANS[task]
    recipe = load_recipe(plan.recipe, plan.overrides(size, seed=3, scale=0.5))
    assert recipe.task.name == task.split("-", maxsplit=1)[0]
    assert (recipe.train.seed, recipe.train.steps) == (3, round(plan.steps * size.steps * 0.5))
    assert recipe.data.frames == size.frames
    assert recipe.data.split == "train"
    tuned = load_recipe(size.finetune, size.finetuning(0.5))
    assert (tuned.task.name, tuned.data.frames) == ("classify", size.frames)


def test_a_mean_has_its_deviation():
    assert spread([1.0, 3.0]) == "2.0 ± 1.4"
    assert spread([1.0]) == "1.0"
    assert percent({0: 0.5, 1: 0.25}) == ["50.0", "25.0", "37.5 ± 17.7"]


def result(seed, task="pace", top=0.5):
    metrics = [*(f"retrieval top {k}" for k in (1, 5, 10)), "fine-tuned top 1", "fine-tuned clip top 1"]
    return {
        "set": "weizmann",
        "task": task,
        "seed": seed,
        "steps": 10,
        "epochs": 2.0,
        "seconds": 3.0,
        "evaluation": 1.0,
        "pretext": {"start": {"accuracy": 0.2}, "end": {"accuracy": 0.9}, "test": {"accuracy": 0.6}},
        "scores": dict.fromkeys(metrics, top),
        "random": dict.fromkeys(metrics, 0.25),
        "chance": dict.fromkeys(metrics, 0.1),
    }


def test_the_page_compares_seed_by_seed():
    found = [result(0), result(1, top=0.25)]
    page = describe(found, [], size=SMALL, scale=1.0, command="python -m benchmarks.pretext", device="cpu")
    assert "| fine-tuned top 1 | pace | 50.0 | 25.0 | 37.5 ± 17.7 | +12.5 ± 17.7 |" in page
    assert page.count("| fine-tuned top 1 | random initialisation | 25.0 | 25.0 | 25.0 ± 0.0 |") == 1
    assert "| pace | +12.5 ± 17.7 | 1 / 0 | +12.5 ± 17.7 | 1 / 0 | +12.5 ± 17.7 | 1 / 0 |" in page
    assert "| pace | accuracy | 20.0 ± 0.0 % | 90.0 ± 0.0 % | 60.0 ± 0.0 % | 90.0 % / 90.0 % | 25 % |" in page


@pytest.mark.data
@pytest.mark.parametrize(("name", "train", "test"), [("weizmann", 45, 18), ("ut_interaction", 66, 24)])
def test_sets_hold_out_whole_groups(research_data, monkeypatch, name, train, test):
    monkeypatch.setenv("VIDPREP_TEST_DATA", str(research_data))
    found = listed(SETS[name])
    groups = {split: {v.group for v in found.videos if split in v.splits} for split in ("train", "test")}
    assert None not in groups["train"] | groups["test"]
    assert not groups["train"] & groups["test"]
    assert found.split_counts() == {"train": train, "test": test}


@pytest.mark.data
def test_text_checks_read_the_caption_samples(research_data):
    rows = token_rows({"two": ["a dog", "a dog runs over there"]}, most=3)
    assert rows == [["two", "2", "2", "4.5", "6", "50.0 %", "5", "0"]]
    before, after, chance = paraphrases(research_data / "annotations", seed=0, steps=1, batch=4)
    assert re.fullmatch(r"0\.02\d+", str(chance))
    assert chance < before <= 1
    assert chance < after <= 1
