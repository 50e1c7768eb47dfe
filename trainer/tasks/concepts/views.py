"""Six views of a video: two adjacent clips, a repeated frame of each, and the differences of each.

Reference/concepts.md sections 3 and 4. The loader brings the frames of both clips once, uncut. What a view shows of
them is planned on the host from numbers that came with the clip plan, and made on the device: a pure function of batch
and plan. A repeated frame is cut, coloured and scaled once, and repeated then.

Letters: B videos, T frames of one clip, S the four image sequences (clip 1, clip 2, frame 1, frame 2), H and W of the
stored frames, h and w of the views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.colours import Jitter, JitterPlan, draw_colours
from shards.errors import UserError
from trainer.augment import apply_changes
from trainer.data.batch import ColourChanges
from trainer.models.base import InputConvention

Numbers = npt.NDArray[np.float64]

SEQUENCES = 4
_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)
_FRAME, _COLOURS = 1, 7
_PER_SEQUENCE = 3 * _TRIES + 2 + 1 + 2 + _COLOURS
DRAWS = _FRAME + SEQUENCES * _PER_SEQUENCE
"""Numbers in [0, 1) that a video's views are planned from."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How the four image sequences are changed; each has its own draws.

    Args:
        crop: (height, width) of a view.
        area: (least, most) share of the frame that is cut and resized to `crop`, or None: `crop` itself is cut. Width
            over height is uniform in 3/4..4/3 and turned round with probability 0.5; after ten tries that do not fit,
            the largest cut of the crop's proportions at the centre.
        flip: probability of mirroring.
        grey: probability that one colour channel, any, takes the place of all three.
        jitter: colour jitter, the same for all frames of a sequence, or None.
    """

    crop: tuple[int, int]
    area: tuple[float, float] | None
    flip: float
    grey: float
    jitter: Jitter | None


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What the views of B videos show, on the host.

    Attributes:
        frame: (B,) int64, place in a clip of the frame that is repeated.
        box: (B,S,4) int64: top, left, height, width.
        flip: (B,S) bool.
        channel: (B,S) int64, the colour channel that stands for all, or −1.
        jitter: colour changes (B,S,1,…), or None.
    """

    frame: npt.NDArray[np.int64]
    box: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    channel: npt.NDArray[np.int64]
    jitter: JitterPlan | None


def plan_views(draws_BN: Numbers, *, frames: int, size: tuple[int, int], options: ViewOptions) -> ViewPlan:
    """Plan views from `DRAWS` numbers a video.

    Args:
        frames: T.
        size: (height, width) of the loaded frames.

    Raises:
        UserError: without `area`, a crop that does not fit.
    """
    u = draws_BN[:, _FRAME:].reshape(-1, SEQUENCES, _PER_SEQUENCE)
    tries, (place, flip, grey, colours) = u[..., : 3 * _TRIES], np.split(u[..., 3 * _TRIES :], [2, 3, 5], axis=2)
    box = np.empty((*u.shape[:2], 4), np.int64)
    box[..., 2:], centred = _sizes(tries.reshape(*u.shape[:2], _TRIES, 3), size, options)
    room = np.array(size) - box[..., 2:]
    box[..., :2] = np.where(centred[..., None], room // 2, (place * (room + 1)).astype(np.int64))
    return ViewPlan(
        frame=(draws_BN[:, 0] * frames).astype(np.int64),
        box=box,
        flip=flip[..., 0] < options.flip,
        channel=np.where(grey[..., 0] < options.grey, (grey[..., 1] * 3).astype(np.int64), -1),
        jitter=None if options.jitter is None else _jitter(options.jitter, colours),
    )


def make_views(
    clips_BTHWC: Tensor, plan: ViewPlan, *, convention: InputConvention, crop: tuple[int, int], wrap: bool
) -> Tensor:
    """(B,6,3,T,h,w) float32 in the backbone's convention: clip 1, clip 2, frame 1, frame 2, differences 1 and 2.

    Args:
        clips_BTHWC: (B,2T,H,W,3) uint8, both clips one after the other.
        wrap: the first difference of a clip is that to its last frame, as in the reference; else the second once more.
    """
    b, double, *_ = clips_BTHWC.shape
    frames, device = double // 2, clips_BTHWC.device
    out = torch.empty((b, 6, 3, frames, *crop), device=device)
    frozen = torch.from_numpy(plan.frame).to(device, non_blocking=True)
    rows = torch.arange(b, device=device)
    for s in range(SEQUENCES):
        clip = clips_BTHWC[:, s % 2 * frames : (s % 2 + 1) * frames]
        shown = clip if s < 2 else clip[rows, frozen][:, None]
        images_BTCHW = cut(shown, plan.box[:, s], plan.flip[:, s], crop)
        _copy_channel(images_BTCHW, plan.channel[:, s])
        if plan.jitter is not None:
            apply_changes(images_BTCHW.flatten(0, 1), _changes(plan.jitter, s, images_BTCHW.shape[1], device))
        for place in range(3):
            source = place if convention.channels == "rgb" else 2 - place
            slope, shift = convention.scale / convention.std[place], -convention.mean[place] / convention.std[place]
            out[:, s, place] = images_BTCHW[:, :, source] * slope + shift
    for s in range(2):
        out[:, SEQUENCES + s] = differences(out[:, s], wrap=wrap)
    return out


def differences(clip_BCTHW: Tensor, *, wrap: bool) -> Tensor:
    """Each frame minus the one before it. For the first frame see `make_views`; a single frame has difference 0."""
    away = clip_BCTHW - clip_BCTHW.roll(1, 2)
    if not wrap and clip_BCTHW.shape[2] > 1:
        away[:, :, 0] = away[:, :, 1]
    return away


def cut(
    clips_BTHWC: Tensor,
    box_B4: npt.NDArray[np.int64],
    flip_B: npt.NDArray[np.bool_],
    size: tuple[int, int],
) -> Tensor:
    """Cut, resize and mirror: (B,T,C,h,w) float32 in [0, 1].

    Linear interpolation whose support grows with the reduction, as Pillow's BILINEAR. It is separable, so that each
    video's own cut is two products of matrices, which are mirrored instead of the clip.
    """
    device = clips_BTHWC.device
    rows = _weights(box_B4[:, 0], box_B4[:, 2], clips_BTHWC.shape[2], size[0])
    columns = _weights(box_B4[:, 1], box_B4[:, 3], clips_BTHWC.shape[3], size[1])
    columns[flip_B] = columns[flip_B, ::-1]
    rows_BhH, columns_BwW = (
        torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32)).to(device, non_blocking=True)
        for weights in (rows, columns / 255)
    )
    with torch.autocast(device.type, enabled=False):
        images_BTCHW = clips_BTHWC.permute(0, 1, 4, 2, 3).float()
        return rows_BhH[:, None, None] @ (images_BTCHW @ columns_BwW.transpose(1, 2)[:, None, None])


