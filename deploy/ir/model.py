# SPDX-License-Identifier: MIT
"""The network as values: what nodes are made of, the operations, the model, and questions about its graph."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Protocol, Tuple, cast

import numpy as np

# fields without a natural default have this one only because a dataclass wants one after inherited ones
REQUIRED: Any = None


@dataclass(frozen=True)
class Grid:
    """The integer grid of a blob: real = (code - zero_point) * scale.

    Parameters
    ----------
    scale : float
        A float32 number: the real value of one step.
    zero_point : int
    qmin, qmax : int
        Smallest and largest code.
    """

    scale: float
    zero_point: int = 0
    qmin: int = -127
    qmax: int = 127


@dataclass(frozen=True, eq=False)
class Quantization:
    """How a layer with a weight computes in integers.

    Parameters
    ----------
    input : Grid
        The grid of the layer's input blob.
    weight_q : array of int8 (int16 where `weight_qmax` is beyond 127), shape of the weight
        Codes, zero point 0.
    weight_scale : array of float32, (outputs,)
        Real value of one step, for each output channel; equal within a group where the target wants one per group.
    weight_qmax : int
        Largest allowed magnitude of a code: 127, 31 for ncnn's Winograd convolutions, 255 for the odd codes of 8 bits
        without a level at zero.
    """

    input: Grid
    weight_q: np.ndarray
    weight_scale: np.ndarray
    weight_qmax: int = 127


@dataclass(frozen=True)
class Function:
    """An activation function: its kind and the parameters which that kind has.

    relu; leaky_relu (slope); clip (min, max); sigmoid; tanh; hard_sigmoid (alpha, beta): clip(alpha*x + beta, 0, 1);
    hard_swish (alpha, beta): x * hard_sigmoid(x); swish: x * sigmoid(x); softplus; gelu; elu (alpha); exp; abs; square;
    sqrt; rsqrt: 1 / sqrt(x); log; erf; floor; ceil; sin; cos.
    """

    kind: str
    parameters: Tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Parameters
    ----------
    name : str
        Unique in the model.
    inputs, outputs : tuple of str
        Blobs.
    path : str
        Structural path of the Gluon layer it comes from; empty for bare operators.
    """

    name: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    path: str = ""


# ---- the operations


@dataclass(frozen=True, eq=False)
class Convolution(Node):
    """2-D convolution; weight (outputs, inputs / groups, kh, kw), bias (outputs,) float32 or None.

    `pads` is (top, left, bottom, right), filled with `pad_value`, a real number, before quantization. `activation` is
    applied to the result.
    """

    weight: np.ndarray = REQUIRED
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
    """Transposed 2-D convolution; weight (inputs, outputs / groups, kh, kw); in integers `Spread` and `Convolution`."""

    weight: np.ndarray = REQUIRED
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

    weight: np.ndarray = REQUIRED
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

    function: Function = REQUIRED


@dataclass(frozen=True, eq=False)
class Rounding(Node):
    """A blob rounded to a grid: (clip(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale.

    Engines that hand integers on from node to node round what other nodes than layers with weights read.
    """

    grid: Grid = REQUIRED


@dataclass(frozen=True, eq=False)
class PReLU(Node):
    """x where x > 0, slope[c] * x elsewhere; slope (channels,) or (1,)."""

    slope: np.ndarray = REQUIRED


@dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta per channel; what no convolution could absorb."""

    gamma: np.ndarray = REQUIRED
    beta: np.ndarray = REQUIRED
    mean: np.ndarray = REQUIRED
    variance: np.ndarray = REQUIRED
    epsilon: float = 1e-5


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """scale[c] * x + shift[c] per channel; `shift` may be None."""

    scale: np.ndarray = REQUIRED
    shift: Optional[np.ndarray] = None


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """`value`, a tensor that is the same for every image; the input, any blob, says no more than how many there are."""

    value: np.ndarray = REQUIRED


@dataclass(frozen=True, eq=False)
class Elementwise(Node):
    """`op` add, sub, mul, div, max, min or pow of two blobs or more (sub, div, pow: exactly two), with broadcasting."""

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
class Spread(Node):
    """`steps` (rows, columns) - 1 zeros between neighbours: (c, h, w) becomes (c, (h - 1) * steps[0] + 1, ...).

    A convolution behind it is a transposed convolution.
    """

    steps: Tuple[int, int] = (1, 1)


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


NODE_TYPES: Dict[str, type] = {name: kind for name, kind in list(globals().items())
                               if isinstance(kind, type) and issubclass(kind, Node) and kind is not Node}


# ---- the network


@dataclass(frozen=True, eq=False)
class Model:
    """A network.

    Parameters
    ----------
    inputs, outputs : tuple of str
        Blobs; inputs are written by no node.
    nodes : tuple of Node
        In topological order.
    shapes : dict
        Blob -> shape without the batch axis, for every blob.
    metadata : dict
        Text values that travel with the file (name, preprocessing as JSON, where ranges came from).
    """

    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    nodes: Tuple[Node, ...]
    shapes: Dict[str, Tuple[int, ...]]
    metadata: Dict[str, str] = field(default_factory=dict)


class QuantizedNode(Protocol):
    """A `Convolution` or an `InnerProduct` that has a quantization."""

    @property
    def name(self) -> str:
        """See `Node`."""

    @property
    def path(self) -> str:
        """See `Node`."""

    @property
    def inputs(self) -> Tuple[str, ...]:
        """See `Node`."""

    @property
    def outputs(self) -> Tuple[str, ...]:
        """See `Node`."""

    @property
    def weight(self) -> np.ndarray:
        """First axis: outputs."""

    @property
    def bias(self) -> Optional[np.ndarray]:
        """One number for each output."""

    @property
    def activation(self) -> Optional[Function]:
        """Applied to the result."""

    @property
    def quantization(self) -> Quantization:
        """Never None."""


def integers(node: Optional[Node]) -> Optional[Quantization]:
    """How a node computes in integers; None for one that does not, and for None (an input of the model)."""
    return node.quantization if isinstance(node, (Convolution, InnerProduct)) else None


def activation(node: Node) -> Optional[Function]:
    """The activation function that a node applies, by itself or to its sums; None where there is none."""
    if isinstance(node, Activation):
        return node.function
    return node.activation if isinstance(node, (Convolution, Deconvolution, InnerProduct)) else None


def quantized(model: Model) -> List[QuantizedNode]:
    """The nodes that compute in integers."""
    return [cast(QuantizedNode, node) for node in model.nodes if integers(node) is not None]


def consumers(model: Model) -> Dict[str, List[Optional[Node]]]:
    """Blob -> the nodes that read it, in order; outputs of the model add None."""
    readers: Dict[str, List[Optional[Node]]] = {blob: [] for blob in model.shapes}
    for node in model.nodes:
        for blob in node.inputs:
            readers[blob].append(node)
    for blob in model.outputs:
        readers[blob].append(None)
    return readers


def producers(model: Model) -> Dict[str, Node]:
    """Blob -> the node that writes it; inputs of the model are missing."""
    return {blob: node for node in model.nodes for blob in node.outputs}
