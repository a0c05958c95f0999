# SPDX-License-Identifier: MIT
"""Quantized convolutions."""

from mxnet.gluon import nn

from quantize.nn.layer import QuantizedLayer


class QConv2D(QuantizedLayer, nn.Conv2D):
    """`nn.Conv2D` that computes with fake-quantized input and weight (out, in / groups, kh, kw)."""

    channel_axis = 0


class QConv2DTranspose(QuantizedLayer, nn.Conv2DTranspose):
    """`nn.Conv2DTranspose` with fake-quantized input and weight (in, out / groups, kh, kw).

    Per channel means per index of the weight's second axis: with several groups, channel j of every group shares
    one scale.

    On the CPU it cannot be trained with a quantized weight: MXNet 1.9.1's gradient of a transposed convolution fails
    ("could not execute a primitive") wherever the weight is computed and not a parameter itself. MXNET_MKLDNN_ENABLED=0
    avoids that.
    """

    channel_axis = 1
