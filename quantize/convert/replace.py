# SPDX-License-Identifier: MIT
"""Which layer types can be quantized, and by what they are replaced."""

from mxnet.gluon import nn

from quantize.nn import (
    QActivation,
    QConv2D,
    QConv2DTranspose,
    QDense,
    QReLU6,
    ReLU6,
    WinogradConv2D,
    WinogradTransform,
)

# exact types: a user's subclass has a forward of its own and is left alone
CONVERTERS = {
    nn.Conv2D: QConv2D,
    nn.Conv2DTranspose: QConv2DTranspose,
    nn.Dense: QDense,
    nn.Activation: QActivation,
    ReLU6: QReLU6,
}
ACTIVATIONS = ("Activation", "ReLU6")


def quantized_layer(layer, entry):
    """The quantized replacement of `layer` as a PlanEntry says, on the float layer's parameters."""
    tiles = entry.winograd is not None and entry.winograd.inputs
    new = (WinogradConv2D if tiles else CONVERTERS[type(layer)]).from_float(layer)
    if isinstance(new, QActivation):
        return new.attach(entry.output, entry.output_method, dict(entry.options))
    # a BatchNorm makes up for the scale of the weights before it
    options = {"scaling": not entry.norm, **dict(entry.options)}
    transform = entry.winograd and WinogradTransform(entry.winograd, layer.weight.shape, layer._kwargs["num_group"],
                                                     prefix=layer.prefix + "winograd_")
    new.attach(entry.input, entry.weight, entry.input_method, entry.weight_method, options, transform=transform)
    return new if entry.output is None else new.attach_output(entry.output, entry.output_method, options)
