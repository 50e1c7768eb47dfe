"""The JPEG codec of every column: one library writes and reads all frames.

simplejpeg (libjpeg-turbo) against OpenCV's: images a second on one core of a two-core virtual machine, quality 90,
4:2:0, 24 frames of real clips, the best of 60 interleaved calls for each, simplejpeg 1.9.0, OpenCV 5.0.0:

    size (height x width)              128x171   256x340
    mean bytes a frame                    6132     15709
    encode  simplejpeg                    5341      1699
    encode  cv2, with RGB to BGR          4770      1654
    decode  simplejpeg                    5170      1747
    decode  simplejpeg into `out`         5346      1754    <- `decode(data, out=…)`
    decode  cv2 to BGR                    4237      1454
    decode  cv2 to RGB                    5135      1709
    decode  simplejpeg, fastdct           5822      1837
    decode  simplejpeg, fastupsample      6260      1936
    decode  simplejpeg, both              6608      2002

Training reads a frame many times and packing writes it once, so decoding decides: simplejpeg, straight into the given
array, which also saves the page faults of a new one. Both libraries decode to the same pixels (all 48 images equal).
The fast options bring 5 to 24 % and are not used: fastdct changes pixels by 0.9 in the mean and up to 8, fastupsample
by 0.5 to 0.9 in the mean and by up to 176 at colour edges, both together by 1.2 to 1.5, where the loss of JPEG itself
is 1.4 (256x340) and 2.1 (128x171) in the mean; and derived columns would depend on who decoded.
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
