"""The flow column: from stored RGB frames to stored flow fields."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset
from shards.errors import UserError
from shards.flow import CODECS, QUALITY, Byte, Codec, codec_of
from vidprep.deriving.work import BadSample, Made
from vidprep.flow.backends import BACKENDS, choose_backend
from vidprep.flow.methods import METHODS
from vidprep.flow.params import TVL1Params

_PAIRS = 32  # at once: bounds memory; no pair's result depends on it
_GPU_PAIRS = 256  # keep a GPU busy
_CLIPPED = 0.01  # share of clipped components above which a sample gets a warning


@dataclass(frozen=True, kw_only=True)
class FlowMaker:
    """How a flow column is made.

    Attributes:
        method: key of `vidprep.flow.METHODS`.
        options: of the method; for tvl1 `backend` and fields of `TVL1Params`, for raft `weights`.
        codec: key of `shards.flow.CODECS`.
        bound: for codec byte, longest component in pixels at a short side of 256; in proportion at other sizes.
        source: the RGB column.
    """

    method: str = "tvl1"
    options: Mapping[str, Any] = field(default_factory=dict)
    codec: str = "byte"
    bound: float = 20.0
    source: str = "rgb"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "numba", "llvmlite", "opencv-contrib-python-headless", "simplejpeg")

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"unknown flow method {self.method!r}: known are {', '.join(METHODS)}")
        if self.codec not in CODECS:
            raise UserError(f"unknown flow codec {self.codec!r}: known are {', '.join(CODECS)}")
        Byte(self.bound)
        if self.method == "tvl1":
            options = {"backend": "auto", **self.options}
            if options["backend"] == "auto":
                options["backend"] = choose_backend()[0]
            if options["backend"] not in BACKENDS:
                raise UserError(f"unknown TV-L1 backend {options['backend']!r}: known are auto, {', '.join(BACKENDS)}")
            object.__setattr__(self, "options", options)

    def probe(self) -> None:
        """Compute the flow of one small pair: wrong options and a backend that does not run here show at once, and
        code that has to be compiled is compiled once and not in every worker. Raises UserError."""
        pair = np.zeros((2, 128, 128), np.uint8)
        pair[:, 40:60, 40:60] = 255
        METHODS[self.method](pair, **self.options)

    @property
    def kind(self) -> str:
        return CODECS[self.codec].kind

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def parameters(self) -> dict[str, Any]:
        options = dict(self.options)
        if self.method == "tvl1":
            backend = options.pop("backend")
            options = {"backend": backend, **vars(TVL1Params(**options))}
        if "weights" in options:  # what they are, not where
            options["weights"] = hashlib.sha256(Path(options["weights"]).read_bytes()).hexdigest()[:16]
        codec: dict[str, Any] = {"codec": self.codec}
        if self.codec == Byte.name:
            codec["bound"] = self.bound
        if CODECS[self.codec].kind == "flow":
            codec["quality"] = QUALITY
        return {"method": self.method, **options, **codec}

    def encode(self, grey: npt.NDArray[np.uint8], codec: Codec) -> tuple[list[bytes], float]:
        """Planes u0, v0, u1, v1, … of the flow between (T,H,W) frames, and the share of clipped components.

        Raises:
            UserError: the method cannot do it with such frames, or gave values that are not finite.
        """
        fields, clipped = codec.quantise(METHODS[self.method](grey, **self.options))
        return [codec.encode(plane) for pair in fields for plane in pair], clipped

    def make(self, dataset: Dataset, i: int, told: Callable[[int], None]) -> Made:
        record = dataset.record(i, self.source)
        frames, height, width = (int(record[name]) for name in ("frames", "height", "width"))
        if frames < 2:
            raise BadSample("no-pair", f"it has {frames} frame; flow needs two")
        codec = codec_of(self.parameters(), height, width)
        planes: list[bytes] = []
        clipped = 0.0
        together = _GPU_PAIRS if self.options.get("backend") == "triton" else _PAIRS
        for start in range(0, frames - 1, together):
            stop = min(start + together, frames - 1)
            grey = dataset.grey(i, range(start, stop + 1), column=self.source)
            try:
                encoded, share = self.encode(grey, codec)
            except UserError as error:
                raise BadSample("no-flow", f"from frame {start} on: {error}") from error
            clipped += share * (stop - start)
            planes += encoded
            told(stop)
        share = clipped / (frames - 1)
        warning = (
            ("flow-clipped", f"{share:.1%} of its flow lies beyond {codec.bound:.3g} px; give a larger --bound"),
        )
        return Made(
            payload=planes,
            info={
                "fields": frames - 1,
                "height": height,
                "width": width,
                "codec": codec.name,
                "zero": codec.zero,
                "step": codec.step,
                "clipped": round(share, 6),
            },
            times_us=np.repeat(dataset.times_us(i, self.source)[:-1], 2),
            warnings=warning if share > _CLIPPED else (),
        )
