"""Writing shards as job arrays of a Slurm cluster, through submitit.

For every column an array of parts and then one job that puts the column in force, each waiting for the one before.
Nothing has to stay running where they were submitted.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shards.errors import DataError, UserError
from shards.plan import read_plan
from shards.storage import MissingError, Storage, open_storage
from shards.text import to_json
from vidprep.deriving.makers import read_column_plan
from vidprep.farm.beats import FOLDER
from vidprep.farm.finish import finish
from vidprep.farm.work import RGB, Job, run
from vidprep.runs import Part

JOBS = f"{FOLDER}/slurm.json"
_ARRAY = 1001  # Slurm's own default of MaxArraySize
_MINUTES = 240
_REQUEUES = 1000
_COMMAND_SECONDS = 60
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_ENDED = re.compile("Invalid job id|already complet", re.IGNORECASE)  # scancel, of a job that is over
# Parameters that submitit knows; others go to sbatch as they are.
_KNOWN = frozenset(
    {"partition", "nodes", "ntasks_per_node", "cpus_per_task", "gpus_per_node", "gpus_per_task", "qos"}
    | {"mem", "mem_per_gpu", "mem_per_cpu", "signal_delay_s", "comment", "constraint", "exclude", "account", "gres"}
    | {"mail_type", "mail_user", "nodelist", "exclusive", "array_parallelism", "wckey"}
)


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """How parts are submitted.

    Attributes:
        options: of sbatch, with `_` for `-`: partition, account, time (minutes or D-HH:MM:SS), mem, cpus_per_task, …
        parts: tasks of a column's array; None: one a shard.
        folder: for logs and pickled jobs, on a file system that all nodes share.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    parts: int | None = None
    folder: Path = Path("vidprep-slurm")

    def __post_init__(self) -> None:
        if self.parts is not None and self.parts < 1:
            raise UserError(f"parts is {self.parts}; at least one is needed")
        self.minutes()

    def minutes(self) -> int:
        """The time limit of a job."""
        given = self.options.get("time", _MINUTES)
        match = _TIME.fullmatch(str(given))
        if match is None:
            raise UserError(
                f"time={given} is no time limit; examples: time=240 (minutes), time=8:00:00, time=2-00:00:00"
            )
        days, first, second, third = (None if it is None else int(it) for it in match.groups())
        if days is not None:  # D-HH[:MM[:SS]]
            return days * 1440 + (first or 0) * 60 + (second or 0)
        if third is not None:  # HH:MM:SS
            return (first or 0) * 60 + (second or 0)
        return max(1, first or 0)  # MM[:SS]

    def submitit(self, name: str) -> dict[str, Any]:
        """As `submitit.SlurmExecutor.update_parameters` takes them."""
        given = {key: value for key, value in self.options.items() if key != "time"}
        known = {key: value for key, value in given.items() if key in _KNOWN}
        other = {key: value for key, value in given.items() if key not in _KNOWN}
        return {"time": self.minutes(), "job_name": name, **known, "additional_parameters": other or None}


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """One submission. `what`: "rgb" or "rgb finalize"; `tasks`: of an array."""

    id: str
    what: str
    tasks: int = 1


@dataclass(frozen=True)
class PartOfJob:
    """What a task of the array does; submitit calls `checkpoint` at the time limit, and requeues it."""

    job: Job
    part: Part

    def __call__(self) -> int:
        return len(run(self.job, self.part, on_event=_log))

    def checkpoint(self) -> Any:
        """It is run again as it is: finished shards are left alone."""
        return _submitit().helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class FinishJob:
    """What follows the array. `last`: of the submission."""

    job: Job
    last: bool

    def __call__(self) -> str:
        report = str(finish(self.job, began=0, now=0))
        _log({"event": "done", "message": report})
        if self.last:
            _forget(open_storage(self.job.url))
        return report

    def checkpoint(self) -> Any:
        return _submitit().helpers.DelayedSubmission(self)


