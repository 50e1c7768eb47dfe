"""Clients and processes: forks, workers, and options that travel to them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable

import pytest

from shards.storage import open_storage, use_storage_options
from tests.shards.storage.swift import SECRET_KEY


def _forked(call: Callable[[], object], seconds: float = 20) -> str:
    """What a forked child says: the result of a call, or its error."""
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        try:
            theirs.send(f"result {call()!r}")
        except BaseException:  # noqa: BLE001 - told to the parent
            theirs.send(traceback.format_exc())
        finally:
            os._exit(0)
    try:
        assert ours.poll(seconds), "the forked process hangs"
        return str(ours.recv())
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_fork_after_use_is_an_error_and_no_hang(s3: str) -> None:
    storage = open_storage(s3)
    storage.put("a", b"1")
    for call in (lambda: storage.read("a"), lambda: open_storage(s3).read("a")):
        told = _forked(call)
        assert "StorageError" in told
        assert "was forked from one that used" in told
        assert "forkserver" in told
    assert storage.read("a") == b"1"


def test_a_local_folder_survives_a_fork(tmp_path: object) -> None:
    storage = open_storage(str(tmp_path))
    storage.put("a", b"1")
    assert _forked(lambda: storage.read("a")) == "result b'1'"


def test_options_reach_other_processes(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, and with an open storage; without them the server refuses."""
    open_storage(s3).put("a", b"1")
    monkeypatch.setenv("VIDPREP_STORAGE", "")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    opened = open_storage(s3, {"secret_access_key": SECRET_KEY, "requests": 3})
    sent = pickle.loads(pickle.dumps(opened))
    assert sent.read("a") == b"1"
    assert sent.options.requests == 3
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_read, (opened,)) == b"1"
        use_storage_options({"secret_access_key": SECRET_KEY})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_open_and_read, (s3,)) == b"1"


def _read(storage: object) -> bytes:
    return bytes(storage.read("a"))  # type: ignore[attr-defined]


def _open_and_read(url: str) -> bytes:
    return open_storage(url).read("a")
