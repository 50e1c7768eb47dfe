"""Captions of the task cpd: where they come from, which of several is shown, and how they become vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shards.dataset import open_dataset
from shards.errors import UserError
from shards.mixture import open_data
from shards.samples import annotate
from tests.tiny import build_dataset
from trainer.config import load_recipe
from trainer.data.loader import Loader
from trainer.engine.build import task_of
from trainer.engine.checkpoint import MODEL, checkpoint_paths
from trainer.engine.run import train
from trainer.engine.runs import CHECKPOINTS
from trainer.tasks.cpd.text import BuiltinText, HubText
from vidprep.derive import add_text

SMALL: dict[str, Any] = {
    "name": "cpd-small",
    "task": {"name": "cpd", "embedding": 16, "hidden": 24, "negatives": 6, "train_text_from": 1},
    "backbone": {"name": "r3d-vcop", "base_width": 4},
    "data": {"frames": 4, "crop": 24, "workers": 0},
    "optim": {"name": "sgd", "lr": 0.05},
    "train": {"steps": 6, "batch": 4, "save_every": 2, "keep": 9},
}
WORDS = "one two three four five six seven eight".split()
TEXTS: dict[str, object] = {f"video_{i:03d}": f"a bar goes {word} steps" for i, word in enumerate(WORDS)}
TEXTS["video_002"] = ["a bar goes\nthree steps", " three steps\tto the right ", "es geht drei Schritte"]
TEXTS["video_005"] = ["six", "half a dozen"]


def give(dest: Path, texts: dict[str, object]) -> Path:
    file = dest.parent / f"{dest.name}.jsonl"
    file.write_text("".join(json.dumps({"key": key, "caption": text}) + "\n" for key, text in texts.items()))
    annotate(dest, file)
    return dest


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples, two of them with several captions, and a text column; to be read only."""
    dest = give(build_dataset(tmp_path_factory.mktemp("cpd") / "data", samples=8, frames=8), TEXTS)
    add_text(dest, workers=1)
    return dest


def small(task: dict[str, object] | None = None, **sections: dict[str, object]):
    changed = {name: {**SMALL[name], **values} for name, values in sections.items()}
    return load_recipe({**SMALL, **changed, "task": {**SMALL["task"], **(task or {})}})


def run(folder: Path, source: Any, task: dict[str, object] | None = None, **sections: dict[str, object]) -> Path:
    train(small(task, **sections), source, out=folder, resume=True, device="cpu")
    return folder


