# SPDX-License-Identifier: MIT
"""From the quantizers of a layer to `ir.Quantization`."""

from typing import Dict, Optional, Tuple, cast

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from deploy.arithmetic import Arithmetic, weight_type
from deploy.ir import Grid, Quantization
from deploy.ir.transposed import as_convolution
from deploy.lower.draft import Unsupported
from deploy.lower.passes import without_factor
from quantize.convert.passes import batchnorm_affine
from quantize.modes import quantized_layers
from quantize.nn.fake_quantize import FakeQuantize
from quantize.spec import PerChannel, PerTensor, QuantSpec

# codes of 8 bits: with their lowest one; without a level at zero they are odd
LARGEST = {"mid_tread": 128, "mid_rise": 255}
UNCALIBRATED = "its input has no calibrated range; calibrate the network (calib.collect), or exclude the layer"


def quantized_paths(net: Block) -> Dict[str, Block]:
    """Structural path -> layer, where a quantizer is switched on."""
    return {path: layer for path, layer in quantized_layers(net)
            if any(quantizer.mode != "float" for _, quantizer in layer.quantizers())}


def quantization_of(layer: Block, weight: np.ndarray, arithmetic: Arithmetic,
                    read: Optional[Grid] = None) -> Optional[Quantization]:
    """The integers of a layer, outputs first (`as_convolution`); None where only its output is quantized.

    Parameters
    ----------
    layer : QConv2D, QDense or QConv2DTranspose
    weight : array of float32
        As the layer has it.
    arithmetic : Arithmetic
        How the engine rounds weights.
    read : Grid, optional
        The grid that the layer's input lies on, which serves where the layer does not round its input itself.
    """
    on = {name: quantizer for name, quantizer in layer.quantizers()
          if quantizer.mode != "float" and name != "output_quantizer"}
    if not on:
        return None
    if "weight_quantizer" not in on or "input_quantizer" not in on and read is None:
        raise Unsupported(f"only its {' and '.join(name.split('_')[0] for name in on)} is quantized; integer layers "
                          "need input and weight")
    quantizer = on["weight_quantizer"]
    _check_weights(layer, quantizer.spec, arithmetic)
    norm = layer.norm
    if norm is not None:
        weight = norm.fold(mx.nd, mx.nd.array(weight)).asnumpy()
    codes, scale = _codes(quantizer, weight, arithmetic, layer.groups_of(layer) if layer.channel_axis else 0)
    own = on.get("input_quantizer")
    grid = read if own is None else grid_of_quantizer(own, arithmetic)
    quantization = Quantization(cast(Grid, grid), codes, scale, _largest_code(quantizer.spec))
    # the factor was in the weight when it was rounded, and goes on to the step: the codes stay
    return quantization if norm is None else without_factor(quantization, batchnorm_affine(norm.block)[0])


def _check_weights(layer: Block, spec: QuantSpec, arithmetic: Arithmetic) -> None:
    """Unsupported where the codes of a weight do not fit."""
    if spec.grid == "mid_tread":
        _check_rounding(spec, "weights", arithmetic)
    largest = LARGEST[spec.grid]
    if not (spec.signed and spec.symmetric) or _largest_code(spec) > largest:
        raise Unsupported(f"{spec} weights with codes from {_code(spec, spec.qmin)} to {_code(spec, spec.qmax)}; "
                          f"integer layers hold {largest} at most, on both sides of a zero point 0")
    if layer.weight_transform is not None:
        raise Unsupported(f"its weight is quantized in the Winograd domain ({layer.weight_transform}), integer layers "
                          "hold kernels on a grid; convert it without Winograd")


def _code(spec: QuantSpec, code: int) -> int:
    """The integer that stands for a code: a grid without a level at zero has the odd numbers, and half the step."""
    return code if spec.grid == "mid_tread" else 2 * code + 1


def _largest_code(spec: QuantSpec) -> int:
    return max(-_code(spec, spec.qmin), _code(spec, spec.qmax))


def _codes(quantizer: FakeQuantize, weight: np.ndarray, arithmetic: Arithmetic,
           transposed: int) -> Tuple[np.ndarray, np.ndarray]:
    """(Codes (int8; int16 beyond 127), scale (outputs,)) of a float weight: those that the quantizer rounds it to.

    `transposed`: the groups of a transposed convolution; 0 for other layers.
    """
    spec = quantizer.spec
    scale = weight_scale(quantizer, weight, transposed)
    given = weight
    if transposed:
        weight = as_convolution(weight, transposed)
    if spec.grid == "mid_tread":
        codes = arithmetic.quantize_weight(weight, scale, _largest_code(spec))
        return np.clip(codes, spec.qmin, spec.qmax).astype(codes.dtype), scale
    # these methods move a weight before they round it
    rounded = quantizer.quantize(mx.nd, mx.nd.array(given), **{
        name: parameter.data() for name, parameter in quantizer._reg_params.items()}).asnumpy()
    if transposed:
        rounded = as_convolution(rounded, transposed)
    half = (scale / 2).astype(np.float32)
    codes = np.rint(rounded / half.reshape((-1,) + (1,) * (weight.ndim - 1)))
    return codes.astype(weight_type(_largest_code(spec))), half


def grid_of_quantizer(quantizer: FakeQuantize, arithmetic: Arithmetic) -> Grid:
    """The grid that a quantizer rounds a layer's input or output to, from the calibrated range."""
    spec = quantizer.spec
    _check_rounding(spec, "inputs", arithmetic)
    if not quantizer.calibrated:
        raise Unsupported(UNCALIBRATED)
    numbers = quantizer.get_qparams()
    if numbers.scale.size != 1:
        raise Unsupported(f"{spec} inputs; integer layers have one scale for their input")
    return Grid(float(numbers.scale.ravel()[0]), int(numbers.zero_point.ravel()[0]), spec.qmin, spec.qmax)


def weight_scale(quantizer: FakeQuantize, weight: np.ndarray, transposed: int = 0) -> np.ndarray:
    """Scale for each output, (outputs,): the stored one of a frozen or offline quantizer, else of the weight itself.

    A transposed convolution of several groups has the same scales in each.
    """
    spec = quantizer.spec
    stored = quantizer.calibrated and (quantizer.frozen or quantizer.mode == "offline")
    scale = (quantizer.get_qparams() if stored else quantizer.qparams_of(mx.nd.array(weight))).scale
    granularity, groups = spec.granularity, max(transposed, 1)
    outputs = weight.shape[1] * groups if transposed else len(weight)
    scale = scale.ravel().astype(np.float32)
    if transposed and isinstance(granularity, PerChannel) and granularity.axis == 1:
        scale = np.tile(scale, groups)
    elif not isinstance(granularity, PerTensor) and granularity.axis != 0 or transposed and isinstance(
            granularity, PerChannel):
        raise Unsupported(f"weight scales along axis {granularity.axis}; integer layers have one for each output")
    # one for each output whatever the granularity, so that nothing behind this asks which it was
    return np.repeat(scale, outputs // scale.size)


def _check_rounding(spec: QuantSpec, operand: str, arithmetic: Arithmetic) -> None:
    if spec.grid != "mid_tread" or spec.rounding != arithmetic.rounding:
        raise Unsupported(f"{operand} on a {spec.grid} grid rounded {spec.rounding}; integer layers of this engine "
                          f"need mid_tread and {arithmetic.rounding}")
