"""Counting the bytes of tensors, with or without contents: what is held, and what lives at the worst moment."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages:
    """Storages, each counted once, but those that are in `but`.

    Holds them, so that no other storage gets the place of one in memory while it is looked at.
    """

    def __init__(self, *, but: Storages | None = None) -> None:
        self._but = but
        self._held: dict[int, Any] = {}
        self.bytes = 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count these tensors' storages."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            number = storage._cdata
            if number not in self._held and not (self._but is not None and number in self._but):
                self._held[number] = storage
                self.bytes += storage.nbytes()

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves: for torch.autograd.graph.saved_tensors_hooks."""
        self.add([tensor])
        return tensor

    def release(self) -> None:
        """Hold them no longer; `bytes` stays."""
        self._held.clear()

    def __contains__(self, number: int) -> bool:
        return number in self._held


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Counts the bytes of storages that operations make, as long as they live.

    Args:
        but: storages that were there before.

    Attributes:
        now, peak: bytes that live, and the most that lived.
    """

    def __init__(self, *, but: Storages | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._but = but

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        values = [leaf for leaf in args if isinstance(leaf, Tensor)]
        if func is torch.ops.aten._local_scalar_dense.default and is_empty(values[0]):
            return 0  # a number that the host asks for: without contents any will do
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number in self._sizes or (self._but is not None and number in self._but):
            return
        size = self._sizes[number] = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, number)

    def _free(self, number: int) -> None:
        self.now -= self._sizes.pop(number)


class HalfPools(TorchFunctionMode):
    """Keeps autocast on the CPU from pooling in float32, which autocast on a GPU does not do."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "_pool" not in getattr(func, "__name__", ""):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **(kwargs or {}))


def is_empty(tensor: Tensor) -> bool:
    """Whether a tensor has no contents."""
    return bool(is_fake(tensor))


def empty_tensors(module: nn.Module, *, device: str = "cpu") -> None:
    """Put tensors without contents in the place of all parameters and buffers; within FakeTensorMode."""
    made: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in made:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
                    learnt = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if learnt else fake
                tensors[name] = None if tensor is None else made[tensor]  # type: ignore[assignment]
