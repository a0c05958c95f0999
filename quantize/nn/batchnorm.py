# SPDX-License-Identifier: MIT
"""BatchNorm that steps aside once it lives in the convolution's weights."""

from mxnet.gluon import nn

from quantize.nn.layer import retyped


class BypassBatchNorm(nn.BatchNorm):
    """Identity in the place of an `nn.BatchNorm`; keeps its parameters so that names and checkpoints survive."""

    @classmethod
    def from_float(cls, layer: nn.BatchNorm) -> "BypassBatchNorm":
        """An identity with the layer's name, options and Parameter objects."""
        return retyped(layer, cls)

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        """`x` unchanged."""
        return x
