"""A small set of videos to be packed in parts, and what packing it in one go gives."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.vidprep.clips import noise_frames, write_clip
from vidprep.records import Video, write_manifest

ROOT = Path(__file__).parents[3]
COUNTS = (9, 2, 12, 20, 7, 16, 11, 5)
OPTIONS: dict[str, Any] = {"short_side": 32, "shard_size": 30_000, "max_bad": 0.2, "name": "set"}
FLOW: dict[str, Any] = {"method": "dis"}
LABELS: dict[str, Any] = {"crop": 24, "window": 4, "resize": None, "stride": 3, "views": 2}


def write_set(root: Path, counts: tuple[int, ...] = COUNTS, *, bad: bool = True, first: int = 0) -> Path:
    """Videos of these many frames and one that is none, with their manifest."""
    lines = []
    for i, count in enumerate(counts, first):
        write_clip(root / f"{'ab'[i % 2]}/{i}.mp4", noise_frames(count, seed=i))
        lines.append(Video(key=f"k{i}", path=f"{'ab'[i % 2]}/{i}.mp4", root=str(root), label="ab"[i % 2]))
    if bad:
        (root / "bad.mp4").write_text("no video")
        lines.insert(2, Video(key="broken", path="bad.mp4", root=str(root), label="a"))
    write_manifest(root / "set.jsonl", lines)
    return root / "set.jsonl"


def contents(dest: Path) -> dict[str, str]:
    """Digest of every file that is no leftover; of receipts without their `run` block."""
    found = {}
    for path in sorted(dest.rglob("*")):
        if path.is_dir() or path.suffix == ".part":
            continue
        data = path.read_bytes()
        if path.suffix == ".json" and path.stem.isdecimal():
            fields = json.loads(data)
            del fields["run"]
            data = json.dumps(fields).encode()
        found[str(path.relative_to(dest))] = hashlib.sha256(data).hexdigest()
    return found


def vidprep(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def said(process: subprocess.Popen[str]) -> str:
    """What it printed; fails where the command did."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out