def weights(folder: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(folder / CHECKPOINTS / f"step-{step:08d}" / MODEL)


def prepared(data: Any, **task: object):
    torch.manual_seed(0)
    found = task_of(small(task), data)
    found.prepare(data, data.select())
    return found


def test_table_and_column_give_the_same_training(url, tmp_path):
    table, column = (weights(run(tmp_path / name, url, {"captions": name})) for name in ("table", "text"))
    assert table.keys() == column.keys() and all(torch.equal(table[name], column[name]) for name in table)
    # Other captions give another training, so the texts do matter.
    other = give(build_dataset(tmp_path / "other", samples=8, frames=8), {**TEXTS, "video_000": "nothing moves"})
    assert not torch.equal(weights(run(tmp_path / "third", other))["text_bank"], table["text_bank"])


def test_captions_of_the_table_need_no_tar_and_follow_annotate(tmp_path):
    dest = give(build_dataset(tmp_path / "d", samples=8, frames=8), TEXTS)
    add_text(dest, workers=1)
    tars = {path: path.read_bytes() for path in dest.rglob("*.tar")}
    give(dest, {"video_000": "nothing moves"})
    assert {path: path.read_bytes() for path in dest.rglob("*.tar")} == tars
    data = open_dataset(dest)
    table, column = prepared(data), prepared(data, captions="text")
    assert not torch.equal(table.ids[0], column.ids[0]) and torch.equal(table.ids[1:], column.ids[1:])


def test_one_of_several_captions_is_drawn_by_seed_epoch_and_sample(url):
    data = open_dataset(url)
    task = prepared(data)
    assert task.count.tolist() == [1, 1, 3, 1, 1, 2, 1, 1] and task.first.tolist() == [0, 1, 2, 5, 6, 7, 9, 10]

    def shown(steps: int = 40, **loader: Any) -> dict[tuple[int, int], int]:
        found = {}
        for batch in Loader(data, task.spec, **{"batch": 4, "workers": 0, "seed": 0, **loader}).batches(0, steps):
            rows = (task._rows(batch) - task.first[batch.sample]).tolist()
            for sample, row in zip(batch.sample.tolist(), rows, strict=True):
                found[int(batch.epoch), sample] = row
        return found

    draws = shown()
    assert len(draws) == 160 and draws == shown()
    assert draws == {**shown(rank=0, world=2), **shown(rank=1, world=2)}
    assert draws != shown(seed=1)
    often = Loader(data, task.spec, batch=8, workers=0, repeats=8).batches(0, 8)  # one epoch
    rows = [(task._rows(batch) - task.first[batch.sample])[batch.sample == 2] for batch in often]
    assert set(torch.cat(rows).tolist()) == {0, 1, 2}
    for sample, count in enumerate(task.count.tolist()):
        assert {row for (_, its), row in draws.items() if its == sample} == set(range(count))
    task.eval()
    batch = next(iter(Loader(data, task.spec, batch=8, workers=0).batches(0, 1)))
    assert torch.equal(task._rows(batch), task.first[batch.sample])


def test_captions_go_where_the_task_goes_and_are_sent_nowhere(url):
    """Several processes send all buffers from the first to the others at every step."""
    task = prepared(open_dataset(url))
    held = {"ids", "mask", "first", "count", "place"}
    assert not held & {name for name, _ in task.named_buffers()} and not held & set(task.state_dict())
    assert {getattr(task, name).device.type for name in held} == {"cpu"}
    task.to("meta")
    assert {getattr(task, name).device.type for name in held} == {"meta"} and task.ids.dtype == torch.int32


def test_draws_of_captions_are_those_of_the_batch(url):
    data = open_dataset(url)
    task = prepared(data)
    batch = next(iter(Loader(data, task.spec, batch=4, workers=0).batches(0, 1)))
    with pytest.raises(ValueError, match="draws"):
        task(replace(batch, draws=None))


def test_several_captions_resume_bit_for_bit(url, tmp_path):
    task = {"text_lr_scale": 1.0}
    whole = weights(run(tmp_path / "whole", url, task))
    for steps in (1, 2, 6):  # once within the first stage, once where the second begins
        parts = run(tmp_path / "parts", url, task, train={"steps": steps})
    assert all(torch.equal(whole[name], value) for name, value in weights(parts).items())


def test_stages_of_the_text_encoder_survive_resuming(url, tmp_path):
    """Frozen for one epoch, which is two steps; then learning at its own rate."""

    def texts(name: str, scale: float) -> list[dict[str, torch.Tensor]]:
        for steps in (1, 2, 3, 4):
            folder = run(tmp_path / name, url, {"text_lr_scale": scale}, train={"steps": steps, "save_every": 1})
        assert len(checkpoint_paths(folder / CHECKPOINTS)) == 4
        found = [weights(folder, step) for step in (1, 2, 3, 4)]
        assert all(
            not torch.equal(found[0][head], found[1][head]) for head in ("text_head.0.weight", "video_head.weight")
        )
        return [{key: value for key, value in it.items() if key.startswith("text.")} for it in found]

    still, slow, fast = texts("still", 0.0), texts("slow", 1e-3), texts("fast", 1e-2)
    place = "text.position"
    for stages in (still, slow, fast):
        assert all(
            torch.equal(stages[0][key], stages[1][key]) and torch.equal(still[0][key], it)
            for key, it in stages[0].items()
        )
    assert all(torch.equal(still[1][key], it) for key, it in still[3].items())
    assert not torch.equal(slow[1][place], slow[2][place]) and not torch.equal(slow[2][place], slow[3][place])
    # The first update is rate x gradient, and the gradient is the same: a tenth of the rate goes a tenth as far.
    moved = [stages[2][place] - stages[1][place] for stages in (slow, fast)]
    assert moved[1].abs().max() > 0 and torch.allclose(moved[1], 10 * moved[0], rtol=0.05, atol=1e-7)


def test_missing_captions_are_refused_by_name_with_the_commands(tmp_path):
    dest = give(build_dataset(tmp_path / "d", samples=4, frames=4), {"video_001": "one", "video_002": None})
    add_text(dest, workers=1)
    told = f"2 of 4 samples have no caption, such as video_002, video_003 of {dest}: the task cpd learns from captions"
    with pytest.raises(UserError) as found:
        run(tmp_path / "run", dest)
    assert f"{told}. Add them with vidprep annotate {dest} FILE, or leave these samples out with --keep" in str(
        found.value
    )
    with pytest.raises(UserError) as found:
        run(tmp_path / "run", dest, {"captions": "text"})
    assert f"{told} (task.captions=text). Add them with vidprep annotate {dest} FILE and vidprep text" in str(
        found.value
    )
    (tmp_path / "keep.txt").write_text("video_000\nvideo_001\n")
    keep = {"keep": str(tmp_path / "keep.txt")}
    run(tmp_path / "kept", dest, {"negatives": 1}, data=keep, train={"batch": 2, "steps": 1})
    with pytest.raises(UserError, match=r"no column 'text-b'.*make it with vidprep text .* --column text-b"):
        run(tmp_path / "run", dest, {"captions": "text-b"})
    with pytest.raises(UserError, match="column rgb is of kind rgb and holds no captions"):
        run(tmp_path / "run", dest, {"captions": "rgb"})


def test_a_mixture_takes_captions_from_every_part(url, tmp_path):
    other = build_dataset(tmp_path / "other", samples=4, frames=8)
    give(other, {f"video_{i:03d}": f"bar {i}" for i in range(4)})
    run(tmp_path / "run", [url, other], {"negatives": 4}, train={"steps": 1})
    task, alone = prepared(open_data([url, other])), prepared(open_dataset(other))
    assert len(task.video_bank) == 12 and task.count.tolist() == [1, 1, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert torch.equal(task.ids[task.first[8:], : alone.ids.shape[1]], alone.ids)
    bare = build_dataset(tmp_path / "bare", samples=4, frames=8)
    with pytest.raises(UserError) as found:
        run(tmp_path / "run2", [url, other, bare])
    assert f"2 of 4 samples have no caption, such as video_001, video_003 of {bare}" in str(found.value)
    assert f"vidprep annotate {bare} FILE" in str(found.value) and str(url) not in str(found.value)
    with pytest.raises(UserError, match=rf"{other} has no column 'text'.*make it with vidprep text {other}"):
        run(tmp_path / "run3", [url, other], {"captions": "text"})


def test_long_captions_are_cut_counted_and_told(url, tmp_path):
    events: list[dict[str, Any]] = []
    recipe = small({"most_tokens": 4}, train={"steps": 1})
    train(recipe, url, out=tmp_path / "run", device="cpu", on_event=events.append)
    # Of eleven captions "six" and "half a dozen" are no longer than a marker and three words.
    told = [event["message"] for event in events if event["event"] == "note"]
    assert told == ["9 of 11 captions are longer than task.most_tokens=4 and are cut to it"]
    data = open_dataset(url)
    assert prepared(data).notes == () and prepared(data, most_tokens=4).ids.shape == (11, 4)


def test_held_out_samples_need_captions(tmp_path):
    dest = build_dataset(tmp_path / "d", samples=5, frames=4)
    give(dest, {"video_000": None, **{f"video_{i:03d}": f"bar {i}" for i in range(1, 5)}})
    with pytest.raises(UserError, match="1 of 1 samples in a batch of held-out videos have no caption"):
        run(tmp_path / "run", dest, data={"split": "train"}, train={"steps": 2, "validation": {"split": "test"}})


def test_published_captions_are_learnt_from(research_data, tmp_path):
    """MSR-VTT's own file, in Italian: about twenty captions a video, some of them long."""
    file = research_data / "annotations/msrvtt/videodatainfo_it.sample100.json"
    if not file.exists():
        pytest.skip("no MSR-VTT captions there")
    value = json.loads(file.read_text())
    names = [video["video_id"] for video in value["videos"][:8]]
    dest = build_dataset(tmp_path / "d", samples=8, frames=8, keys=tuple(f"video--{name}" for name in names))
    assert annotate(dest, file).changed == 8
    add_text(dest, workers=1)
    counts = [sum(it["video_id"] == name for it in value["sentences"]) for name in names]
    task = prepared(open_dataset(dest), most_tokens=8)
    assert task.count.tolist() == counts and min(counts) > 5
    words = [it["caption"].split() for it in value["sentences"] if it["video_id"] in names]
    assert sum(len(it) > 8 for it in words) > 0 and task.notes[0].endswith("task.most_tokens=8 and are cut to it")
    table, column = (weights(run(tmp_path / name, dest, {"captions": name})) for name in ("table", "text"))
    assert all(torch.equal(table[name], column[name]) for name in table)


def test_builtin_text_ignores_what_follows_a_caption():
    torch.manual_seed(0)
    text = BuiltinText(words=100, width=16, layers=1, heads=2).eval()
    tokens = text.tokenize(["A man's horse, running!", "a", ""], most=4)
    assert tokens.ids.shape == (3, 4) and tokens.mask.sum(1).tolist() == [4, 2, 1]
    more = text.tokenize(["a MAN'S horse running fast", "A", " "], most=4)
    assert torch.equal(tokens.ids, more.ids)
    assert (tokens.cut.tolist(), more.cut.tolist()) == ([True, False, False], [True, False, False])
    short = text.tokenize(["a"], most=4)
    with torch.no_grad():
        padded, alone = text(tokens.ids, tokens.mask)[1], text(short.ids, short.mask)[0]
        literal = text(tokens.ids, tokens.mask, attend_all=True)[1]
    assert torch.allclose(padded, alone, atol=1e-5) and not torch.allclose(padded, literal, atol=1e-3)


VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a man rides horse bar goes steps".split() + WORDS
SENTENCES = ["a man rides a horse", "a horse", "a bar goes seven steps", "zebra"]


def save_model(folder: Path, kind: str) -> str:
    """A small model of that kind with a tokenizer, as `save_pretrained` writes them."""
    transformers = pytest.importorskip("transformers", reason="an extra: pip install 'vidprep[text]'")
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    torch.manual_seed(0)
    common = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}
    if kind == "distilbert":
        transformers.DistilBertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        config = transformers.DistilBertConfig(dim=16, hidden_dim=32, n_layers=2, n_heads=2, **common)
        transformers.DistilBertModel(config).save_pretrained(folder)
    else:
        transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(hidden_size=16, **layers, **common)
        transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_a_transformers_model_gives_the_features_of_calling_it(tmp_path, kind):
    folder = save_model(tmp_path / kind, kind)
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = HubText(folder).eval()
    assert (text.width, text.longest) == (16, 40)
    tokens = text.tokenize(SENTENCES, most=6)
    direct = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=6, return_tensors="pt")
    assert torch.equal(tokens.ids.long(), direct["input_ids"]) and tokens.cut.tolist() == [True, False, True, False]
    assert torch.equal(tokens.mask.long(), direct["attention_mask"])
    assert tokens.ids[0, -1] == tokenizer.sep_token_id  # what is cut keeps its end marker
    own = direct["attention_mask"][..., None]
    with torch.no_grad():
        masked = (model(**direct).last_hidden_state * own).sum(1) / own.sum(1)
        alone = [model(**tokenizer([s], truncation=True, max_length=6, return_tensors="pt")) for s in SENTENCES]
        # Literal: padding takes part in attention, and the mean is over ids other than 0.
        states = model(input_ids=direct["input_ids"], attention_mask=torch.ones_like(direct["input_ids"]))
        pairs = zip(states.last_hidden_state, direct["input_ids"], strict=True)
        literal = torch.stack([hidden[ids != 0].mean(0) for hidden, ids in pairs])
        found = text(tokens.ids, tokens.mask)
        assert torch.allclose(found, masked, atol=1e-6)
        assert torch.allclose(found, torch.stack([it.last_hidden_state[0].mean(0) for it in alone]), atol=1e-6)
        assert torch.allclose(text(tokens.ids, tokens.mask, attend_all=True), literal, atol=1e-6)
    assert not torch.allclose(found[1], literal[1], atol=1e-4)


