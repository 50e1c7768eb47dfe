"""Several data sets as one."""

import pickle

import numpy as np
import pytest

from shards.blend import UNITS, Blend
from shards.dataset import Dataset, open_dataset
from shards.errors import UserError
from shards.mixture import Mixture, Source, open_data, order_of
from shards.samples import annotate


@pytest.fixture
def mixture(tiny_dataset):
    """10 samples of classes run, walk, then 6 of walk, jump."""
    return open_data([tiny_dataset(samples=10), tiny_dataset(samples=6, classes=("walk", "jump"))])


@pytest.mark.parametrize(
    ("text", "url", "weight"),
    [
        ("a/b", "a/b", None),
        ("a/b=0.3", "a/b", 0.3),
        ("s3://b/x?y=z", "s3://b/x?y=z", None),
        ("a=b=2", "a=b", 2.0),
        ("=3", "=3", None),
    ],
)
def test_sources(text, url, weight):
    source = Source.parse(text)
    assert (source.url, source.weight, str(source)) == (url, weight, text.replace("2.0", "2"))


def test_one_data_set_stays_itself(tiny_dataset):
    url = tiny_dataset(samples=4)
    assert isinstance(open_data(url), Dataset) and isinstance(open_data([url]), Dataset)
    with pytest.raises(UserError, match="--data DEST"):
        open_data([])
    with pytest.raises(UserError, match="given twice"):
        open_data([url, f"{url}=0.5"])


def test_classes_are_merged_by_name_and_samples_numbered_through(mixture):
    first, second = mixture.parts
    assert mixture.classes == ("run", "walk", "jump") and len(mixture) == 16
    names = [part[i].label for part in (first, second) for i in range(len(part))]
    assert [mixture.classes[i] for i in mixture.labels] == names
    assert [mixture.locate(i) for i in (0, 9, 10, 15)] == [(0, 0), (0, 9), (1, 0), (1, 5)]
    assert mixture.key(11).endswith("/video_001")
    again = pickle.loads(pickle.dumps(mixture))
    assert again.classes == mixture.classes and again.url == mixture.url


def test_labels_without_class_stay_without(tiny_dataset):
    mixed = open_data([tiny_dataset(samples=3), tiny_dataset(samples=3, classes=())])
    assert mixed.labels.tolist() == [0, 1, 0, -1, -1, -1]


def test_selections_apply_to_every_data_set(mixture, tmp_path):
    first, second = mixture.parts
    train = mixture.select(split="train")
    assert train.tolist() == [*first.select(split="train"), *(10 + second.select(split="train"))]
    half = mixture.select(keep=0.5, seed=3)
    assert half.tolist() == [*first.select(keep=0.5, seed=3), *(10 + second.select(keep=0.5, seed=3))]
    keys = tmp_path / "keys.txt"
    keys.write_text("video_001\nvideo_008\n")
    assert mixture.select(keep=keys).tolist() == [1, 8, 11]
    keys.write_text("video_001\nvideo_999\n")
    with pytest.raises(UserError, match="1 keys that .* has not: video_999"):
        mixture.select(keep=str(keys))


def test_a_split_that_only_one_data_set_has(mixture, tmp_path):
    change = tmp_path / "change.jsonl"
    change.write_text('{"key": "video_003", "splits": ["train", "val"]}\n')
    annotate(mixture.parts[1].url, change)
    mixed = open_data([part.url for part in mixture.parts])
    with pytest.raises(UserError, match=r"has no split 'val'; it has: test, train.*annotate"):
        mixed.select(split="val")
    assert mixed.select(split="val", every=False).tolist() == [13]
    with pytest.raises(UserError, match="no split 'nothing'.*test, train, val"):
        mixed.select(split="nothing", every=False)


def test_orders_of_mixtures(mixture):
    samples = mixture.select(split="train")
    order = order_of(mixture, samples, seed=1, shuffle="blocks:1")
    assert isinstance(order, Blend) and [o.n for o in order.orders] == [8, 4]
    items = order.items(0, 1024)
    assert set(samples[items.sample].tolist()) == set(samples.tolist())
    assert abs((samples[items.sample] >= 10).mean() - 1 / 3) < 2 / 1024
    plain = order_of(mixture, samples, shuffle="none", weighted=False).items(0, 12)
    assert plain.sample.tolist() == list(range(12))
    blocks = order_of(mixture, samples, shuffle="blocks:1", weighted=False)
    assert sorted(blocks.items(0, 12).sample.tolist()) == list(range(12))
    with pytest.raises(UserError, match="leave the data set out"):
        order_of(mixture, np.arange(5))
    with pytest.raises(UserError, match="ascending"):
        order_of(mixture, samples[::-1])


def test_weights(tiny_dataset):
    mixed = open_data([tiny_dataset(samples=4), f"{tiny_dataset(samples=8)}=0.25"])
    assert isinstance(mixed, Mixture) and mixed.weights == (None, 0.25)
    order = order_of(mixed, mixed.select())
    assert isinstance(order, Blend) and order.shares == (UNITS * 3 // 4, UNITS // 4)
    assert mixed.sources == (mixed.parts[0].url, f"{mixed.parts[1].url}=0.25")
    assert open_dataset(mixed.parts[1].url)[0].key == "video_000"