def _weights(start_B: npt.NDArray[np.int64], length_B: npt.NDArray[np.int64], size: int, out: int) -> Numbers:
    """(B,out,size): how much of each pixel of a line goes into each pixel of the resized cut."""
    start, length = start_B[:, None, None].astype(np.float64), length_B[:, None, None].astype(np.float64)
    pixel, made = np.arange(size) + 0.5, np.arange(out)[:, None] + 0.5
    centre, reach = start + made * (length / out), np.maximum(1, length / out)
    weights = np.maximum(0, 1 - np.abs(pixel - centre) / reach)
    weights *= (pixel > start) & (pixel < start + length)
    return np.asarray(weights / weights.sum(2, keepdims=True))


def _sizes(
    tries: Numbers, size: tuple[int, int], options: ViewOptions
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(B,S,2) height and width of the cuts, and whether they are centred because no try fits."""
    height, width = size
    h, w = options.crop
    if options.area is None:
        if h > height or w > width:
            raise UserError(
                f"a crop of {h}x{w} does not fit into frames of {height}x{width} (height x width); set data.resize to "
                f"at least {h}x{w}, or cut a share of the frame, which is resized: data.area=[0.5, 1.0]"
            )
        return np.broadcast_to(np.array([h, w]), (*tries.shape[:2], 2)), np.zeros(tries.shape[:2], np.bool_)
    low, high = options.area
    pixels = height * width * (low + (high - low) * tries[..., 0])
    ratio = _ASPECT[0] + (_ASPECT[1] - _ASPECT[0]) * tries[..., 1]
    turned = tries[..., 2] < 0.5
    long, short = np.round(np.sqrt(pixels * ratio)), np.round(np.sqrt(pixels / ratio))
    tried = np.stack([np.where(turned, long, short), np.where(turned, short, long)], axis=-1).astype(np.int64)
    tried = np.maximum(tried, 1)
    fits = np.asarray((tried <= np.array(size)).all(axis=-1), np.bool_)
    found = np.take_along_axis(tried, fits.argmax(-1)[..., None, None], axis=2)[..., 0, :]
    scale = min(height / h, width / w)
    largest = np.array([max(1, int(h * scale)), max(1, int(w * scale))])
    centred = np.asarray(~fits.any(axis=-1), np.bool_)
    return np.where(centred[..., None], largest, found), centred


def _jitter(jitter: Jitter, u_BSN: Numbers) -> JitterPlan:
    """One set of changes for each sequence."""
    videos = len(u_BSN)
    plan = draw_colours(jitter, 1, lambda shape: u_BSN.reshape(-1, 1, _COLOURS)[..., : shape[-1]])
    shape = (videos, SEQUENCES, 1)
    return JitterPlan(
        apply=plan.apply.reshape(shape),
        factors=plan.factors.reshape(*shape, 4),
        order=plan.order.reshape(*shape, 4),
    )


def _copy_channel(images_BTCHW: Tensor, channel_B: npt.NDArray[np.int64]) -> None:
    """Put one channel in place of all three, in place, where there is one to put."""
    chosen = np.flatnonzero(channel_B >= 0)
    if not len(chosen):
        return
    device = images_BTCHW.device
    rows, channels = (torch.from_numpy(part).to(device, non_blocking=True) for part in (chosen, channel_B[chosen]))
    images_BTCHW[rows] = images_BTCHW[rows, :, channels][:, :, None].expand(-1, -1, 3, -1, -1)


def _changes(jitter: JitterPlan, sequence: int, frames: int, device: torch.device) -> ColourChanges:
    """The changes of one sequence, the same for each of its frames."""
    one = slice(sequence, sequence + 1)
    plan = JitterPlan(
        apply=np.repeat(jitter.apply[:, one], frames, axis=2),
        factors=np.repeat(jitter.factors[:, one], frames, axis=2),
        order=np.repeat(jitter.order[:, one], frames, axis=2),
    )
    changes = ColourChanges.of(plan)
    frame, factor = (part.to(device, non_blocking=True) for part in (changes.frame, changes.factor))
    return replace(changes, frame=frame, factor=factor)
