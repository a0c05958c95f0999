# SPDX-License-Identifier: MIT
"""The operations. Fields have defaults only because a dataclass wants them after inherited ones."""

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from deploy.ir.base import Function, Node, Quantization


@dataclass(frozen=True, eq=False)
class Convolution(Node):
    """2-D convolution; weight (outputs, inputs / groups, kh, kw), bias (outputs,) float32 or None.

    `pads` is (top, left, bottom, right), filled with `pad_value`, a real number, before quantization. `activation` is
    applied to the result.
    """

    weight: np.ndarray = None
    bias: Optional[np.ndarray] = None
    stride: Tuple[int, int] = (1, 1)
    dilation: Tuple[int, int] = (1, 1)
    pads: Tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: float = 0.0
    groups: int = 1
    quantization: Optional[Quantization] = None
    activation: Optional[Function] = None

    @property
    def depthwise(self) -> bool:
        """One input and one output channel for each group."""
        return self.groups > 1 and self.weight.shape[1] == 1 and self.weight.shape[0] == self.groups


@dataclass(frozen=True, eq=False)
class Deconvolution(Node):
    """Transposed 2-D convolution; weight (inputs, outputs / groups, kh, kw). Never quantized."""

    weight: np.ndarray = None
    bias: Optional[np.ndarray] = None
    stride: Tuple[int, int] = (1, 1)
    dilation: Tuple[int, int] = (1, 1)
    pads: Tuple[int, int, int, int] = (0, 0, 0, 0)
    output_pads: Tuple[int, int] = (0, 0)
    groups: int = 1
    activation: Optional[Function] = None


@dataclass(frozen=True, eq=False)
class InnerProduct(Node):
    """Fully connected layer on its flattened input; weight (outputs, inputs), bias (outputs,) or None."""

    weight: np.ndarray = None
    bias: Optional[np.ndarray] = None
    quantization: Optional[Quantization] = None
    activation: Optional[Function] = None


@dataclass(frozen=True, eq=False)
class Pooling(Node):
    """`kind` max or avg. `ceil` rounds the output size up. `count_padding`: averages divide by the whole window.

    `global_` pools the whole plane: (c, h, w) becomes (c, 1, 1).
    """

    kind: str = "max"
    kernel: Tuple[int, int] = (1, 1)
    stride: Tuple[int, int] = (1, 1)
    pads: Tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False
    count_padding: bool = False
    global_: bool = False


@dataclass(frozen=True, eq=False)
class Activation(Node):
    """An activation function on its own."""

    function: Function = None


@dataclass(frozen=True, eq=False)
class PReLU(Node):
    """x where x > 0, slope[c] * x elsewhere; slope (channels,) or (1,)."""

    slope: np.ndarray = None


@dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta per channel; what no convolution could absorb."""

    gamma: np.ndarray = None
    beta: np.ndarray = None
    mean: np.ndarray = None
    variance: np.ndarray = None
    epsilon: float = 1e-5


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """scale[c] * x + shift[c] per channel; `shift` may be None."""

    scale: np.ndarray = None
    shift: Optional[np.ndarray] = None


@dataclass(frozen=True, eq=False)
class Elementwise(Node):
    """`op` add, sub, mul, div, max or min of two blobs or more (sub and div: exactly two), with broadcasting."""

    op: str = "add"


@dataclass(frozen=True, eq=False)
class ScalarOp(Node):
    """`op` add, sub, mul, div, rsub, rdiv, max, min, pow with a number on the right (rsub, rdiv: on the left)."""

    op: str = "add"
    scalar: float = 0.0


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Blobs joined along `axis`, counted without the batch axis."""

    axis: int = 0


@dataclass(frozen=True, eq=False)
class Slice(Node):
    """A blob cut along `axis` into `sizes`, one for each output."""

    axis: int = 0
    sizes: Tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Crop(Node):
    """The part of a blob from `begin` to `end` (exclusive), for every axis."""

    begin: Tuple[int, ...] = ()
    end: Tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Reshape(Node):
    """New shape without the batch axis (no -1); element order as in C."""

    shape: Tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Permute(Node):
    """Axes in a new order, counted without the batch axis."""

    order: Tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Padding(Node):
    """`pads` (top, left, bottom, right) and `channels` (before, after); `mode` constant, edge or reflect."""

    pads: Tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: str = "constant"
    value: float = 0.0
    channels: Tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Resize(Node):
    """`mode` nearest or bilinear to `size` (height, width)."""

    size: Tuple[int, int] = (1, 1)
    mode: str = "nearest"
    align_corners: bool = False


@dataclass(frozen=True, eq=False)
class Reduce(Node):
    """`op` mean, sum, max or min over `axes` (without the batch axis)."""

    op: str = "mean"
    axes: Tuple[int, ...] = ()
    keepdims: bool = False


@dataclass(frozen=True, eq=False)
class Softmax(Node):
    """Softmax along `axis`, counted without the batch axis."""

    axis: int = 0
