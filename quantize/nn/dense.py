# SPDX-License-Identifier: MIT
"""Quantized fully connected layer."""

from mxnet.gluon import nn

from quantize.nn.layer import QuantizedLayer


class QDense(QuantizedLayer, nn.Dense):
    """`nn.Dense` that computes with fake-quantized input and weight (units, in_units).

    Per group and per channel both mean one scale per unit.
    """

    output_axis = -1
    groups_are_channels = True
