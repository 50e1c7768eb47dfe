"""What momentum contrast needs (MoCo, He et al., CVPR 2020): a key network that follows the query network, keys encoded
with other batch statistics than their queries, and a queue of past keys.

Letters: N clips of this process, D features, K keys in the queue.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError
from shards.rng import rng_for
from trainer.tasks.losses import gather_ranks

Encode = Callable[[Tensor], Tensor]
"""Maps clips (N,…) to embeddings (N,…), with batch statistics of the clips it is given together."""


@torch.no_grad()
def copy_over(keys: nn.Module, queries: nn.Module) -> None:
    """Make the parameters and buffers of `keys` those of `queries`."""
    keys.load_state_dict(queries.state_dict())


@torch.no_grad()
def follow(keys: nn.Module, queries: nn.Module, momentum: float) -> None:
    """key ← momentum · key + (1 − momentum) · query, for all parameters at once.

    Buffers are left alone: batch normalisation of the key network keeps the running statistics of the keys it saw.
    """
    ours: list[Tensor] = list(keys.parameters())
    theirs: list[Tensor] = list(queries.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - momentum)


class Queue(nn.Module):
    """The newest K keys. State of the task's checkpoint; on several processes each has all of it.

    Attributes:
        keys: (K,D) of length 1, at the beginning random.
        owner: (K,) int64 sample number of each key, −1 for the random ones.
        place: () int64, where the next key goes.
    """

    keys: Tensor
    owner: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", functional.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("owner", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, batch: int) -> None:
        """Refuse a global batch whose keys would overwrite each other.

        Raises:
            UserError: with both numbers and how to change them.
        """
        if batch > len(self):
            raise UserError(
                f"a batch brings {batch} keys and the queue holds {len(self)}: --set task.queue={batch} or more, or "
                f"--set train.batch={len(self)} or less"
            )

    @torch.no_grad()
    def push(self, keys_ND: Tensor, owner_N: Tensor) -> None:
        """Put keys in the place of the oldest; any number up to K. Not between forward and backward of a loss that
        reads the queue."""
        self.check(len(keys_ND))
        at = (self.place + torch.arange(len(keys_ND), device=self.place.device)) % len(self)
        self.keys.index_copy_(0, at, keys_ND.to(self.keys.dtype))
        self.owner.index_copy_(0, at, owner_N)
        self.place.add_(len(keys_ND)).remainder_(len(self))


def encode_in_groups(encode: Encode, clips: Tensor, groups: int) -> Tensor:
    """Embeddings of clips that are encoded in so many groups, one after the other, in their order."""
    return torch.cat([encode(part) for part in clips.tensor_split(groups)])


def encode_shuffled(encode: Encode, clips: Tensor, groups: int, order: Tensor) -> Tensor:
    """Embeddings of all processes' clips, in the order of the global batch, each encoded among other clips than those
    it stands beside: what they have in common through batch normalisation then tells nothing (MoCo, section 3.3).

    Args:
        encode: without gradient.
        clips: this process's, as many on each.
        groups: in which this process encodes its share.
        order: (global batch,) permutation, the same on every process.
    """
    everyone = gather_ranks(clips)
    mine = order.chunk(world())[rank()]
    encoded = gather_ranks(encode_in_groups(encode, everyone.index_select(0, mine), groups))
    return torch.empty_like(encoded).index_copy_(0, order, encoded)


def groups_here(groups: int, clips: int) -> int:
    """This process's share of `groups`, at least 1, with at least two clips in each."""
    return max(1, min(groups // world(), clips // 2))


def shuffle_order(count: int, *, seed: int, step: int, stream: int, device: torch.device) -> Tensor:
    """(count,) permutation that seed, step and stream select, the same on every process."""
    order = rng_for(seed, step, count, stream=stream).permutation(count)
    return torch.from_numpy(order).to(device, non_blocking=True)


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if world() > 1 else 0


def queue_contrast(positive_N: Tensor, negatives_NK: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy of the positive among all: −log[ e(p) / (e(p) + Σ_k e(n_k)) ], e(x) = exp(x / temperature).

    Args:
        positive_N: cosine of each query and its key.
        negatives_NK: of each query and the queue; −inf where a key is to be left out.
    """
    return functional.softplus((negatives_NK / temperature).logsumexp(1) - positive_N / temperature).mean()
