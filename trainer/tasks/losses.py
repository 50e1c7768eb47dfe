"""Contrastive losses over the clips of a batch (reference/pace.md section 6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional


def contrastive_loss(z_ND: Tensor, positive_NN: Tensor, negative_NN: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean over all positive pairs (i, j) of −log[ e(i,j) / (e(i,j) + Σ_k e(i,k)) ].

    Here e(i,j) = exp(z_i·z_j / temperature) and k runs over the negatives of i.

    Args:
        z_ND: embeddings.
        positive_NN: bool, the pairs to be pulled together, ordered: (i, j) and (j, i) are two terms.
        negative_NN: bool, the k of each i.
        temperature: 1.0 is the formula as quoted in reference/pace.md section 6.

    Returns:
        A scalar, in at least float32; 0 when there is no positive pair. Without negatives a term is 0.
    """
    with torch.autocast(z_ND.device.type, enabled=False):
        z_ND = z_ND.to(torch.promote_types(z_ND.dtype, torch.float32))
        logits_NN = z_ND @ z_ND.T / temperature
        # The lowest finite number instead of −inf: a row without negatives then has gradient 0, not NaN.
        lowest = torch.finfo(logits_NN.dtype).min
        negatives_N1 = logits_NN.masked_fill(~negative_NN, lowest).logsumexp(1, keepdim=True)
        terms_NN = functional.softplus(negatives_N1 - logits_NN)
        return (terms_NN * positive_NN).sum() / positive_NN.sum().clamp(min=1)


def same_context_pairs(sample_N: Tensor) -> tuple[Tensor, Tensor]:
    """(positive, negative) masks: positive are other clips of the same video at whatever pace, negative are clips of
    other videos. `sample_N` is the video's number of each clip."""
    same = sample_N[:, None] == sample_N[None]
    return same & _others(sample_N), ~same


def same_pace_pairs(pace_N: Tensor) -> tuple[Tensor, Tensor]:
    """(positive, negative) masks: positive are other clips of the same pace, from any video, negative are clips of
    another pace."""
    same = pace_N[:, None] == pace_N[None]
    return same & _others(pace_N), ~same


def _others(values_N: Tensor) -> Tensor:
    return ~torch.eye(len(values_N), dtype=torch.bool, device=values_N.device)


def gather_ranks(local: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the global batch; `local` itself in a single process.

    Every rank must make the same loss of the result. Then the gradient of a rank's own rows is complete, and is
    multiplied by the number of ranks because gradients are averaged over ranks afterwards: parameters get the
    gradient that one process with the global batch would give them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        world = dist.get_world_size()
        return grads[0].chunk(world)[dist.get_rank()] * world
