"""TSM: a 2-D ResNet over frames whose blocks look at their neighbours in time (reference/models.md section 10).

RSPNet's own entry cannot be imported, and would mix up channels and time; this is the network that it means.
"""

from __future__ import annotations

from trainer.models.base import IMAGENET, Convention
from trainer.models.blocks import Layout, ResNet


def tsm(depth: int, *, base_width: int = 64, convention: Convention = IMAGENET, in_channels: int = 3) -> ResNet:
    """Temporal shift ("blockres", an eighth of the channels each way) in every block; shifting has no parameters.

    Maps of a 3,8,224,224 clip at depth 50: stem 64,8,112,112; layer1 256,8,56,56; layer2 512,8,28,28;
    layer3 1024,8,14,14; layer4 2048,8,7,7. The pooled vector is the mean of the frames'.

    Args:
        depth: 18 or 50.
        base_width, convention, in_channels: as in `ResNet`.
    """
    layout = Layout(depth=depth, stem=(1, 7, 7), first=((1,),) * 4, shift=True)
    return ResNet(layout, base_width=base_width, convention=convention, in_channels=in_channels)
