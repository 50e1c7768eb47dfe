"""The 27 statistics labels: 14 numbers that describe a clip's motion and 13 that describe its appearance.

Source: Wang et al., "Self-supervised Video Representation Learning by Uncovering Spatio-temporal Statistics"
(T-PAMI 44(7), arXiv 2008.13426) and its reference code, `sts/compute_{motion,appearance}_statistics.py`.
"""

from vidprep.statistics.appearance import appearance_labels
from vidprep.statistics.motion import motion_labels
from vidprep.statistics.regions import APPEARANCE_NAMES, MOTION_NAMES, Variant

__all__ = ["APPEARANCE_NAMES", "MOTION_NAMES", "Variant", "appearance_labels", "motion_labels"]
