"""What comes through a bad network is right, or an error that says so."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from shards.dataset import open_dataset
from shards.errors import DataError, StorageError
from shards.storage import MissingError, open_storage
from tests.shards.storage.conftest import BUCKET
from tests.shards.storage.faults import FaultProxy, fault_proxy
from tests.shards.storage.swift import LIMITED_KEY, LIMITED_SECRET, Server, free_port
from tests.tiny import build_dataset, frame

BIG = os.urandom(1 << 20) * 3
RATES = {"drop": 0.05, "slow_down": 0.05, "truncate": 0.05, "corrupt": 0.05}


@pytest.fixture
def proxy(swift: Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the server that the environment names from now on."""
    with fault_proxy(swift.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


def _clips(url: str, count: int) -> tuple[int, int]:
    """Read clips of the tiny data set; how many were right, and how many ended in an error that names the place."""
    right = errors = 0
    dataset = open_dataset(url)
    random = np.random.default_rng(0)
    for number in range(count):
        sample, start = int(random.integers(10)), int(random.integers(8))
        wanted = [start, start + 1, start + 3]
        try:
            found = dataset.frames(sample, wanted)
        except (StorageError, DataError) as error:
            assert "s3://" in str(error), number
            errors += 1
            continue
        expected = np.stack([frame(sample, k) for k in wanted]).astype(int)
        assert np.abs(found.astype(int) - expected).mean() < 12, f"clip {number} is of another frame"
        right += 1
    return right, errors


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_clips_through_a_bad_network_are_right(proxy: FaultProxy, s3: str, count: int) -> None:
    build_dataset(s3)  # type: ignore[arg-type]
    for name, share in RATES.items():
        setattr(proxy.faults, name, share)
    right, errors = _clips(s3, count)
    hit = [fault for fault in proxy.faults.log if fault]
    assert len(hit) > 0.1 * count
    assert {"drop", "slow_down", "truncate", "corrupt"} <= set(hit)
    assert right + errors == count
    assert right >= 0.99 * count


def test_a_data_set_is_written_through_a_bad_network(proxy: FaultProxy, s3: str) -> None:
    for name, share in {"drop": 0.1, "slow_down": 0.1, "stale": 0.1}.items():
        setattr(proxy.faults, name, share)
    build_dataset(s3)  # type: ignore[arg-type]
    for name in ("drop", "slow_down", "stale"):
        setattr(proxy.faults, name, 0.0)
    assert _clips(s3, 30) == (30, 0)


def test_reading_goes_on_from_the_last_byte(proxy: FaultProxy, s3: str) -> None:
    storage = open_storage(s3)
    storage.put("big", BIG)
    proxy.faults.sent = 0
    proxy.faults.drop = 0.5
    for _ in range(6):
        assert storage.read("big") == BIG
    assert proxy.faults.log.count("drop") > 2
    assert proxy.faults.sent < 6.5 * len(BIG)


def test_what_was_just_written_is_found_though_the_store_says_no(proxy: FaultProxy, s3: str) -> None:
    storage = open_storage(s3)
    proxy.faults.stale, proxy.faults.stale_seconds = 1.0, 0.5
    storage.put("a", b"1")
    assert storage.exists("a")
    assert storage.read("a") == b"1"
    assert "stale" in proxy.faults.log


def test_a_published_object_is_told_from_that_of_another_writer(proxy: FaultProxy, s3: str) -> None:
    """The answer to a request that created an object may get lost; asked again, the store says that it exists."""
    storage = open_storage(s3)
    for number in range(12):
        proxy.faults.drop = 0.5
        storage.put(f"{number}", b"mine")
    assert proxy.faults.log.count("drop") > 0
    proxy.faults.drop = 0
    with pytest.raises(StorageError, match="published by another process"):
        storage.put("0", b"other")


def test_damage_that_stays_is_an_error(proxy: FaultProxy, s3: str) -> None:
    build_dataset(s3)  # type: ignore[arg-type]
    dataset = open_dataset(s3)
    dataset.frames(0, [0])
    proxy.faults.corrupt = 1.0
    with pytest.raises(
        DataError, match=r"rgb/000000\.tar, sample video_000: frame 1 does not agree .* vidprep check s3:"
    ):
        dataset.frames(0, [1])
    with pytest.raises(StorageError, match="does not agree with its SHA-256"):
        open_dataset(s3)


def test_errors_say_what_to_do(swift: Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(s3)
    storage.put("dataset.json", b"{}")
    reads = ("read", "size", "map", "open", "exists")

    def fails(url: str, message: str, calls: tuple[str, ...] = reads, **options: object) -> None:
        for call in calls:
            with pytest.raises(StorageError, match=message) as caught:
                getattr(open_storage(url, options), call)("dataset.json")
            assert not isinstance(caught.value, MissingError)
        with pytest.raises(StorageError, match=message):
            open_storage(url, options).put("a", b"1")
        with pytest.raises(StorageError, match=message):
            open_storage(url, options).create("a")

    fails("s3://no-such-bucket/a", "there is no bucket s3://no-such-bucket at this endpoint")
    fails(s3, "credentials are not accepted .SignatureDoesNotMatch.; set AWS_ACCESS_KEY_ID", secret_access_key="wrong")
    fails(s3, "permission denied .AccessDenied.; ask for", access_key_id=LIMITED_KEY, secret_access_key=LIMITED_SECRET)


def test_a_dead_peer_is_given_up_in_time(swift: Server, s3: str) -> None:
    """One that refuses, and one that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            storage = open_storage(s3, {"endpoint": f"http://127.0.0.1:{port}", "timeout": 1.5})
            for call in (lambda: storage.read("a"), lambda: storage.put("a", b"1"), lambda: storage.list("")):  # noqa: B023
                began = time.monotonic()
                with pytest.raises(StorageError, match=rf"cannot \w+ s3://{BUCKET}.*--storage timeout=SECONDS"):
                    call()
                assert time.monotonic() - began < 2


def test_secrets_are_in_no_message(s3: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"access_key_id": "test:tester", "secret_access_key": "very-secret-word", "nonsense": "very-secret-word"}
    with pytest.raises(Exception, match="nonsense") as caught:
        open_storage(s3, options).read("a")
    assert "very-secret-word" not in str(caught.value)
    del options["nonsense"]
    with pytest.raises(StorageError) as refused:
        open_storage(s3, options).read("a")
    assert "very-secret-word" not in str(refused.value)
    assert "very-secret-word" not in repr(open_storage(s3, options).options)  # type: ignore[attr-defined]
    assert "very-secret-word" not in "".join(capfd.readouterr())
