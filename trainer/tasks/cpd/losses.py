"""Noise-contrastive estimation over memory banks (reference/cpd.md section 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-7


class Nce(NamedTuple):
    """The two parts of one side's loss: of the pair itself, and of the noise."""

    positive: Tensor
    negative: Tensor


def scores(query_BD: Tensor, bank_ND: Tensor, places_BK: Tensor, temperature: float) -> Tensor:
    """(B,K) exp(query · bank entry / temperature) of the entries at `places`.

    All N products are computed and K of them picked: gathering K entries for each query would need D times the memory.
    """
    products_BN = query_BD @ bank_ND.T
    return (products_BN.gather(1, places_BK) / temperature).exp()


def nce(scores_BK: Tensor, constant: Tensor, entries: int) -> Nce:
    """−mean log(P₀ / (P₀ + m + ε)) and −mean Σ_k log(m / (P_k + m + ε)), P = score / constant, m = K / N.

    Args:
        scores_BK: of the own entry, then of K drawn ones.
        constant: Z, the estimate of a score's sum over the bank.
        entries: N of the bank.
    """
    p_BK = scores_BK / constant
    noise = (scores_BK.shape[1] - 1) / entries
    own, drawn = p_BK[:, 0], p_BK[:, 1:]
    positive = -(own / (own + noise + _EPSILON)).log().mean()
    negative = -(noise / (drawn + noise + _EPSILON)).log().sum(1).mean()
    return Nce(positive, negative)


def normaliser(scores_BK: Tensor, entries: int) -> Tensor:
    """Z as the reference sets it from its first batch: mean score times N."""
    return scores_BK.detach().mean() * entries


@torch.no_grad()
def update_bank(bank_ND: Tensor, places_B: Tensor, new_BD: Tensor, momentum: float) -> None:
    """bank ← normalise(momentum · bank + (1 − momentum) · new) at `places`, in place; of a place that comes several
    times, the last counts."""
    mixed = functional.normalize(torch.lerp(new_BD.to(bank_ND.dtype), bank_ND[places_B], momentum), dim=1)
    # Every row of a place writes the same: a GPU writes them in any order, and processes must hold the same bank.
    row_B = torch.arange(len(places_B), device=places_B.device)
    last_B = ((places_B[:, None] == places_B) * row_B).amax(1)
    bank_ND.index_copy_(0, places_B, mixed[last_B])


def info_nce(
    video_BD: Tensor, text_BD: Tensor, *, temperature: float, queues: tuple[Tensor, Tensor] | None = None,
    foreign_BK: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE: each video among the texts of the batch (and a queue of texts), and the other way round.

    Args:
        video_BD, text_BD: of length 1; row b of both is a pair.
        queues: (K,D) past videos and past texts, further negatives.
        foreign_BK: bool, queue entries that are of another sample; others are left out.
    """
    losses = []
    for query, keys, past in ((video_BD, text_BD, 1), (text_BD, video_BD, 0)):
        logits = query @ keys.T
        if queues is not None and foreign_BK is not None:
            logits = torch.cat([logits, (query @ queues[past].T).masked_fill(~foreign_BK, float("-inf"))], dim=1)
        target = torch.arange(len(query), device=query.device)
        losses.append(functional.cross_entropy(logits / temperature, target))
    return losses[0] + losses[1]
