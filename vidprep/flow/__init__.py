"""Optical flow: TV-L1 on CPU and GPU, other methods in the same call style, and the codec of the flow column."""

from shards.flow import CODECS, Codec, default_bound, make_codec, resize_flow
from vidprep.flow.backends import BACKENDS, choose_backend, tvl1
from vidprep.flow.methods import METHODS, dis, farneback, raft
from vidprep.flow.params import TVL1Params

__all__ = [
    "BACKENDS",
    "CODECS",
    "METHODS",
    "Codec",
    "TVL1Params",
    "choose_backend",
    "default_bound",
    "dis",
    "farneback",
    "make_codec",
    "raft",
    "resize_flow",
    "tvl1",
]
