"""A Slurm for tests: sbatch, srun, scancel and scontrol that run jobs on this machine, one array task after another.

A job waits for those it depends on (afterok); what it does and how it ended lies in the folder of `install`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

_COMMANDS = ("sbatch", "srun", "scancel", "scontrol")


def install(folder: Path, *, max_array: int = 1001) -> Path:
    """Write the commands; returns the folder to put on the PATH."""
    places = folder / "bin"
    places.mkdir(parents=True)
    (folder / "max_array").write_text(str(max_array))
    (folder / "next").write_text("100")
    for name in _COMMANDS:
        script = places / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {folder} {name} "$@"\n')
        script.chmod(0o755)
    return places


def wait(folder: Path, seconds: float = 120) -> dict[str, str]:
    """Wait for all jobs; how each ended ("ok", "failed", "never", "cancelled")."""
    deadline = time.monotonic() + seconds
    jobs = [path.name.partition(".")[0] for path in folder.glob("*.sh")]
    while time.monotonic() < deadline:
        ends = {job: (folder / f"{job}.end").read_text() for job in jobs if (folder / f"{job}.end").exists()}
        if len(ends) == len(jobs):
            return ends
        time.sleep(0.1)
    raise TimeoutError(f"jobs {sorted(set(jobs) - set(ends))} have not ended")


def _sbatch(folder: Path, arguments: list[str]) -> None:
    job = int((folder / "next").read_text())
    (folder / "next").write_text(str(job + 1))
    (folder / f"{job}.sh").write_text(Path(arguments[-1]).read_text())
    with (folder / f"{job}.log").open("w") as log:
        daemon = subprocess.Popen(
            [sys.executable, __file__, str(folder), "run", str(job)], stdout=log, stderr=log, start_new_session=True
        )
    (folder / f"{job}.pid").write_text(str(daemon.pid))
    sys.stdout.write(f"Submitted batch job {job}\n")


def _run(folder: Path, job: str) -> None:
    script = (folder / f"{job}.sh").read_text()
    after = re.search(r"--dependency='?afterok:([\d:]+)", script)
    for other in after[1].split(":") if after else []:
        while not (folder / f"{other}.end").exists():
            time.sleep(0.05)
        if (folder / f"{other}.end").read_text() != "ok":
            (folder / f"{job}.end").write_text("never")
            return
    array = re.search(r"--array=(\d+)-(\d+)", script)
    tasks = range(int(array[1]), int(array[2]) + 1) if array else [None]
    good = [_task(folder, job, task) for task in tasks]
    (folder / f"{job}.end").write_text("ok" if all(good) else "failed")


def _task(folder: Path, job: str, task: int | None) -> bool:
    ids = {"SLURM_JOB_ID": job, "SLURM_JOBID": job, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    if task is not None:
        ids = {**ids, "SLURM_JOB_ID": f"{job}9{task}", "SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)}
    ids |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "here"}
    name = f"{job}_{task}" if task is not None else job
    for _ in range(5):
        (folder / f"{name}.requeue").unlink(missing_ok=True)
        (folder / "srun.pid").unlink(missing_ok=True)
        done = subprocess.Popen(["bash", str(folder / f"{job}.sh")], env={**os.environ, **ids})
        _signal(folder)
        done.wait()
        if not (folder / f"{name}.requeue").exists():
            return done.returncode == 0
    return False


def _signal(folder: Path) -> None:
    """Once, what Slurm does before the time limit: where `folder/signal` names a file, as soon as that exists."""
    order = folder / "signal"
    if not order.exists():
        return
    begun = Path(order.read_text())
    order.rename(folder / "signalled")
    while not (begun.exists() and (folder / "srun.pid").exists()):
        time.sleep(0.02)
    os.kill(int((folder / "srun.pid").read_text()), signal.SIGUSR2)


def _srun(folder: Path, arguments: list[str]) -> None:
    """Drops the options of srun and runs the command."""
    (folder / "srun.pid").write_text(str(os.getpid()))
    while arguments and arguments[0].startswith("-"):
        takes = arguments[0] in ("--output", "--error")
        arguments = arguments[2 if takes else 1 :]
    os.execvp(arguments[0], arguments)


def _scancel(folder: Path, jobs: list[str]) -> None:
    for job in jobs:
        if not (folder / f"{job}.end").exists():
            (folder / f"{job}.end").write_text("cancelled")
            os.killpg(int((folder / f"{job}.pid").read_text()), signal.SIGKILL)


def _scontrol(folder: Path, arguments: list[str]) -> None:
    if arguments[0] == "requeue":
        (folder / f"{arguments[1]}.requeue").touch()
    else:
        sys.stdout.write(f"MaxArraySize            = {(folder / 'max_array').read_text()}\n")


def main() -> None:
    folder, command, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if command == "sbatch":
        _sbatch(folder, arguments)
    elif command == "run":
        _run(folder, arguments[0])
    elif command == "srun":
        _srun(folder, arguments)
    elif command == "scancel":
        _scancel(folder, arguments)
    else:
        _scontrol(folder, arguments)


if __name__ == "__main__":
    main()
