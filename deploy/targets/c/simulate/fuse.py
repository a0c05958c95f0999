# SPDX-License-Identifier: MIT
"""N2D2's `fuse_qat`: a retrained network as whole numbers alone, BatchNorms absorbed, quantizers gone.

Layers of which the weight alone was quantized read 16 bits of fixed point. What a layer's sums are multiplied by takes
up the BatchNorm behind it in float64, so that every code stays what it was.
`unfused` computes the same network as it stands, BatchNorm by BatchNorm, in float64: the judge of the fusion.
"""

from dataclasses import replace
from typing import Any, Dict, Optional, Tuple

import numpy as np
from mxnet.gluon import Block

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Affine, BatchNorm, Grid, Model, Node, QuantizedNode, consumers, integers
from deploy.ir.affine import factor_and_shift
from deploy.lower import lower
from deploy.lower.passes import scaled_quantization
from deploy.target import raise_problems
from deploy.targets.c import constraints
from deploy.targets.c.arithmetic import FixedArithmetic
from deploy.targets.c.grids import settled, with_settled_inputs
from deploy.targets.c.scaling import SCALINGS
from deploy.targets.c.simplify import simplified
from deploy.targets.c.simulate.picture import fused_dot, integer_layers, numbers_of
from quantize.errors import ConfigError
from quantize.registry import closest

NONE, FLOAT_MULT = "NONE", "FLOAT_MULT"  # N2D2's two names of scaling in floating point