def submit(jobs: Sequence[Job], slurm: SlurmOptions) -> list[Submitted]:
    """Submit all parts of these columns in turn, each followed by the job that puts it in force.

    Args:
        jobs: columns of one planned data set, sources before what is made of them.

    Returns:
        The submissions; they are also kept in the data set, for `cancel`.

    Raises:
        UserError: there is no Slurm here, a column is not planned, or earlier jobs are still known.
    """
    _check_slurm()
    storage = open_storage(jobs[0].url)
    if known := submissions(storage):
        raise UserError(
            f"{storage.url} has been submitted: jobs {', '.join(it.id for it in known)}; see vidprep status "
            f"{storage.url}, or give them up with vidprep cancel {storage.url}"
        )
    submitit = _submitit()
    done: list[Submitted] = []
    before: list[str] = []
    for job in jobs:
        parts = _parts(storage, job, slurm)
        ids: list[str] = []
        for first, count in _chunks(parts, _max_array()):
            executor = submitit.SlurmExecutor(folder=slurm.folder.absolute() / "%j", max_num_timeout=_REQUEUES)
            executor.update_parameters(**slurm.submitit(f"vidprep-{job.column}"), **_after(before))
            tasks = [PartOfJob(_sized(job, slurm), Part(index=i, of=parts)) for i in range(first, first + count)]
            found = _submit_array(executor, tasks)
            ids.append(found)
            done.append(Submitted(id=found, what=job.column, tasks=count))
            _keep(storage, done)
        executor = submitit.SlurmExecutor(folder=slurm.folder.absolute() / "%j", max_num_timeout=_REQUEUES)
        executor.update_parameters(**slurm.submitit(f"vidprep-{job.column}-finalize"), **_after(ids))
        found = executor.submit(FinishJob(_sized(job, slurm), last=job is jobs[-1])).job_id
        done.append(Submitted(id=found, what=f"{job.column} finalize"))
        _keep(storage, done)
        before = [found]
    return done


def scripts(jobs: Sequence[Job], slurm: SlurmOptions, *, size: int | None = None) -> dict[str, str]:
    """What would be submitted, as scripts for sbatch by file name, to be submitted by hand in their order.

    Args:
        size: MaxArraySize of the cluster; None: asked of Slurm, or its default where there is none.
    """
    storage = open_storage(jobs[0].url)
    made: dict[str, str] = {}
    for job in jobs:
        parts = _parts(storage, job, slurm)
        chunks = _chunks(parts, size or _max_array())
        for number, (first, count) in enumerate(chunks):
            name = f"{len(made):02d}-{job.column}" + (f"-{number}" if len(chunks) > 1 else "")
            index = "$SLURM_ARRAY_TASK_ID" if not first else f"$((SLURM_ARRAY_TASK_ID + {first}))"
            command = f"{_run_command(job)} --shard {index}/{parts}"
            parallel = min(count, int(slurm.options.get("array_parallelism", 256)))
            made[f"{name}.sbatch"] = _script(job, slurm, command, array=f"0-{count - 1}%{parallel}")
        name = f"{len(made):02d}-{job.column}-finalize.sbatch"
        made[name] = _script(job, slurm, _finalize(job), array=None)
    return made


def submissions(storage: Storage) -> list[Submitted]:
    """What `submit` has left in the data set. Raises DataError."""
    try:
        return [Submitted(**it) for it in json.loads(storage.read(JOBS))["jobs"]]
    except MissingError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{storage.url}/{JOBS} cannot be understood ({error}); remove it") from error


def cancel(url: str | Path) -> list[Submitted]:
    """End what was submitted for a data set; finished shards stay.

    Returns:
        What was ended; empty where nothing was submitted.

    Raises:
        UserError: Slurm does not answer.
    """
    storage = open_storage(url)
    found = submissions(storage)
    if found:
        _check_slurm()
        for it in found:
            try:
                _call(["scancel", it.id])
            except UserError as error:
                if not _ENDED.search(str(error)):
                    raise
        storage.remove(JOBS)
    return found


def _forget(storage: Storage) -> None:
    """Remove the list of submissions, once all they were for is done."""
    if storage.exists(JOBS):
        storage.remove(JOBS)


