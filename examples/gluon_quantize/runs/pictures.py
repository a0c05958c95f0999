# SPDX-License-Identifier: MIT
"""Images whose class changes when the network is quantized, and how classes are confused."""

import base64
import io
from typing import Any, Dict, List, Optional

import numpy as np
from PIL import Image

from gluon_quantize.data.image_set import ImageSet

SHOWN = 12
SIDE = 96
CLASSES = 40  # rows of a confusion matrix that a page can show


def changed_images(images: ImageSet, float_scores: np.ndarray, scores: np.ndarray,
                   labels: Optional[np.ndarray]) -> List[Dict[str, Any]]:
    """The first images with another class than in float, those first that the quantized network is surest of.

    Parameters
    ----------
    float_scores, scores : array, (images, ...)
        There may be fewer quantized ones than float ones.
    """
    before, after = _probabilities(float_scores[:len(scores)]), _probabilities(scores)
    changed = [index for index in range(len(scores)) if before[index].argmax() != after[index].argmax()]
    changed.sort(key=lambda index: -after[index].max())
    return [{"index": index, "origin": images.origin(index), "picture": _picture(images.load(index)),
             "label": None if labels is None else int(labels[index]),
             "float": _best(before[index]), "quantized": _best(after[index])} for index in changed[:SHOWN]]


def confusion(float_scores: np.ndarray, scores: np.ndarray, by: str) -> Optional[Dict[str, Any]]:
    """Float class against quantized class, as computed `by` something; only classes that occur."""
    count = len(scores)
    if not count:
        return None
    before = float_scores[:count].reshape(count, -1).argmax(axis=1)
    after = scores.reshape(count, -1).argmax(axis=1)
    classes = sorted(set(before.tolist()) | set(after.tolist()))[:CLASSES]
    cells = [{"float": int(row), "quantized": int(column), "images": int(((before == row) & (after == column)).sum())}
             for row in classes for column in classes]
    return {"classes": classes, "cells": [cell for cell in cells if cell["images"]],
            "agreement": int((before == after).sum()), "images": count, "by": by}


def _probabilities(scores: np.ndarray) -> np.ndarray:
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    # scores that are probabilities already stay what they are
    if len(flat) and flat.min() >= 0 and np.allclose(flat.sum(axis=1), 1, atol=1e-3):
        return flat
    powers = np.exp(flat - flat.max(axis=1, keepdims=True)) if len(flat) else flat
    return powers / powers.sum(axis=1, keepdims=True) if len(flat) else flat


def _best(shares: np.ndarray) -> List[Dict[str, float]]:
    order = np.argsort(-shares)[:3]
    return [{"class": int(index), "share": float(shares[index])} for index in order]


def _picture(image: Any) -> str:
    """A small PNG as a data address."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    if max(picture.size) < SIDE // 2:
        scale = SIDE // max(picture.size)
        size = picture.width * scale, picture.height * scale
        picture = picture.resize(size, Image.NEAREST)  # type: ignore[attr-defined]  # Pillow puts it there by name
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