class FusedNetwork:
    """A network of whole numbers; it is called like the network it was.

    Attributes
    ----------
    model : Model
        Convolutions and fully connected layers with integer weights, and what is between them.
    scaling : str
        A name in `deploy.targets.c.scaling.SCALINGS`.
    """

    def __init__(self, model: Model, scaling: str):
        self.model, self.scaling = model, scaling
        # what lies on no grid, such as both sides of an addition, stays float64 where factors do: no code may change
        self._arithmetic = _Float64() if scaling == FLOAT_MULT else FixedArithmetic(scaling)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Scores (n, classes) of images (n, channels, height, width), float32."""
        return engine.run(self.model, images, arithmetic=self._arithmetic).outputs[0]

    def numbers(self) -> Dict[str, Dict[str, np.ndarray]]:
        """Layer -> its weights, scale and biases (`picture.numbers_of`)."""
        return {node.name: numbers_of(node) for node in integer_layers(self.model)}

    def dot(self) -> str:
        """The network in Graphviz's language."""
        return fused_dot(self.model)

    def codes(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Layer -> the codes (int32) that it reads."""
        return engine.run(self.model, images, arithmetic=self._arithmetic, codes=True).codes


def bytes_grid(scale: Optional[float]) -> Optional[Grid]:
    """The grid of images whose bytes are multiplied by a scale; None without one."""
    return None if scale is None else Grid(float(np.float32(scale)), 0, 0, 255)


def fuse_qat(net: Block, input_shape: Tuple[int, ...], scaling: str = NONE,
             input_grid: Optional[Grid] = None, images: Optional[np.ndarray] = None) -> FusedNetwork:
    """The fused form of a network that was trained with quantizers.

    Parameters
    ----------
    net : HybridBlock
        Converted, with ranges; it is not changed.
    input_shape : tuple of int
        Of one image, (channels, height, width).
    scaling : str
        NONE and FLOAT_MULT leave every code as it was; FIXED_MULT16, FIXED_MULT32, SINGLE_SHIFT and DOUBLE_SHIFT hold
        factors in whole numbers.
    input_grid : Grid, optional
        On which images lie already (bytes), for a first layer that does not round them.
    images : array (n, channels, height, width), optional
        Whose largest values decide how fine 16 bits are in front of layers that round no input; by default the weights
        decide, whatever the image.

    Raises
    ------
    ConfigError
        For a scaling that does not exist.
    DeployError
        Naming everything that has no integer form.
    """
    names = (NONE, *SCALINGS)
    if scaling not in names:
        raise ConfigError(f"scaling must be one of {', '.join(names)}, got {scaling!r}{closest(scaling, names)}")
    model = settled(_absorbed(_as_it_stands(net, input_shape, input_grid, images)))
    raise_problems(constraints.check(model), "a fused network")
    return FusedNetwork(model, FLOAT_MULT if scaling == NONE else scaling)


def unfused_codes(net: Block, input_shape: Tuple[int, ...], images: np.ndarray,
                  input_grid: Optional[Grid] = None, ranging: Optional[np.ndarray] = None) -> Dict[str, np.ndarray]:
    """Layer -> the codes (int32) that it reads in the network as it stands, in float64.

    `ranging`: the images that `fuse_qat` was given.
    """
    model = _as_it_stands(net, input_shape, input_grid, ranging)
    return engine.run(model, images, arithmetic=_Float64(), codes=True).codes


def _as_it_stands(net, input_shape, input_grid, images) -> Model:
    model = lower(net, input_shape, arithmetic=_Float64(), merge_norms=False, input_grid=input_grid)
    model = simplified(model)
    bounded = with_settled_inputs(model)
    if images is None or bounded.nodes == model.nodes:
        return bounded
    blobs = engine.run(bounded, images, arithmetic=_Float64(), keep=engine.ALL).blobs
    return with_settled_inputs(model, {blob: float(np.abs(values).max()) for blob, values in blobs.items()})


def _absorbed(model: Model) -> Model:
    """Every BatchNorm that alone reads an integer layer in that layer; its step and its bias stay float64."""
    readers = consumers(model)
    nodes: Dict[str, Node] = {}
    renamed: Dict[str, str] = {}
    for node in model.nodes:
        node = replace(node, inputs=tuple(renamed.get(blob, blob) for blob in node.inputs))
        host: Any = next((other for other in nodes.values() if other.outputs == node.inputs), None)
        if isinstance(node, (BatchNorm, Affine)) and integers(host) is not None and host.activation is None and len(
                readers[host.outputs[0]]) == 1:
            factor, shift = factor_and_shift(node)
            bias = 0.0 if host.bias is None else host.bias.astype(np.float64)
            nodes[host.name] = replace(host, bias=bias * factor + shift,
                                       quantization=scaled_quantization(host.quantization, factor))
            renamed[node.outputs[0]] = host.outputs[0]
        else:
            nodes[node.name] = node
    return replace(model, nodes=tuple(nodes.values()),
                   outputs=tuple(renamed.get(blob, blob) for blob in model.outputs))


class _Float64(Arithmetic):
    """The formulas of layers, BatchNorms and quantizers, each in float64."""

    name, takes_reals = "float64", True

    def quantize(self, x, grid: Grid) -> np.ndarray:
        """Halves up, as the fused network has them."""
        codes = np.floor(np.asarray(x, np.float64) / grid.scale + 0.5) + grid.zero_point
        return np.clip(codes, grid.qmin, grid.qmax).astype(np.int32)

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """Sums times the steps of input and weight, and the bias."""
        steps = np.float64(node.quantization.input.scale) * node.quantization.weight_scale.astype(np.float64)
        bias = np.zeros(len(steps)) if node.bias is None else node.bias.astype(np.float64)
        shape = (1, -1) + (1,) * (accumulator.ndim - 2)
        return accumulator.astype(np.float64) * steps.reshape(shape) + bias.reshape(shape)

    @property
    def operations(self):
        """BatchNorms in float64; what the rest hands on stays it."""
        return {BatchNorm: _norm, Affine: _norm}


def _norm(node, inputs, arithmetic):
    factor, shift = factor_and_shift(node)
    shape = (1, -1) + (1,) * (inputs[0].ndim - 2)
    return inputs[0].astype(np.float64) * factor.reshape(shape) + shift.reshape(shape)