def _parts(storage: Storage, job: Job, slurm: SlurmOptions) -> int:
    """Tasks of the array."""
    shards = 1 + max(entry.shard for entry in read_plan(storage))
    if job.column != RGB:
        read_column_plan(storage, job.column)
    return min(shards, slurm.parts or shards)


def _chunks(parts: int, size: int) -> list[tuple[int, int]]:
    """First part and count of every array: Slurm has a longest one."""
    return [(first, min(size, parts - first)) for first in range(0, parts, size)]


def _sized(job: Job, slurm: SlurmOptions) -> Job:
    """With as many processes as a task has processors."""
    return replace(job, workers=job.workers or int(slurm.options.get("cpus_per_task", 1)))


def _after(ids: Sequence[str]) -> dict[str, Any]:
    return {"dependency": "afterok:" + ":".join(ids)} if ids else {}


def _submit_array(executor: Any, tasks: Sequence[PartOfJob]) -> str:
    with executor.batch():
        found = [executor.submit(task) for task in tasks]
    return str(found[0].job_id).partition("_")[0]


def _keep(storage: Storage, done: Sequence[Submitted]) -> None:
    data = to_json({"jobs": [vars(it) for it in done], "at": round(time.time())})
    storage.put(JOBS, (data + "\n").encode(), replace=True)


def _run_command(job: Job) -> str:
    planned = tuple(read_plan(open_storage(job.url)).options.get("roots", ()))
    if job.roots is not None and len(job.roots) > 1 and job.roots != planned:
        raise UserError(
            f"the videos of {job.url} lie in {len(job.roots)} folders, which have moved since it was planned; a script "
            "can name only one: give --root"
        )
    root = None if job.roots is None or job.roots == planned else job.roots[0]
    given = {
        "--root": root,
        "--workers": job.workers,
        "--memory": job.memory,
        "--timeout": job.timeout,
        "--max-bad": job.max_bad,
        "--scratch": job.scratch,
    }
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    return shlex.join(["vidprep", "run", job.url, "--column", job.column, *flags])


def _finalize(job: Job) -> str:
    return shlex.join(["vidprep", "finalize", job.url, "--column", job.column])


def _script(job: Job, slurm: SlurmOptions, command: str, *, array: str | None) -> str:
    name = f"vidprep-{job.column}" + ("" if array else "-finalize")
    options = {key: value for key, value in slurm.options.items() if key not in ("time", "array_parallelism")}
    options = {"job_name": name, "time": slurm.minutes(), "cpus_per_task": job.workers or 1, **options}
    if array:
        options["array"] = array
    lines = ["#!/bin/bash", *(f"#SBATCH --{key.replace('_', '-')}={value}" for key, value in options.items())]
    lines += ["#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR2@90", ""]
    id_ = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if array else "$SLURM_JOB_ID"
    lines += [
        "# At the time limit the job goes back into the queue; finished shards are left alone then.",
        f"trap 'scontrol requeue {id_}; exit 0' USR2",
        f"{command} &",
        "wait $!",
        "",
    ]
    return "\n".join(lines)


def _max_array() -> int:
    """MaxArraySize of the cluster."""
    if shutil.which("scontrol") is None:
        return _ARRAY
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]))
    return _ARRAY if found is None else max(1, int(found[1]))


def _check_slurm() -> None:
    missing = [name for name in ("sbatch", "srun", "scancel") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"there is no Slurm here ({missing[0]} is not found); submit on a login node, or write scripts to submit "
            "there with --engine slurm --dry-run"
        )


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMMAND_SECONDS)
    except subprocess.CalledProcessError as error:
        raise UserError(f"{shlex.join(command)} failed: {error.stderr.strip() or error.stdout.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{shlex.join(command)} did not answer within {_COMMAND_SECONDS} s; is Slurm up?") from error
    return done.stdout


def _submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ModuleNotFoundError as error:
        raise UserError(
            "submitit is not installed; pip install 'vidprep[farm]', or write scripts with --engine slurm --dry-run"
        ) from error


def _log(event: dict[str, Any]) -> None:
    """Into the job's log, but for what comes every second."""
    if event["event"] != "progress":
        sys.stdout.write(to_json(event) + "\n")
        sys.stdout.flush()
