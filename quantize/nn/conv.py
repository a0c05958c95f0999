# SPDX-License-Identifier: MIT
"""Quantized convolutions."""

from types import ModuleType
from typing import Optional

from mxnet.gluon import Block, nn

from quantize.nn.layer import QuantizedLayer, make_writable
from quantize.ops.types import Tensor


class QuantizedConvolution(QuantizedLayer):
    """Mixin of convolutions: what they know of their groups."""

    @classmethod
    def groups_of(cls, layer: Block) -> int:
        """The layer's own."""
        return layer._kwargs["num_group"]


class PlainConv1D(nn.Conv1D):
    """`nn.Conv1D` on copies of its operands, which puts out a copy: the same values, in MXNet's plain layout.

    MXNet 1.9.1 on the CPU fails on tensors of three axes in oneDNN's blocked layout: a BatchNorm behind an `nn.Conv1D`
    cannot be trained ("Check failed: !is_view"), and its weight cannot be written to after inference
    (`make_writable`). A slice of everything keeps them out of that layout, also in hybridized networks, where
    arithmetic with 1 happens in place and does not.
    """

    def hybrid_forward(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """The convolution."""
        return _copied(F, super().hybrid_forward(F, _copied(F, x), _copied(F, weight), bias))


def _copied(F: ModuleType, x: Tensor) -> Tensor:
    return F.slice_axis(x, axis=0, begin=0, end=None)


class QConv1D(QuantizedConvolution, PlainConv1D):
    """`nn.Conv1D` that computes with fake-quantized input and weight (out, in / groups, kw)."""

    @classmethod
    def from_float(cls, layer: nn.Conv1D) -> "QConv1D":
        """See `QuantizedLayer.from_float`."""
        make_writable(layer.weight)
        return super().from_float(layer)


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
