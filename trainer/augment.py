"""Clips as a backbone wants them: flip, colour jitter, channel order, scale. A pure function of a batch on its device.

Clips of a flow column become pixels of motion, in proportion to the size of the picture; in a mirrored clip motion to
the side is turned round.

Every random choice was drawn with the clip plan and comes with the batch, so there is no random state here. All
frames are changed together: the changes are sorted by stage and kind on the host (`ColourChanges`), and each of the at
most 16 groups is gathered, changed and scattered back without a loop over frames or a wait for the device (on a CPU in
pieces of a few frames).

Colour changes are those of torchvision's ColorJitter on float images: brightness, contrast and saturation blend with
black, the frame's mean grey and each pixel's grey, clamped to [0, 1]; hue turns in HSV. On uint8 PIL images, as the
references use it, every change rounds to whole levels and hue is kept in 256 steps: after four changes such images
differ from ours by 1.2 of 255 levels in the mean and by up to 9 (tests/trainer/test_augment.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from shards.errors import UserError
from trainer.data.batch import Batch, ColourChanges
from trainer.models.base import InputConvention

_RGB = (0, 1, 2)
_BGR = (2, 1, 0)
_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights
_CACHE = 2 << 20


def augment(batch: Batch, convention: InputConvention) -> Tensor:
    """Clips (B,V,3,T,H,W) float32, contiguous, on the batch's device, in the backbone's convention.

    Clips of flow: (B,V,2,T,H,W) as `flow_clips` gives them; the convention is one of RGB.

    Raises:
        UserError: colour jitter of flow.
    """
    b, v, t, h, w, channels = batch.clips.shape
    if channels == 2:
        return flow_clips(batch)
    order = _RGB if convention.channels == "rgb" else _BGR
    out = torch.empty((b, v, 3, t, h, w), device=batch.clips.device)
    if batch.changes is None or not batch.changes.groups:
        _copy_planes(batch, out, order)
        return _scale(out, convention, 255.0)
    images_BVTCHW = torch.empty((b, v, t, 3, h, w), device=batch.clips.device)
    _copy_planes(batch, images_BVTCHW.transpose(2, 3), _RGB)
    apply_changes(images_BVTCHW.div_(255).flatten(0, 2), batch.changes)
    for place, channel in enumerate(order):
        out[:, :, place] = images_BVTCHW[:, :, :, channel]
    return _scale(out, convention, 1.0)


def flow_clips(batch: Batch) -> Tensor:
    """Clips of flow, (B,V,2,T,H,W) float32: u and v in units of 20 pixels at a short side of 256 of the clip, so that
    1 is about the longest vector that the flow codecs keep by default; u of mirrored clips negated.

    Raises:
        UserError: the batch has colour changes.
        ValueError: the batch has no `flow_step`.
    """
    if batch.jitter is not None or batch.changes is not None:
        raise UserError("data.jitter changes colours, and clips of a flow column have none; set data.jitter=null")
    if batch.flow_step is None:
        raise ValueError("a batch of flow needs flow_step")
    b, v, t, h, w, _ = batch.clips.shape
    out = torch.empty((b, v, 2, t, h, w), device=batch.clips.device)
    _copy_planes(batch, out, (0, 1))
    unit_B2 = batch.flow_step * (256 / (20 * min(h, w)))
    sign_BV = 1 - 2 * batch.flip.float()
    factor_BV2 = torch.stack([sign_BV, torch.ones_like(sign_BV)], dim=2) * unit_B2[:, None]
    return out.sub_(batch.flow_zero).mul_(factor_BV2[..., None, None, None])


def apply_changes(images_NCHW: Tensor, changes: ColourChanges) -> None:
    """Change the colours of frames in place; contiguous float RGB in [0, 1]."""
    images_NCP = images_NCHW.view(*images_NCHW.shape[:2], -1)
    # A GPU takes a group at once; on a CPU pieces that stay in its caches save a quarter of the time.
    most = len(images_NCP) if images_NCP.is_cuda else max(1, _CACHE // images_NCP[0].nbytes)
    for kind, start, stop in changes.groups:
        for first in range(start, stop, most):
            piece = slice(first, min(first + most, stop))
            frame = changes.frame[piece]
            changed = _CHANGES[kind](images_NCP.index_select(0, frame), changes.factor[piece, None])
            images_NCP.index_copy_(0, frame, changed)


def _copy_planes(batch: Batch, out_BVCTHW: Tensor, order: tuple[int, ...]) -> None:
    """Write the channels of the flipped clips, as floats of 0..255, into `out` in the given order."""
    out_NCTHW, clips_NTHWC, flip_N = out_BVCTHW.flatten(0, 1), batch.clips.flatten(0, 1), batch.flip.flatten()
    pairs: Iterable[tuple[Tensor, Tensor]]
    if clips_NTHWC.is_cuda:
        pairs = [(out_NCTHW, mirrored(clips_NTHWC, flip_N))]
    else:
        # Clip by clip, which stays in the caches and mirrors only where asked: half the time.
        pairs = (
            (out_NCTHW[n : n + 1], clips_NTHWC[n : n + 1].flip(3) if flip else clips_NTHWC[n : n + 1])
            for n, flip in enumerate(flip_N.tolist())
        )
    for out, clips in pairs:
        for place, channel in enumerate(order):
            out[:, place] = clips[..., channel]


def mirrored(clips_NTHWC: Tensor, flip_N: Tensor) -> Tensor:
    """Clips mirrored left to right where `flip` says so, without asking the device where that is."""
    both = torch.cat((clips_NTHWC, clips_NTHWC.flip(3)))
    return both[torch.arange(len(flip_N), device=flip_N.device) + len(flip_N) * flip_N]


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
    """Turn the hue by `factor` of a full circle, as torchvision does through HSV.

    In sectors of 60 degrees, and with u the channels scaled to low = 0, top = 1, the hue is 1 − u_r + u_g + u_b where
    g >= b, and 6 minus that elsewhere; back, a hue's pure colour is clamp(|h − 3| − 1), clamp(2 − |h − 2|),
    clamp(2 − |h − 4|). These closed forms need no choice between cases, which is slow on a CPU (7 ns a number).
    """
    red, green, blue = image_nCP.unbind(1)
    top, low = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    span = top.sub_(low)
    # Grey pixels have span 0 and a dividend of exactly 0; whatever their hue, the result is `low`.
    away = ((green + blue).sub_(red).sub_(low) / span.clamp_min(1e-12)).neg_().add_(2)
    hue = away.copysign_(blue - green).add_(6 * factor + 3)
    hue -= (hue / 6).floor_().mul_(6)
    for channel, (centre, offset, sign) in enumerate(((3, -1, 1), (2, 2, -1), (4, 2, -1))):
        pure = (hue - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        image_nCP[:, channel] = pure.mul_(span).add_(low)
    return image_nCP


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
