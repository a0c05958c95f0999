# SPDX-License-Identifier: MIT
"""What nodes are written as: Caffe layers, still without their place in the network."""

from typing import NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike


class Layer(NamedTuple):
    """One Caffe layer without name, bottoms and tops.

    Attributes
    ----------
    type : str
        Caffe's name of the layer type.
    parameters : dict, optional
        Field of LayerParameter -> its contents, as the protobuf class takes them.
    blobs : tuple of array of float32
        Weights, in Caffe's order.
    """

    type: str
    parameters: Optional[dict] = None
    blobs: Tuple[np.ndarray, ...] = ()


def per_channel(value: ArrayLike, channels: int) -> np.ndarray:
    """(channels,) float32 from a number, or an array of one or of `channels` elements."""
    return np.broadcast_to(np.asarray(value, np.float32).reshape(-1), (channels,))


def scale(factor: np.ndarray, shift: Optional[np.ndarray] = None) -> Layer:
    """factor[c] * x + shift[c]; arrays (channels,)."""
    blobs = (factor,) if shift is None else (factor, shift)
    return Layer("Scale", {"scale_param": {"axis": 1, "bias_term": shift is not None}}, blobs)
