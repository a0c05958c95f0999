# SPDX-License-Identifier: MIT
"""Images of more than 8 bits a channel as bytes: scaled, where Pillow's own conversion cuts off what is above 255."""

import numpy as np
from PIL import Image

from quantize.errors import DataError

SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
# formats whose integers Pillow hands out in 32 bits and that hold 16 of them
IN_32_BITS = ("PNG", "PPM", "JPEG2000")
ADVICE = "write it with 8 or 16 bits, or as real numbers from 0 to 1"


def in_bytes(image: Image.Image, origin: str) -> Image.Image:
    """The image with 8 bits a channel; one that has them already is returned as it is.

    16 bits: the high byte, as OpenCV and ncnn2table have it. Real numbers: 0 to 1 become 0 to 255; numbers that reach
    beyond 1, up to 255, are bytes already and are rounded.

    Raises
    ------
    DataError
        Numbers of another range, NaN, or integers of 32 bits, whose range nothing says.
    """
    if image.mode in SIXTEEN or image.mode == "I" and image.format in IN_32_BITS:
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_bytes(np.asarray(image), origin))
    if image.mode == "I":
        raise DataError(f"{origin}: holds integers of 32 bits, whose range is not known; {ADVICE}")
    return image


def _bytes(values, origin):
    """uint8 of real numbers."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):
        raise DataError(f"{origin}: holds real numbers from {low:g} to {high:g}; {ADVICE}")
    return np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
