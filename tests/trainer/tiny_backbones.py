"""Small versions of every backbone, for tests."""

import torch

from trainer.models import build_backbone

# One of each family and variant: other depths are the same code.
VARIANTS = {
    "c3d-bn": {},
    "r3d-vcop": {},
    "r21d-vcop": {},
    "s3dg-pace": {},
    "s3d-pace": {"stem": "space-to-depth"},
    "s3dg-rsp": {},
    "s3dg-coclr": {},
    "s3d-coclr": {},
    "r21d-tv": {},
    "r3d-tv-18": {},
    "mc3-18": {},
    "resnet3d-hara-10": {},
    "resnet3d-hara-50": {"pool_time_stride": 1, "stem_time": 3},
    "cpd-r10": {},
    "cpd-r50": {"shortcut": "B"},
    "r2d3d50": {},
    "c3d": {},
    "c3d-mas": {},
    "slow-r50": {},
    "i3d-r50": {},
    "c2d-r50": {},
    "slowfast-r50-4x16": {},
    "slowfast-r50-8x8": {},
    "slowfast-nln-r50-4x16": {},
    "tsm-r18": {},
    "tsm-r50": {},
    "mfnet": {},
}


def tiny(name, base_width=4, **options):
    """A backbone as thin as it may be."""
    base_width = 16 if "slowfast" in name else 6 * base_width if name == "mfnet" else base_width
    return build_backbone(name, base_width=base_width, **VARIANTS[name], **options)


def clip_for(backbone, *, batch=1, channels=3, size=(8, 32, 32)):
    """Random clips that are large enough for it."""
    return torch.randn(batch, channels, *(max(pair) for pair in zip(size, backbone.minimum, strict=True)))
