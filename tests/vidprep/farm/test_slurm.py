"""Slurm: arrays of parts that give the same bytes, requeued at the time limit, cancelled on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.errors import UserError
from shards.storage import open_storage
from tests.vidprep.farm import toy_slurm
from tests.vidprep.farm.sets import FLOW, LABELS, OPTIONS, ROOT, contents
from vidprep.farm.slurm import SlurmOptions, cancel, scripts, submissions, submit
from vidprep.farm.work import Job
from vidprep.planning import plan

COLUMNS = ("rgb", "flow", "statistics")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks are the most an array may have here."""
    folder = tmp_path / "cluster"
    monkeypatch.setenv("PATH", f"{toy_slurm.install(folder, max_array=2)}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture
def planned(manifest: Path, tmp_path: Path) -> Path:
    dest = tmp_path / "set"
    plan(manifest, dest, workers=1, columns=COLUMNS, flow=FLOW, labels=LABELS, **OPTIONS)
    return dest


def jobs(dest: Path, *columns: str) -> list[Job]:
    return [Job(url=str(dest), column=column, workers=1) for column in columns]


@pytest.mark.slow
def test_all_columns_in_one_submission(planned: Path, whole: Path, tmp_path: Path, cluster: Path) -> None:
    options = SlurmOptions(options={"time": "2:00:00", "partition": "cpu", "licenses": "x"}, parts=3, folder=tmp_path)
    done = submit(jobs(planned, *COLUMNS), options)
    assert [(it.what, it.tasks) for it in done[:3]] == [("rgb", 2), ("rgb", 1), ("rgb finalize", 1)]
    first = (cluster / f"{done[0].id}.sh").read_text()
    for words in ("--array=0-1%2", "--partition=cpu", "--time=120", "--licenses=x", "--job-name=vidprep-rgb"):
        assert words in first
    assert set(toy_slurm.wait(cluster, 300).values()) == {"ok"}
    assert submissions(open_storage(planned)) == []
    assert contents(planned) == contents(whole)


def test_submitted_once_and_cancelled(planned: Path, tmp_path: Path, cluster: Path) -> None:
    done = submit(jobs(planned, "rgb"), SlurmOptions(parts=2, folder=tmp_path))
    with pytest.raises(UserError, match=rf"has been submitted: jobs {done[0].id}.*vidprep cancel"):
        submit(jobs(planned, "rgb"), SlurmOptions(folder=tmp_path))
    assert [it.id for it in cancel(planned)] == [it.id for it in done]
    assert "cancelled" in toy_slurm.wait(cluster).values()
    assert submissions(open_storage(planned)) == [] and cancel(planned) == []


def test_at_the_time_limit_a_task_is_requeued(planned: Path, whole: Path, tmp_path: Path, cluster: Path) -> None:
    """The signal reaches it while it writes the first shard: it asks to be requeued, and the second time finishes."""
    (cluster / "signal").write_text(str(planned / ".run/rgb.000000.json"))
    done = submit(jobs(planned, "rgb"), SlurmOptions(options={"time": 1}, parts=1, folder=tmp_path / "logs"))
    assert "--signal=USR2@90" in (cluster / f"{done[0].id}.sh").read_text()
    assert set(toy_slurm.wait(cluster).values()) == {"ok"}
    assert (cluster / "signalled").exists()
    logs = "".join(path.read_text() for path in (tmp_path / "logs").rglob("*.out"))
    logs += (cluster / f"{done[0].id}.log").read_text()
    assert "Requeued job" in logs
    rgb = {name: digest for name, digest in contents(whole).items() if name.startswith("rgb/")}
    assert {name: digest for name, digest in contents(planned).items() if name.startswith("rgb/")} == rgb


def test_scripts_to_submit_by_hand(planned: Path, whole: Path, tmp_path: Path, cluster: Path) -> None:
    made = scripts(jobs(planned, "rgb"), SlurmOptions(parts=3, options={"account": "lab"}), size=2)
    assert list(made) == ["00-rgb-0.sbatch", "01-rgb-1.sbatch", "02-rgb-finalize.sbatch"]
    assert "#SBATCH --array=0-1%2\n" in made["00-rgb-0.sbatch"] and "#SBATCH --account=lab\n" in made["00-rgb-0.sbatch"]
    assert "--shard $((SLURM_ARRAY_TASK_ID + 2))/3" in made["01-rgb-1.sbatch"]
    vidprep = cluster / "bin/vidprep"
    vidprep.write_text(f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m cli.main "$@"\n')
    vidprep.chmod(0o755)
    for name, tasks in (("00-rgb-0.sbatch", (0, 1)), ("01-rgb-1.sbatch", (0,)), ("02-rgb-finalize.sbatch", (0,))):
        (tmp_path / name).write_text(made[name])
        for task in tasks:
            environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}
            subprocess.run(["bash", str(tmp_path / name)], env=environment, check=True, capture_output=True)
    rgb = {name: digest for name, digest in contents(whole).items() if name.startswith("rgb/")}
    assert {name: digest for name, digest in contents(planned).items() if name.startswith("rgb/")} == rgb


def test_what_cannot_be(planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"no Slurm here \(sbatch.*--dry-run"):
        submit(jobs(planned, "rgb"), SlurmOptions())
    with pytest.raises(UserError, match="is no time limit"):
        SlurmOptions(options={"time": "soon"})
    with pytest.raises(UserError, match="parts is 0"):
        SlurmOptions(parts=0)
    times = {240: 240, "90": 90, "10:30": 10, "8:00:00": 480, "2-00:00:00": 2880, "1-12": 2160}
    assert {given: SlurmOptions(options={"time": given}).minutes() for given in times} == times
