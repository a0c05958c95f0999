# SPDX-License-Identifier: MIT
"""BatchNorm that steps aside once it lives in the convolution's weights."""

from mxnet.gluon import nn


class BypassBatchNorm(nn.BatchNorm):
    """Identity in the place of an `nn.BatchNorm`; keeps its parameters so that names and checkpoints survive."""

    @classmethod
    def from_float(cls, layer: nn.BatchNorm) -> "BypassBatchNorm":
        """An identity with the layer's name, options and Parameter objects."""
        kwargs = layer._kwargs
        return cls(
            axis=kwargs["axis"], momentum=kwargs["momentum"], epsilon=kwargs["eps"], scale=not kwargs["fix_gamma"],
            center=layer.beta.grad_req != "null", use_global_stats=kwargs["use_global_stats"],
            in_channels=layer.gamma.shape[0], beta_initializer=layer.beta.init, gamma_initializer=layer.gamma.init,
            running_mean_initializer=layer.running_mean.init,
            running_variance_initializer=layer.running_var.init, prefix=layer.prefix, params=layer.params)

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        """`x` unchanged."""
        return F.identity(x)
