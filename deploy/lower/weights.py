# SPDX-License-Identifier: MIT
"""From the quantizers of a layer to `ir.Quantization`."""

from typing import Dict

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from deploy.arithmetic import Arithmetic
from deploy.ir import Grid, Quantization
from deploy.lower.draft import Unsupported
from deploy.lower.passes import without_factor
from quantize.convert.passes import batchnorm_affine
from quantize.modes import quantized_layers
from quantize.nn.fake_quantize import FakeQuantize
from quantize.spec import PerTensor, QuantSpec

UNCALIBRATED = "its input has no calibrated range; calibrate the network (calib.collect), or exclude the layer"


def quantized_paths(net: Block) -> Dict[str, Block]:
    """Structural path -> layer, where a quantizer is switched on."""
    return {path: layer for path, layer in quantized_layers(net)
            if any(quantizer.mode != "float" for _, quantizer in layer.quantizers())}


def quantization_of(layer: Block, weight: np.ndarray, arithmetic: Arithmetic) -> Quantization:
    """The integers of a layer whose first weight axis are its outputs.

    Parameters
    ----------
    layer : QConv2D or QDense
    weight : array of float32, (outputs, ...)
    arithmetic : Arithmetic
        How the engine rounds weights.
    """
    on = {name: quantizer for name, quantizer in layer.quantizers() if quantizer.mode != "float"}
    if "output_quantizer" in on:
        raise Unsupported("its output is quantized; integer layers round what they read: quantize inputs instead")
    if len(on) != 2:
        raise Unsupported(f"only its {' and '.join(name.split('_')[0] for name in on)} is quantized; integer layers "
                          "need input and weight")
    spec = on["weight_quantizer"].spec
    _check_rounding(spec, "weights")
    if not (spec.signed and spec.symmetric and spec.qmin == -spec.qmax and spec.qmax <= 127):
        raise Unsupported(f"{spec} weights with codes from {spec.qmin} to {spec.qmax}; integer layers hold symmetric "
                          "ones up to 127")
    if layer.weight_transform is not None:
        raise Unsupported(f"its weight is quantized in the Winograd domain ({layer.weight_transform}), integer layers "
                          "hold kernels on a grid; "
                          "convert it without Winograd")
    norm = layer.norm
    if norm is not None:
        weight = norm.fold(mx.nd, mx.nd.array(weight)).asnumpy()
    scale = weight_scale(on["weight_quantizer"], weight)
    codes = arithmetic.quantize_weight(weight, scale, spec.qmax)
    quantization = Quantization(input_grid(on["input_quantizer"]), codes, scale, spec.qmax)
    return quantization if norm is None else without_factor(quantization, batchnorm_affine(norm.block)[0])


def input_grid(quantizer: FakeQuantize) -> Grid:
    """The grid of a layer's input, from the calibrated range."""
    spec = quantizer.spec
    _check_rounding(spec, "inputs")
    if not quantizer.calibrated:
        raise Unsupported(UNCALIBRATED)
    numbers = quantizer.get_qparams()
    if numbers.scale.size != 1:
        raise Unsupported(f"{spec} inputs; integer layers have one scale for their input")
    return Grid(float(numbers.scale.ravel()[0]), int(numbers.zero_point.ravel()[0]), spec.qmin, spec.qmax)


def weight_scale(quantizer: FakeQuantize, weight: np.ndarray) -> np.ndarray:
    """Scale for each output, (outputs,): the stored one of a frozen or offline quantizer, else of the weight itself."""
    spec = quantizer.spec
    stored = quantizer.calibrated and (quantizer.frozen or quantizer.mode == "offline")
    scale = (quantizer.get_qparams() if stored else quantizer.qparams_of(mx.nd.array(weight))).scale
    if not isinstance(spec.granularity, PerTensor) and spec.granularity.axis != 0:
        raise Unsupported(f"weight scales along axis {spec.granularity.axis}; integer layers have one for each output")
    return np.repeat(scale.ravel().astype(np.float32), len(weight) // scale.size)


def _check_rounding(spec: QuantSpec, operand: str):
    if spec.grid != "mid_tread" or spec.rounding != "half_away":
        raise Unsupported(f"{operand} on a {spec.grid} grid rounded {spec.rounding}; integer layers need mid_tread and "
                          "half_away")
