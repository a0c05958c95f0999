# SPDX-License-Identifier: MIT
"""Which layer types can be quantized, and by what they are replaced."""

from mxnet.gluon import nn

from quantize.nn import QActivation, QConv2D, QConv2DTranspose, QDense

# exact types: a user's subclass has a forward of its own and is left alone
CONVERTERS = {
    nn.Conv2D: QConv2D,
    nn.Conv2DTranspose: QConv2DTranspose,
    nn.Dense: QDense,
    nn.Activation: QActivation,
}


def quantized_layer(layer, entry):
    """The quantized replacement of `layer` as a PlanEntry says, on the float layer's parameters."""
    new = CONVERTERS[type(layer)].from_float(layer)
    if isinstance(new, QActivation):
        return new.attach(entry.output)
    return new.attach(input_spec=entry.input, weight_spec=entry.weight)
