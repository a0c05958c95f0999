# SPDX-License-Identifier: MIT
"""Quantized convolutions."""

from mxnet.gluon import Block, nn

from quantize.nn.layer import QuantizedLayer


class QuantizedConvolution(QuantizedLayer):
    """Mixin of convolutions: what they know of their groups."""

    @classmethod
    def groups_of(cls, layer: Block) -> int:
        """The layer's own."""
        return layer._kwargs["num_group"]


class QConv1D(QuantizedConvolution, nn.Conv1D):
    """`nn.Conv1D` that computes with fake-quantized input and weight (out, in / groups, kw)."""


class QConv2D(QuantizedConvolution, nn.Conv2D):
    """`nn.Conv2D` that computes with fake-quantized input and weight (out, in / groups, kh, kw)."""


class QConv2DTranspose(QuantizedConvolution, nn.Conv2DTranspose):
    """`nn.Conv2DTranspose` with fake-quantized input and weight (in, out / groups, kh, kw).

    Per channel means per index of the weight's second axis: with several groups, channel j of every group shares
    one scale.

    On the CPU it cannot be trained with a quantized weight: MXNet 1.9.1's gradient of a transposed convolution fails
    ("could not execute a primitive") wherever the weight is computed and not a parameter itself. MXNET_MKLDNN_ENABLED=0
    avoids that.
    """

    channel_axis = 1

    @property
    def folds_norm(self) -> bool:
        """Not with several groups: an output channel of each has the same index of the weight."""
        return self.groups_of(self) == 1
