# SPDX-License-Identifier: MIT
"""Quantized convolutions."""

from mxnet.gluon import nn

from quantize.nn.layer import QuantizedLayer


class QConv2D(QuantizedLayer, nn.Conv2D):
    """`nn.Conv2D` that computes with fake-quantized input and weight (out, in / groups, kh, kw)."""

    channel_axis = 0

    @classmethod
    def from_float(cls, layer: nn.Conv2D) -> "QConv2D":
        """A quantized layer with the float layer's name, options and Parameter objects."""
        return cls(**_options(layer))


class QConv2DTranspose(QuantizedLayer, nn.Conv2DTranspose):
    """`nn.Conv2DTranspose` with fake-quantized input and weight (in, out / groups, kh, kw).

    Per channel means per index of the weight's second axis: with several groups, channel j of every group shares
    one scale.
    """

    channel_axis = 1

    @classmethod
    def from_float(cls, layer: nn.Conv2DTranspose) -> "QConv2DTranspose":
        """A quantized layer with the float layer's name, options and Parameter objects."""
        return cls(output_padding=layer._kwargs["adj"], **_options(layer))


def _options(layer):
    kwargs = layer._kwargs
    return dict(
        channels=layer._channels, in_channels=layer._in_channels, kernel_size=kwargs["kernel"],
        strides=kwargs["stride"], padding=kwargs["pad"], dilation=kwargs["dilate"], groups=kwargs["num_group"],
        layout=kwargs["layout"], activation=None if layer.act is None else layer.act._act_type,
        use_bias=layer.bias is not None, weight_initializer=layer.weight.init,
        bias_initializer="zeros" if layer.bias is None else layer.bias.init,
        prefix=layer.prefix, params=layer.params)
