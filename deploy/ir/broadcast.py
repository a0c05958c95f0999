# SPDX-License-Identifier: MIT
"""How shapes fit together, as in NumPy: from the right, axes of length 1 stretched; the batch axis is none of them.

Shapes are those of blobs, without the batch axis, in every node, engine and file. What comes from a framework has one:
a tensor of it joins the blobs only after `constant_shape` has said which axes it stands for.
"""

from typing import Tuple

import numpy as np

from quantize.errors import DeployError


def aligned(shape: Tuple[int, ...], rank: int) -> Tuple[int, ...]:
    """The shape with `rank` axes: axes of length 1 in front."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def broadcast(*shapes: Tuple[int, ...]) -> Tuple[int, ...]:
    """What blobs of these shapes become together; DeployError where they do not fit."""
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        raise DeployError(f"blobs of the shapes {shapes} do not fit together") from None


def constant_shape(shape: Tuple[int, ...], rank: int) -> Tuple[int, ...]:
    """Which axes of blobs with `rank` axes a framework's constant stands for: its shape as a blob's.

    A constant with `rank` axes or fewer has no batch axis: (C, 1, 1) and (H, W) mean the last axes of (N, C, H, W). One
    with `rank` + 1 has, and only one image in it.

    Raises
    ------
    DeployError
        For a constant that holds several images, or has more axes than the batch of blobs.
    """
    if len(shape) > rank + 1:
        raise DeployError(f"a constant of shape {tuple(shape)} has more axes than the tensor it meets, whose batch "
                          "axis would no longer be the first")
    if len(shape) == rank + 1:
        if shape[0] != 1:
            raise DeployError(f"a constant of shape {tuple(shape)} holds something else for each image of a batch")
        shape = shape[1:]
    return aligned(tuple(shape), rank)
