"""The losses of static and dynamic concepts (reference/concepts.md section 6), and the Sinkhorn assignment.

Letters: B rows of this rank, N rows of all ranks (the global batch), V views, K concepts, D features. Only
queries carry a gradient; what they are compared with is detached. So a rank needs the other ranks' rows as numbers
only, and the mean over ranks of its losses is the loss of the global batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PAIRS = ((0, 1), (1, 0))  # ordered pairs of the two views of a kind


def instance_contrast(query_BD: Tensor, key_ND: Tensor, *, first: int, temperature: float) -> Tensor:
    """Mean cross entropy of cos(q_i, k_j) / temperature over all j, the right one being j = first + i.

    Args:
        query_BD: this rank's rows.
        key_ND: rows of the global batch; no gradient reaches them.
        first: where this rank's rows begin among them.
    """
    query, key = functional.normalize(query_BD, dim=1), functional.normalize(key_ND.detach(), dim=1)
    own = torch.arange(first, first + len(query), device=query.device)
    return functional.cross_entropy(query @ key.T / temperature, own)


@torch.no_grad()
def sinkhorn(scores_NVK: Tensor, *, valid_N: Tensor | None = None, epsilon: float, iterations: int) -> Tensor:
    """Soft assignment of rows to concepts that uses all concepts alike, for each view by itself.

    exp(scores / epsilon) is scaled in turn so that each concept gets the same share of all rows and each row is given
    away whole. Worked out with logarithms: the reference's exponentials underflow where scores span more than 5.

    Args:
        valid_N: bool, the rows that take part; others come out as 0. None: all.

    Returns:
        (N,V,K), rows sum to 1.
    """
    log = scores_NVK.to(torch.promote_types(scores_NVK.dtype, torch.float32)) / epsilon
    nothing = torch.finfo(log.dtype).min / 4  # finite, so that no difference of two of them is NaN
    absent = None if valid_N is None else ~valid_N[:, None, None]
    for _ in range(iterations):
        log = log if absent is None else log.masked_fill(absent, nothing)
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(2, keepdim=True)
    share = log.exp()
    return share if absent is None else share.masked_fill(absent, 0)


def alignment(scores_BVK: Tensor, target_BVK: Tensor, *, temperature: float) -> Tensor:
    """Mean over ordered pairs of views (i, k), i ≠ k, of −Σ target_i · log softmax(scores_k / temperature)."""
    views = scores_BVK.shape[1]
    log = (scores_BVK / temperature).log_softmax(2)
    pairs_BVV = -torch.einsum("bic,bkc->bik", target_BVK.detach(), log)
    others = 1 - torch.eye(views, device=log.device, dtype=log.dtype)
    return (pairs_BVV * others).sum((1, 2)).mean() / (views * (views - 1))


def negative_entropy(scores_BVK: Tensor, *, temperature: float) -> Tensor:
    """Mean of Σ p log p with p = softmax(scores / temperature): least where all concepts are equally likely."""
    log = (scores_BVK / temperature).log_softmax(2)
    return (log.exp() * log).sum(2).mean()


def reconstruction(made_BD: Tensor, feature_BD: Tensor) -> Tensor:
    """−mean cosine of what was made of the scores and the feature, which gets no gradient."""
    return -functional.cosine_similarity(made_BD, feature_BD.detach(), dim=1).mean()


def top_concepts(scores_B2K: Tensor, *, above: int) -> Tensor:
    """(B,K) bool: concepts strictly above the `above`-th largest score in both views, so at most above − 1 of them."""
    bound = scores_B2K.detach().topk(above, dim=2).values[..., -1:]
    return (scores_B2K.detach() > bound).all(1)


def likely_concepts(scores_B2K: Tensor, *, threshold: float, temperature: float) -> Tensor:
    """(B,K) bool: concepts whose softmax(scores / temperature) is above the threshold in both views."""
    return ((scores_B2K.detach() / temperature).softmax(2) > threshold).all(1)


def local_contrast(
    local_B2KD: Tensor, key_N2KD: Tensor, active_BK: Tensor, *, terms: Tensor, first: int, margin: float
) -> Tensor:
    """What a concept gathered in one view of a sample, against what it gathered in the other view of all samples.

    With δ = √(2 − 2 cos + 1e-5), a term for both ordered pairs of views and every active concept of a sample: δ² to
    the same sample plus the mean over the other samples of relu(margin − δ)².

    Args:
        local_B2KD: this rank's rows, of length 1.
        key_N2KD: the rows of the global batch; no gradient reaches them.
        active_BK: bool, of this rank's rows.
        terms: what the sum is divided by: 1 + the number of terms of the global batch, over the number of ranks.
        first: where this rank's rows begin among the keys.
        margin: 1.4 in the reference.
    """
    rows, batch = len(local_B2KD), len(key_N2KD)
    own_BN = (
        torch.arange(batch, device=local_B2KD.device)
        == torch.arange(first, first + rows, device=local_B2KD.device)[:, None]
    )
    total = local_B2KD.new_zeros(())
    for query, key in _PAIRS:
        # (K,B,D) x (K,D,N): as many products as there are concepts, not a sum over pairs of them.
        cosine_KBN = local_B2KD[:, query].transpose(0, 1) @ key_N2KD[:, key].detach().permute(1, 2, 0)
        squared = 2 - 2 * cosine_KBN + 1e-5
        apart = (margin - squared.clamp_min(1e-12).sqrt()).relu().square()
        terms_KBN = torch.where(own_BN, squared, apart / max(1, batch - 1))
        total = total + (terms_KBN.sum(2) * active_BK.T).sum()
    return total / terms
