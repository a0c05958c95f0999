# SPDX-License-Identifier: MIT
"""Quantized fully connected layer."""

from mxnet.gluon import nn

from quantize.nn.layer import QuantizedLayer


class QDense(QuantizedLayer, nn.Dense):
    """`nn.Dense` that computes with fake-quantized input and weight (units, in_units).

    Per group and per channel both mean one scale per unit.
    """

    channel_axis = 0

    @classmethod
    def from_float(cls, layer: nn.Dense) -> "QDense":
        """A quantized layer with the float layer's name, options and Parameter objects."""
        return cls(
            units=layer._units, in_units=layer._in_units, flatten=layer._flatten, dtype=layer.weight.dtype,
            activation=None if layer.act is None else layer.act._act_type, use_bias=layer.bias is not None,
            weight_initializer=layer.weight.init,
            bias_initializer="zeros" if layer.bias is None else layer.bias.init,
            prefix=layer.prefix, params=layer.params)
