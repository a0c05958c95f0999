# SPDX-License-Identifier: MIT
"""Pictures of the images whose class changes when the network is quantized."""

import base64
import io
import logging
from typing import Any, Dict, List, Mapping

import numpy as np
from PIL import Image

from gluon_quantize.data.image_set import ImageSet
from quantize.errors import QuantizeError

LOG = logging.getLogger(__name__)
SIDE = 96
DIM = 64  # images without a value as large are shown brighter


def with_pictures(images: ImageSet, changed: List[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """The images of `runs.answers.answers_contents`, with their origin and a picture; without labels none is said."""
    found = []
    for image in changed:
        index = int(image["index"])
        if not 0 <= index < len(images):
            continue  # the data set is another one now
        try:
            loaded = images.load(index)
            picture = "" if isinstance(loaded, tuple) else _picture(loaded)  # of several inputs
        except (QuantizeError, ValueError, TypeError) as error:  # images of a function need not be pictures
            LOG.warning("no picture of image %d: %s", index, error)
            picture = ""
        found.append(dict(image, origin=images.origin(index), picture=picture,
                          label=image["label"] if images.labelled else None))
    return found


def _bright(pixels: np.ndarray) -> np.ndarray:
    """Pixels that can be seen: some data sets, such as the digits, use the lowest numbers of a byte alone."""
    largest = int(pixels.max(initial=0))
    return pixels if largest >= DIM or not largest else pixels * np.uint8(255 // largest)


def _picture(image: Any) -> str:
    """A small PNG as a data address."""
    picture = image.copy() if isinstance(image, Image.Image) else Image.fromarray(_bright(np.asarray(image, np.uint8)))
    picture.thumbnail((SIDE, SIDE))
    if max(picture.size) < SIDE // 2:
        scale = SIDE // max(picture.size)
        size = picture.width * scale, picture.height * scale
        picture = picture.resize(size, Image.NEAREST)  # type: ignore[attr-defined]  # Pillow puts it there by name
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