def test_the_literal_option_pads_to_the_limit(url, tmp_path):
    """What padding adds must not depend on which other captions there are."""
    given = {"text": save_model(tmp_path / "model", "distilbert"), "most_tokens": 32}
    data = open_dataset(url)
    masked, literal = prepared(data, **given), prepared(data, **given, attend_all=True)
    used = masked.ids.shape[1]
    assert used < 32 and literal.ids.shape == literal.mask.shape == (11, 32)
    assert torch.equal(literal.ids[:, :used], masked.ids) and not literal.mask[:, used:].any()


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_a_transformers_model_learns_in_its_stage(url, tmp_path, kind):
    folder = save_model(tmp_path / "model", kind)
    task = {"text": folder, "most_tokens": 16, "text_lr_scale": 0.5}
    for steps in (2, 4):
        run(tmp_path / "run", url, task, train={"steps": steps})
    start, first, last = load_file(Path(folder) / MODEL), weights(tmp_path / "run", 2), weights(tmp_path / "run", 4)
    names = [name for name in first if name.startswith("text.model.")]
    assert names and not [name for name in names if "pooler" in name]
    assert all(torch.equal(first[name], start[name.removeprefix("text.model.")]) for name in names)
    # A key's bias adds the same to all scores of a query, so that it has no gradient but rounding.
    learnt = [name for name in names if not name.endswith(("k_lin.bias", "key.bias"))]
    assert all(not torch.equal(first[name], last[name]) for name in learnt)


def test_models_that_cannot_be_used(tmp_path, url):
    with pytest.raises(UserError, match="neither a folder nor a model that can be loaded"):
        HubText(str(tmp_path / "nothing"))
    folder = save_model(tmp_path / "model", "distilbert")
    with pytest.raises(
        UserError, match=r"most_tokens is 64, and task.text=.* reads up to 40: --set task.most_tokens=40"
    ):
        prepared(open_dataset(url), text=folder)
