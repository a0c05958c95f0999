# SPDX-License-Identifier: MIT
"""Quantized fully connected layer."""

from types import ModuleType
from typing import Optional

from mxnet.gluon import nn

from quantize.nn.layer import QuantizedLayer
from quantize.ops.types import Tensor


class QDense(QuantizedLayer, nn.Dense):
    """`nn.Dense` that computes with fake-quantized input and weight (units, in_units).

    Per group and per channel both mean one scale per unit.
    """

    output_axis = -1
    groups_are_channels = True

    def product(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """See `QuantizedLayer.product`."""
        return F.FullyConnected(x, weight, bias, no_bias=bias is None, num_hidden=self._units, flatten=self._flatten,
                                name="fwd")
