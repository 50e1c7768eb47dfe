"""The JPEG codec of every column: one library writes and reads all frames.

simplejpeg (libjpeg-turbo) against OpenCV's: images a second on one core of a two-core virtual machine, quality 90,
4:2:0, 24 frames of real clips, best of 7 runs, simplejpeg 1.9.0, OpenCV 5.0.0:

    size (height x width)              128x171   256x340
    mean bytes a frame                    6132     15709
    encode  simplejpeg                    5546      1781
    encode  cv2, with RGB to BGR          5795      2468
    decode  simplejpeg                    4076      1310
    decode  simplejpeg into `out`         5063      1698    <- `decode(data, out=…)`
    decode  cv2 to BGR                    3835      1264
    decode  cv2 to RGB                    4089      1319
    decode  simplejpeg, fastdct           4987      1722
    decode  simplejpeg, fastupsample      5656      1822

Training reads a frame many times and packing writes it once, so decoding decides: simplejpeg, straight into the
given array. Both libraries decode to the same pixels (all 48 images equal). The fast options are not used: fastdct
brings nothing here and changes pixels by 0.95 in the mean; fastupsample brings 7 to 12 % and changes them by 0.86
(128x171) and 0.47 (256x340) in the mean and by up to 176 at colour edges, where the loss of JPEG itself is 2.1
and 1.4 in the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

Image = npt.NDArray[np.uint8]


def encode(image: Image, *, quality: int = 90) -> bytes:
    """A JFIF image: baseline Huffman coding, 4:2:0 for colour.

    Args:
        image: (H,W,3) RGB or (H,W) grey, uint8.
        quality: 1 to 100, libjpeg's scale.

    The same image, quality and package versions give the same bytes.
    """
    image = np.ascontiguousarray(image)
    if image.ndim == 2:
        return bytes(
            simplejpeg.encode_jpeg(image[:, :, None], quality=quality, colorspace="GRAY", colorsubsampling="Gray")
        )
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420"))


def decode(data: Any, *, out: Image | None = None) -> Image:
    """Decode one JPEG exactly (accurate DCT, smooth upsampling). Releases the GIL.

    Args:
        data: bytes, memoryview or uint8 array.
        out: C-contiguous array that receives the pixels: (H,W,3) for RGB or (H,W) for grey.

    Returns:
        `out`, or a new array: (H,W,3) RGB, (H,W) where the JPEG itself is grey.

    Raises:
        ValueError: the bytes are not a whole JPEG, or `out` has another size.
    """
    if out is None:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        out = np.empty((height, width) if space == "Gray" else (height, width, 3), np.uint8)
    image = simplejpeg.decode_jpeg(data, "RGB" if out.ndim == 3 else "GRAY", buffer=out)
    if image.shape[:2] != out.shape[:2]:
        raise ValueError(f"the image is {image.shape[0]}x{image.shape[1]}, not {out.shape[0]}x{out.shape[1]}")
    return out
