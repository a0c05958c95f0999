# SPDX-License-Identifier: MIT
"""What the bytes of an image become, where the model's metadata state its preprocessing."""

import json
from typing import Optional

import numpy as np

from deploy.ir import Grid, Model


def prepared_bytes(model: Model) -> Optional[np.ndarray]:
    """(channels, 256) float32: the real value of every byte of each channel; None where nothing is stated."""
    stated = model.metadata.get("preprocessing")
    if stated is None:
        return None
    steps = json.loads(stated)
    mean, std = (np.asarray(steps[key], np.float32).reshape(-1, 1) for key in ("mean", "std"))
    return np.asarray((np.arange(256, dtype=np.float32) * np.float32(steps["scale"]) - mean) / std, np.float32)


def image_bound(model: Model) -> float:
    """The largest magnitude of an image's values; 1 where no preprocessing is stated."""
    values = prepared_bytes(model)
    return 1.0 if values is None else max(float(np.abs(values).max()), 1e-6)


def image_grid(model: Model) -> Optional[Grid]:
    """The grid whose codes are the image's bytes; None where its values lie on none, or are not known."""
    values = prepared_bytes(model)
    if values is None or (values != values[0]).any() or values[0, 1] <= values[0, 0]:
        return None
    step = float(np.float32(np.float64(values[0, 255] - values[0, 0]) / 255))
    zero = -float(values[0, 0]) / step
    if step <= 0 or not 0 <= round(zero) <= 255 or abs(zero - round(zero)) > 1e-4:
        return None
    return Grid(step, round(zero), 0, 255)
