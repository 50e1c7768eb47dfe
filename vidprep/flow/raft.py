"""RAFT by torchvision; imports torch, so only `methods.raft` imports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torchvision.models.optical_flow import raft_large, raft_small

from shards.errors import StorageError, UserError

MULTIPLE, SMALLEST = 8, 128  # RAFT halves three times and correlates over four levels


def load(weights: Path) -> torch.nn.Module:
    """The model that the state_dict in `weights` belongs to, in evaluation mode."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StorageError(f"cannot read the RAFT weights {weights}: {error.strerror}") from error
    small = raft_small(weights=None)
    is_small = isinstance(state, dict) and set(state) == set(small.state_dict())
    model: torch.nn.Module = small if is_small else raft_large(weights=None)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{weights} holds no state_dict of torchvision's raft_large or raft_small") from error
    return model.eval()


@torch.no_grad()
def solve(frames: np.ndarray, weights: Path, *, device: str, batch: int, updates: int) -> np.ndarray:
    """(T,H,W) checked frames → (T−1,H,W,2) float32."""
    model = load(weights).to(device)
    height, width = frames.shape[1:]
    down = max(SMALLEST, -(-height // MULTIPLE) * MULTIPLE) - height
    right = max(SMALLEST, -(-width // MULTIPLE) * MULTIPLE) - width
    scale = 2 / 255 if frames.dtype == np.uint8 else 2.0
    flows = []
    for start in range(0, len(frames) - 1, batch):
        part = torch.from_numpy(frames[start : start + batch + 1]).to(device, torch.float32) * scale - 1
        images = functional.pad(part[:, None], (0, right, 0, down), mode="replicate").expand(-1, 3, -1, -1)
        fields = model(images[:-1], images[1:], num_flow_updates=updates)[-1]
        flows.append(fields[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy())
    return np.ascontiguousarray(np.concatenate(flows), dtype=np.float32)
