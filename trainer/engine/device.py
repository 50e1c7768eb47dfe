"""Which device a run uses, and what may go wrong with it."""

from __future__ import annotations

import os
import shutil
import subprocess

import torch

from shards.errors import UserError

_INSTALL = "install a torch build for it (https://pytorch.org/get-started/locally) or train with --device cpu"


def choose_device(wanted: str = "auto", *, local_rank: int = 0) -> torch.device:
    """The device of this process.

    Args:
        wanted: "auto" (a GPU where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
        local_rank: which process of this machine this is; with "auto" and "cuda" each has its own GPU.

    Raises:
        UserError: no such device, or a GPU that is there but that this torch cannot use; names the remedy.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted == "auto" and not torch.cuda.is_available():
        gpus = visible_gpus()
        if gpus:
            raise UserError(
                f"this machine has a GPU ({gpus[0]}), but torch {torch.__version__} cannot use it; {_INSTALL}"
            )
        return torch.device("cpu")
    if wanted not in ("auto", "cuda") and not wanted.removeprefix("cuda:").isdecimal():
        raise UserError(f"--device is {wanted!r}; allowed: auto, cpu, cuda, cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(wanted.removeprefix("cuda:")) if wanted.startswith("cuda:") else local_rank
    if index >= count:
        seen = f"{count} GPU{'' if count == 1 else 's'}"
        raise UserError(
            f"GPU {index} was asked for, but torch {torch.__version__} sees {seen}; "
            + (_INSTALL if count == 0 else f"allowed: cuda:0 to cuda:{count - 1}, or fewer processes (--gpus {count})")
        )
    device = torch.device("cuda", index)
    _try(device)
    return device


def describe_device(device: torch.device) -> str:
    """What the log says about the device."""
    if device.type == "cuda":
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{device} ({torch.cuda.get_device_name(device)}, {gib:.0f} GiB)"
    return f"cpu ({torch.get_num_threads()} threads)"


def out_of_memory(error: torch.cuda.OutOfMemoryError, device: torch.device, *, batch: int, world: int) -> UserError:
    """The error a run ends with when the GPU is full: the peak, and the largest batch that should fit.

    A step's memory grows with the batch from what was allocated between steps, so the batch that fits follows from the
    peak of the step that failed; half the batch is taken where that says less than it should.
    """
    peak, free = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    total = torch.cuda.get_device_properties(device).total_memory
    share = min(0.9 * total / max(peak, 1), 0.5)
    fits = max(1, int(batch * share) // world) * world
    advice = (
        f"--set train.batch={fits}, which should fit (another batch is another run: give another --out)"
        if fits < batch
        else "smaller clips: --set data.frames=… or data.crop=…"
    )
    return UserError(
        f"out of memory on {describe_device(device)}: the peak was {peak / 1e9:.1f} GB, {free / 1e9:.1f} GB are free "
        f"(other processes count too), with train.batch={batch} over {world} process{'' if world == 1 else 'es'}. "
        f"Try {advice}. [{str(error).splitlines()[0]}]"
    )


def visible_gpus() -> list[str]:
    """Names of NVIDIA GPUs according to the driver; empty where CUDA_VISIBLE_DEVICES hides all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []  # a driver that does not answer gives no GPU to use
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _try(device: torch.device) -> None:
    """One kernel: a build without code for this GPU fails here instead of at some step."""
    try:
        torch.ones(8, device=device).sum().item()
    except RuntimeError as error:
        raise UserError(
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use {device} "
            f"({torch.cuda.get_device_name(device)}): {str(error).splitlines()[0]}; {_INSTALL}"
        ) from error
