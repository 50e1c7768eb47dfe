"""Optical flow: TV-L1 on CPU and GPU, other methods in the same call style, and the codec of the flow column."""

from vidprep.flow.backends import BACKENDS, choose_backend, tvl1
from vidprep.flow.methods import METHODS, dis, farneback, raft
from vidprep.flow.params import TVL1Params

__all__ = ["BACKENDS", "METHODS", "TVL1Params", "choose_backend", "dis", "farneback", "raft", "tvl1"]
