"""Writing one shard: tar, then .idx, then the receipt, each aside and then renamed.

Headers come from the standard library. webdataset's own TarWriter does the same through the same library, but its
import loads torch where that is installed, and it neither tells where a member ended up nor takes a payload in parts.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.columns import COLUMNS, ColumnKind
from shards.errors import StorageError
from shards.index import FAILED, FRAME, MEMBER, SAMPLE, build_idx
from shards.keys import is_key, key_hash
from shards.receipts import Receipt, Verdict, has_receipt, stem, write_receipt
from shards.storage import Storage
from shards.text import to_json

_BLOCK = tarfile.BLOCKSIZE


class ShardWriter:
    """Writes shard number `shard` of one column; nothing is visible before `finish`.

    The same samples, in the same order, give the same bytes. Use it as a context manager: leaving it without
    `finish` removes what was written aside.

    Args:
        storage: the data set's folder.
        shard: the shard's number.
        folder: the column's folder; kind: what the column holds.
        parameters: what the bytes depend on, kept in the receipt.
        sources: SHA-256 of the tars they were made from, by column, kept in the receipt.
        versions: of the packages that make the bytes, kept in the receipt.

    Raises:
        StorageError: the shard is finished already, or cannot be written.
    """

    def __init__(
        self,
        storage: Storage,
        shard: int,
        *,
        folder: str = "rgb",
        kind: ColumnKind = COLUMNS["rgb"],
        parameters: Mapping[str, Any] | None = None,
        sources: Mapping[str, str] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._storage, self._shard, self._folder, self._kind = storage, shard, folder, kind
        self._parameters, self._versions = dict(parameters or {}), dict(versions or {})
        self._sources = dict(sources or {})
        self._refuse_finished()
        self._stem = stem(folder, shard)
        # Without a receipt a tar or index is what a killed run left, and may be replaced. Where there is none yet, none
        # is: of two that write the shard at the same time, one gets it.
        self._left = storage.exists(f"{self._stem}.tar"), storage.exists(f"{self._stem}.idx")
        self._aside = storage.create(f"{self._stem}.tar")
        self._keys: dict[str, int] = {}
        self._samples: list[tuple[Any, ...]] = []
        self._members: list[tuple[Any, ...]] = []
        self._frames: list[npt.NDArray[np.void]] = []
        self._rows = self._payload_bytes = self._keys_size = 0

    @property
    def size(self) -> int:
        """Bytes written to the tar so far (without its end)."""
        return self._aside.size

    def add(
        self,
        key: str,
        info: Mapping[str, Any],
        payload: Sequence[bytes] | bytes,
        *,
        fps: float = 0.0,
        size: tuple[int, int] = (0, 0),
        times_us: npt.ArrayLike | None = None,
        failed: bool = False,
    ) -> None:
        """Append a sample.

        Args:
            key: see `shards.keys`; once in a shard.
            info: goes into KEY.json, after the key, where the column describes.
            payload: encoded frames in order, or for a column without frames the whole payload.
            fps: frames a second; the mean where the rate varies.
            size: (height, width) of the frames.
            times_us: (frames,) microseconds since the first frame; None: from `fps`.
            failed: the sample has no data in this column (payload empty).
        """
        if not is_key(key) or key in self._keys:
            raise ValueError(f"{key!r} cannot be the key of a sample in shard {self._shard}: malformed or used before")
        parts = [bytes(payload)] if isinstance(payload, (bytes, bytearray, memoryview)) else payload
        payload_size = sum(map(len, parts))
        if failed == bool(payload_size):
            raise ValueError(f"sample {key!r} has {payload_size} bytes and failed={failed}")
        if failed:
            rows = np.empty(0, FRAME)
        elif self._kind.framed:
            if times_us is None and fps <= 0:
                raise ValueError(f"sample {key!r} has neither frame times nor a frame rate")
            times = np.arange(len(parts)) * (1e6 / fps) if times_us is None else np.asarray(times_us)
            rows = frame_rows(parts, times)
        else:
            rows = frame_rows(parts, np.zeros(1))
        text = (to_json({"key": key, **info}) + "\n").encode() if self._kind.describes else b""
        info_at = self._append(f"{key}.json", [text]) if self._kind.describes else 0
        payload_at = self._append(f"{key}.{self._kind.suffix}", parts)
        flags = FAILED if failed else 0
        where = (self._shard, len(self._keys), payload_at, payload_size)
        what = (len(rows), flags, fps, *size)
        key_size = len(key.encode())
        self._samples.append((*where, *what, key_size, self._rows, key_hash(key)))
        self._members.append((info_at, len(text), self._keys_size, key_size, b""))
        self._keys[key] = len(self._keys)
        self._frames.append(rows)
        self._keys_size += key_size
        self._rows += len(rows)
        self._payload_bytes += payload_size

    def finish(self, *, verdicts: Sequence[Verdict] = (), run: Mapping[str, Any] | None = None) -> Receipt:
        """Publish tar, index and receipt; the shard exists from then on.

        Args:
            verdicts: on the videos the plan gave to this shard.
            run: times, host and what else differs between two runs.
        """
        # Two empty blocks end a tar; padding to a whole record is what tar itself does.
        self._aside.write(bytes(-(-(self.size + 2 * _BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - self.size))
        frames = np.concatenate(self._frames) if self._frames else np.empty(0, FRAME)
        idx = build_idx(
            shard=self._shard,
            samples=np.array(self._samples, SAMPLE),
            members=np.array(self._members, MEMBER),
            frames=frames,
            keys="".join(self._keys).encode(),
            tar_size=self._aside.size,
            tar_sha256=self._aside.sha256,
        )
        index = self._storage.create(f"{self._stem}.idx")
        try:
            index.write(idx)
            self._refuse_finished()
            self._aside.publish(replace=self._left[0])
            index.publish(replace=self._left[1])
        finally:
            index.discard()
        receipt = Receipt(
            column=self._folder,
            shard=self._shard,
            samples=len(self._keys),
            frames=self._rows,
            payload_bytes=self._payload_bytes,
            tar_size=self._aside.size,
            tar_sha256=self._aside.sha256,
            idx_size=index.size,
            idx_sha256=index.sha256,
            parameters=self._parameters,
            sources=self._sources,
            verdicts=tuple(verdicts),
            versions=self._versions,
            run=dict(run or {}),
        )
        write_receipt(self._storage, receipt)
        return receipt

    def discard(self) -> None:
        """Give the shard up; harmless after `finish`."""
        self._aside.discard()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _refuse_finished(self) -> None:
        if has_receipt(self._storage, self._folder, self._shard):
            raise StorageError(
                f"shard {stem(self._folder, self._shard)} of {self._storage.url} is finished and never overwritten; "
                "to write it anew remove its .json first"
            )

    def _append(self, name: str, parts: Sequence[bytes]) -> int:
        """Write a member; returns where its contents begin."""
        header = tarfile.TarInfo(name)
        header.size = sum(map(len, parts))
        header.mode, header.mtime = 0o444, 0
        header.uname = header.gname = "vidprep"
        self._aside.write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        start = self.size
        for part in parts:
            self._aside.write(part)
        self._aside.write(bytes(-header.size % _BLOCK))
        return start


def read_info(data: bytes) -> dict[str, Any]:
    """KEY.json's contents. Raises ValueError."""
    info = json.loads(data)
    if not isinstance(info, dict):
        raise ValueError("not a JSON object")
    return info


def frame_rows(frames: Sequence[bytes], times: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """(F,) records `shards.index.FRAME` of a payload's frames; times: (F,) microseconds since the first."""
    if times.shape != (len(frames),):
        raise ValueError(f"{len(frames)} frames need as many times; got an array of shape {times.shape}")
    rows = np.zeros(len(frames), FRAME)
    sizes = np.fromiter((len(frame) for frame in frames), np.int64, len(frames))
    rows["offset"] = np.cumsum(sizes) - sizes
    rows["size"] = sizes
    rows["crc32"] = [zlib.crc32(frame) for frame in frames]
    rows["time_us"] = np.round(times).astype(np.int64)
    return rows
