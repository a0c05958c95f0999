# SPDX-License-Identifier: MIT
"""Layers that multiply with whole numbers while they learn (N2D2's ``QWeight.Mode=Integer``)."""

from types import ModuleType
from typing import TYPE_CHECKING, Optional

from quantize.errors import ConfigError
from quantize.ops.types import Tensor
from quantize.spec import PerGroup, PerTensor, QuantSpec

if TYPE_CHECKING:  # which imports this module
    from quantize.nn.layer import QuantizedLayer


def check_integer_weights(spec: Optional[QuantSpec], transformed: bool, folds_norm: bool) -> None:
    """ConfigError where the weight of a layer cannot be whole numbers."""
    if spec is None:
        raise ConfigError("integer_weights: the weight stays float; give it a format")
    if not spec.symmetric:
        raise ConfigError(f"integer_weights: {spec} has a zero point; weights that are whole numbers are symmetric")
    if transformed or folds_norm:
        raise ConfigError("integer_weights: weights " + ("in the Winograd domain" if transformed else "with a folded "
                          "BatchNorm") + " are no whole numbers in the layer's product; take one of the two away")


def has_integer_weights(layer: "QuantizedLayer") -> bool:
    """Whether the layer's product is one with whole numbers in the mode that its quantizer is in."""
    quantizer = layer.weight_quantizer
    return layer.integer_weights and quantizer is not None and quantizer.rounds


def integer_product(F: ModuleType, layer: "QuantizedLayer", x: Tensor, weight: Tensor,
                    bias: Optional[Tensor]) -> Tensor:
    """The layer's output: the product of `x` and the weight's codes, times the step of their grid, and the bias.

    Grids without a level at zero have odd codes, and half the distance of their levels for a step. The gradient is that
    of fake quantization: the codes pass on what the product gives them, divided by the step that it is multiplied by.
    """
    quantizer = layer.weight_quantizer
    assert quantizer is not None  # see `has_integer_weights`
    step = F.BlockGrad(quantizer.code_step(F, weight))
    # a quotient of a rounded product and its factor is next to a whole number
    codes = F.contrib.round_ste(F.broadcast_div(layer.rounded(F, weight), _along_weight(F, layer, step)))
    y = F.broadcast_mul(layer.product(F, x, codes, None), _along_output(F, layer, step))
    if bias is not None:
        y = F.broadcast_add(y, F.reshape(bias, shape=_output_shape(layer)))
    return y if layer.act is None else layer.act(y)


def _output_shape(layer: "QuantizedLayer") -> tuple:
    if layer.output_axis == -1:
        return (-1,)
    return (1, -1) + (1,) * (len(layer.weight.shape) - 2)


def _along_weight(F: ModuleType, layer: "QuantizedLayer", step: Tensor) -> Tensor:
    """The step in a shape that the weight is divided by."""
    assert layer.weight_quantizer is not None
    granularity = layer.weight_quantizer.spec.granularity
    if not isinstance(granularity, PerGroup):
        return step
    return F.repeat(step, repeats=layer.weight.shape[granularity.axis] // granularity.groups, axis=granularity.axis)


def _along_output(F: ModuleType, layer: "QuantizedLayer", step: Tensor) -> Tensor:
    """The step of each output channel, in the shape of the output; one step for all as it is."""
    assert layer.weight_quantizer is not None
    granularity = layer.weight_quantizer.spec.granularity
    step = F.reshape(step, shape=(-1,))
    if not isinstance(granularity, PerTensor):
        groups = layer.groups_of(layer)
        outputs = layer.weight.shape[layer.channel_axis] * (groups if layer.channel_axis else 1)
        if isinstance(granularity, PerGroup):
            step = F.repeat(step, repeats=outputs // granularity.groups, axis=0)
        elif layer.channel_axis:  # the groups of a transposed convolution share their scales
            step = F.tile(step, reps=(groups,))
    return F.reshape(step, shape=_output_shape(layer))
