# SPDX-License-Identifier: MIT
"""Float convolutions that ncnn's x86 engine dies of, written so that it does not.

With packing off (as all exact and float comparisons run it), a square kernel with one dilation for both axes and stride
1 is computed plane by plane: every `dilation`-th row and column is a small image of its own. Where the output has fewer
rows or columns than the dilation, some of these images are empty, and the engine ends with a segmentation fault: rates
12 and 18 of DeepLab's pyramid (Chen et al., arXiv:1706.05587) on a map of 8x8 do it. Other kernels, other strides and
int8 layers are computed otherwise. Measured, wheel 1.0.20261020, on 600 random convolutions.
"""

from typing import Sequence, Tuple

import numpy as np

from deploy.ir import Convolution


def crashes(node: Convolution, size: Sequence[int]) -> bool:
    """Whether the engine dies of a convolution in float with an output of (height, width) `size`."""
    height, width = node.weight.shape[2:]
    return (height == width and node.dilation[0] == node.dilation[1] > 1 and tuple(node.stride) == (1, 1)
            and min(size) < node.dilation[0])


def safe(node: Convolution) -> Tuple[np.ndarray, Tuple[int, int], Tuple[int, int, int, int]]:
    """Weight, dilation and pads of the same convolution for another kernel of the engine.

    A kernel of one element needs no dilation; any other gets a row of zeros below, and padding for it to lie in.
    """
    if node.weight.shape[2:] == (1, 1):
        return node.weight, (1, 1), node.pads
    top, left, bottom, right = node.pads
    weight = np.pad(node.weight, ((0, 0), (0, 0), (0, 1), (0, 0)))
    return weight, node.dilation, (top, left, bottom + node.dilation[0], right)
