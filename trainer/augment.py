"""Clips as a backbone wants them: flip, colour jitter, channel order, scale. A pure function of a batch on its device.

Every random choice was drawn with the clip plan and comes with the batch, so there is no random state here. All
frames are changed together: the changes are sorted by stage and kind on the host (`ColourChanges`), and each of the at
most 16 groups is gathered, changed and scattered back without a loop over frames or a wait for the device.

Colour changes are those of torchvision's ColorJitter on float images: brightness, contrast and saturation blend with
black, the frame's mean grey and each pixel's grey, clamped to [0, 1]; hue turns in HSV. On uint8 PIL images, as the
references use it, every change rounds to whole levels (truncates, in blends) and hue is kept in 256 steps: after four
changes such images differ from ours by a few levels in 255.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.data.batch import Batch, ColourChanges
from trainer.models.base import InputConvention

_RGB = (0, 1, 2)
_BGR = (2, 1, 0)
_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights


def augment(batch: Batch, convention: InputConvention) -> Tensor:
    """Clips (B,V,3,T,H,W) float32, contiguous, on the batch's device, in the backbone's convention."""
    clips_BVTHWC = torch.where(batch.flip[:, :, None, None, None, None], batch.clips.flip(4), batch.clips)
    order = _RGB if convention.channels == "rgb" else _BGR
    jittered = batch.changes is not None and len(batch.changes.groups) > 0
    b, v, t, h, w, _ = clips_BVTHWC.shape
    out = torch.empty((b, v, 3, t, h, w), dtype=torch.float32, device=clips_BVTHWC.device)
    for place, channel in enumerate(_RGB if jittered else order):
        out[:, :, place].copy_(clips_BVTHWC[..., channel])
    if not jittered:
        return _scale(out, convention, 255.0)
    assert batch.changes is not None
    apply_changes(out.div_(255), batch.changes)
    return _scale(out if order == _RGB else out.flip(2), convention, 1.0)


def apply_changes(clips_BVCTHW: Tensor, changes: ColourChanges) -> None:
    """Change colours in place; float RGB in [0, 1], contiguous."""
    t = clips_BVCTHW.shape[3]
    clips_NCTP = clips_BVCTHW.view(-1, 3, t, clips_BVCTHW.shape[4] * clips_BVCTHW.shape[5])
    for kind, start, stop in changes.groups:
        frame = changes.frame[start:stop]
        clip, time = frame // t, frame % t
        image_nCP = clips_NCTP[clip, :, time]
        clips_NCTP[clip, :, time] = _CHANGES[kind](image_nCP, changes.factor[start:stop, None])


def _scale(clips: Tensor, convention: InputConvention, top: float) -> Tensor:
    """((pixel / 255) · scale − mean) / std in place, for values of 0..top."""
    for channel in range(3):
        # Numbers, not tensors: they travel as kernel arguments, without a copy to the device.
        slope = convention.scale / (top * convention.std[channel])
        shift = -convention.mean[channel] / convention.std[channel]
        if slope != 1:
            clips[:, :, channel].mul_(slope)
        if shift != 0:
            clips[:, :, channel].add_(shift)
    return clips


def _grey(image_nCP: Tensor) -> Tensor:
    """(n,P) luma."""
    red, green, blue = image_nCP.unbind(1)
    return (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _brightness(image_nCP: Tensor, factor: Tensor) -> Tensor:
    return image_nCP.mul_(factor[:, None]).clamp_(0, 1)


def _contrast(image_nCP: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(image_nCP).mean(1, keepdim=True)
    return image_nCP.mul_(factor[:, None]).add_(((1 - factor) * mean)[:, None]).clamp_(0, 1)


def _saturation(image_nCP: Tensor, factor: Tensor) -> Tensor:
    other = _grey(image_nCP).mul_(1 - factor)
    return image_nCP.mul_(factor[:, None]).add_(other[:, None]).clamp_(0, 1)


def _hue(image_nCP: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` of a full circle.

    RGB to HSV as torchvision does it; back by the closed form v − v·s·clamp(min(k, 4 − k), 0, 1) with
    k = (n + 6h) mod 6 and n = 5, 3, 1 for red, green, blue, which equals the six-way table without building it.
    """
    red, green, blue = image_nCP.unbind(1)
    top, low = image_nCP.amax(1), image_nCP.amin(1)
    range_ = top - low
    safe = torch.where(range_ == 0, 1.0, range_)
    sector = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector += 6 * factor
    for channel, n in enumerate((5, 3, 1)):
        k = (sector + n).remainder_(6)
        image_nCP[:, channel] = top - range_ * torch.minimum(k, 4 - k).clamp_(0, 1)
    return image_nCP


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
