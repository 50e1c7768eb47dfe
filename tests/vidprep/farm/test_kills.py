"""Two runs of one data set, one of which is killed again and again, give the bytes of an undisturbed one."""

from __future__ import annotations

import random
import time
from pathlib import Path

from shards.receipts import read_receipts
from shards.storage import open_storage
from tests.vidprep.farm.sets import OPTIONS, contents, said, vidprep
from vidprep.farm.finish import finish
from vidprep.farm.work import Job
from vidprep.planning import plan


def test_killed_runs_are_taken_over(manifest: Path, whole: Path, tmp_path: Path) -> None:
    dest, rng = tmp_path / "set", random.Random(1)
    plan(manifest, dest, workers=1, **OPTIONS)
    for _ in range(4):
        pair = [vidprep("run", dest, "--workers", 1) for _ in range(2)]
        time.sleep(rng.uniform(0.5, 1.5))
        for process in pair:
            process.kill()
            process.communicate()
    survivor, victim = vidprep("run", dest, "--workers", 1), vidprep("run", dest, "--workers", 1)
    time.sleep(rng.uniform(0.5, 1.5))
    victim.kill()
    victim.communicate()
    said(survivor)
    time.sleep(1)  # workers of killed runs end by themselves, but not at once
    finish(Job(url=str(dest)), began=0, now=0)
    assert len(list(read_receipts(open_storage(dest), "rgb"))) >= 3
    rgb = {name: digest for name, digest in contents(whole).items() if name.startswith("rgb/")}
    made = {name: digest for name, digest in contents(dest).items() if name.startswith(("rgb/", ".run"))}
    assert made == rgb
