# SPDX-License-Identifier: MIT
"""Quantized convolutions."""

from types import ModuleType
from typing import Optional, Sequence

from mxnet.gluon import Block, nn

from quantize.nn.layer import QuantizedLayer, make_writable
from quantize.ops.types import Tensor


class QuantizedConvolution(QuantizedLayer):
    """Mixin of convolutions: what they know of their groups."""

    @classmethod
    def groups_of(cls, layer: Block) -> int:
        """The layer's own."""
        return layer._kwargs["num_group"]

    def product(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """See `QuantizedLayer.product`."""
        options = {**self._kwargs, "no_bias": bias is None}
        return getattr(F, self._op_name)(x, weight, *(() if bias is None else (bias,)), name="fwd", **options)


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

    def product(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """See `QuantizedLayer.product`."""
        return _copied(F, super().product(F, _copied(F, x), _copied(F, weight), bias))


class QConv2D(QuantizedConvolution, nn.Conv2D):
    """`nn.Conv2D` that computes with fake-quantized input and weight (out, in / groups, kh, kw)."""


class QConv2DTranspose(QuantizedConvolution, nn.Conv2DTranspose):
    """`nn.Conv2DTranspose` with fake-quantized input and weight (in, out / groups, kh, kw).

    Per channel means per index of the weight's second axis: with several groups, channel j of every group shares
    one scale.

    With a quantized weight it is a convolution with the kernel turned round, over the input with zeros between its
    pixels: MXNet 1.9.1's gradient of a transposed convolution fails on the CPU ("could not execute a primitive")
    wherever the weight is computed and not a parameter itself. The sums are the same.
    """

    channel_axis = 1

    @property
    def folds_norm(self) -> bool:
        """Not with several groups: an output channel of each has the same index of the weight."""
        return self.groups_of(self) == 1

    def convolved(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """See `QuantizedLayer.convolved`."""
        quantizer = self.weight_quantizer
        if quantizer is None or not quantizer.rounds or quantizer.frozen:
            return super().convolved(F, x, weight, bias)
        y = self.product(F, x, weight, bias)
        return y if self.act is None else self.act(y)

    def product(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """See `QuantizedLayer.product`."""
        options = self._kwargs
        groups, dilation = options["num_group"], options["dilate"]
        far = [gap * (taps - 1) - pad for gap, taps, pad in zip(dilation, options["kernel"], options["pad"])]
        operands = (_spread(F, x, options["stride"], options["adj"], far), _turned(F, weight, groups))
        return F.Convolution(*operands, *(() if bias is None else (bias,)), kernel=options["kernel"], dilate=dilation,
                             num_filter=options["num_filter"], num_group=groups, no_bias=bias is None, name="fwd")


def _spread(F: ModuleType, x: Tensor, stride: Sequence[int], behind: Sequence[int], pad: Sequence[int]) -> Tensor:
    """`x` with zeros between its pixels, rows and columns of `pad` around them and so many more `behind`.

    Negative pads cut rows and columns off.
    """
    rows, columns = stride
    if max(stride) > 1:
        x = F.expand_dims(F.expand_dims(x, axis=4), axis=3)  # (n, c, h, 1, w, 1)
        for axis, step in ((5, columns), (3, rows)):
            if step > 1:
                x = F.concat(x, *[F.zeros_like(x)] * (step - 1), dim=axis)
        x = F.reshape(x, shape=(0, 0, -3, -3))
    first = [max(-size, 0) for size in pad]
    last = [min(size + more, 0) - step + 1 for size, more, step in zip(pad, behind, stride)]
    if any(first + last):
        x = F.slice(x, begin=(None, None, *first), end=(None, None, *[size or None for size in last]))
    ends = [max(size + more, 0) for size, more in zip(pad, behind)]
    width = (0, 0, 0, 0, max(pad[0], 0), ends[0], max(pad[1], 0), ends[1])
    return F.pad(x, mode="constant", pad_width=width, constant_value=0) if any(width) else x


def _turned(F: ModuleType, weight: Tensor, groups: int) -> Tensor:
    """(inputs, outputs / groups, kh, kw) as (outputs, inputs / groups, kh, kw), turned by half a circle."""
    weight = F.reverse(weight, axis=(2, 3))
    weight = F.reshape(weight, shape=(-4, groups, -1, 0, 0, 0))
    return F.reshape(F.swapaxes(weight, 1, 2), shape=(-3, 0, 0, 0))
