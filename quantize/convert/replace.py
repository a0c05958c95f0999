# SPDX-License-Identifier: MIT
"""The quantized layer that a PlanEntry asks for."""

from mxnet.gluon import Block

from quantize.convert.layers import QUANTIZABLE
from quantize.convert.plan import PlanEntry
from quantize.nn import QActivation, WinogradConv2D, WinogradTransform
from quantize.nn.layer import QuantizedBlock


def quantized_layer(layer: Block, entry: PlanEntry) -> QuantizedBlock:
    """The quantized replacement of `layer` as a PlanEntry says, on the float layer's parameters."""
    tiles = entry.winograd is not None and entry.winograd.inputs
    kind = WinogradConv2D if tiles else QUANTIZABLE[type(layer)].quantized
    assert kind is not None  # the table of what can be quantized holds no others
    new = kind.from_float(layer)
    if isinstance(new, QActivation):
        assert entry.output is not None
        return new.attach(entry.output, entry.output_method, dict(entry.options))
    # a BatchNorm makes up for the scale of the weights before it
    options = {"scaling": not entry.norm, **dict(entry.options)}
    transform = entry.winograd and WinogradTransform(entry.winograd, layer.weight.shape, layer._kwargs["num_group"],
                                                     prefix=layer.prefix + "winograd_")
    new.attach(entry.input, entry.weight, entry.input_method, entry.weight_method, options, transform=transform)
    return new if entry.output is None else new.attach_output(entry.output, entry.output_method, options)
