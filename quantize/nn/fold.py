# SPDX-License-Identifier: MIT
"""BatchNorm folded into a quantized layer's weight in the training graph ("fake BN")."""

from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Optional, Tuple

import mxnet as mx
from mxnet.gluon import nn

from quantize.errors import ConfigError
from quantize.onednn import over_four_axes
from quantize.ops.types import Tensor

if TYPE_CHECKING:  # which imports this module
    from quantize.nn.layer import QuantizedLayer

STATISTICS = ("batch", "corrected", "running")
_PARAMETERS = ("gamma", "beta", "running_mean", "running_var")


class FoldedBatchNorm:
    """What a quantized layer computes when its BatchNorm will be folded: weights are rounded as they will be then.

    With f = gamma / sigma, sigma = sqrt(running_var + eps), w the weight and Q its quantizer, inference computes
    ``conv(x, Q(f w)) + beta - f mean``: what remains after folding. In training, by `statistics`:

    * ``batch``: ``BN(conv(x, Q(f w) / f))`` with the batch's statistics. One convolution; the running statistics are
      those of the quantized convolution, as in inference. The factor f carries no gradient: rounding errors are not
      gamma's.
    * ``corrected``: ``BN(conv(x, w)) + r conv(x, Q(f w) - f w)``, r = sigma / sigma_batch, both of ``conv(x, w)``: the
      weights are scaled by the running statistics before they are rounded, and the correction c = 1 / r is undone
      afterwards; Krishnamoorthi, arXiv:1806.08342, section 3.2.2 (SimQAT's CorrectionMul). A second convolution,
      forward and backward; r carries no gradient.
    * ``running``: as in inference, while each batch still moves the running statistics. A second BatchNorm.

    `frozen` stops that movement and computes as in inference, whatever the statistics are (section 3.2.2: "freeze").
    A channel whose gamma is 0 is 0 and stays so.

    The parameters stay those of the BatchNorm's block, which itself passes its input through. Not a block: the block at
    its old place in the network owns names and checkpoints.

    Parameters
    ----------
    block : nn.BatchNorm
    shape : tuple of int
        In which numbers of channels broadcast against the weight: (-1, 1, 1, 1).
    statistics : {"batch", "corrected", "running"}

    Attributes
    ----------
    frozen : bool
        After a change drop cached graphs (`quantize.train.freeze_bn` does).
    watcher : callable or None
        Called with what is normalized (NDArray), in networks that are not hybridized.
    """

    def __init__(self, block: nn.BatchNorm, shape: Tuple[int, ...], statistics: str = "batch") -> None:
        if statistics not in STATISTICS:
            raise ConfigError(f"statistics of a folded BatchNorm must be one of {', '.join(STATISTICS)}, got "
                              f"{statistics!r}")
        self.block = block
        self.shape = shape
        self.statistics = statistics
        self.frozen = False
        self.watcher = None

    def normalized(self, F: ModuleType, layer: "QuantizedLayer", convolve: Callable[..., Tensor],
                   operands: Tuple[Tensor, Tensor, Optional[Tensor]]) -> Tensor:
        """The normalized output of a layer.

        Parameters
        ----------
        layer : QuantizedLayer
        convolve : callable
            ``convolve(F, x, weight, bias)`` is the float layer's forward.
        operands : (x, weight, bias)
            Quantized input; float weight, or the fixed one; bias or None.
        """
        x, weight, bias = operands
        if layer.weight_quantizer is None or layer.weight_quantizer.frozen:
            return self._normalize(F, convolve(F, x, weight, bias))[0]
        folded = self.fold(F, weight)
        rounded = layer.rounded(F, folded)
        if self.statistics != "corrected" or self.frozen:
            return self._normalize(F, convolve(F, x, self.unfold(F, rounded), bias))[0]
        y, inverse = self._normalize(F, convolve(F, x, weight, bias))
        ratio = F.BlockGrad(inverse * self._sigma(F, x))
        error = F.broadcast_mul(rounded - folded, F.reshape(ratio, shape=self.shape))
        return y + convolve(F, x, error, None if bias is None else bias * 0)

    def fold(self, F: ModuleType, weight: Tensor) -> Tensor:
        """f w."""
        return F.broadcast_mul(weight, self._factor(F, weight))

    def unfold(self, F: ModuleType, folded: Tensor) -> Tensor:
        """w of f w."""
        factor = self._factor(F, folded)
        return F.broadcast_div(folded, factor + (factor == 0))

    def _factor(self, F: ModuleType, like: Tensor) -> Tensor:
        gamma = self._value(F, "gamma", like)
        if self.block._kwargs["fix_gamma"]:
            gamma = F.ones_like(gamma)
        return F.reshape(F.BlockGrad(gamma / self._sigma(F, like)), shape=self.shape)

    def _sigma(self, F: ModuleType, like: Tensor) -> Tensor:
        return F.sqrt(self._value(F, "running_var", like) + self.block._kwargs["eps"])

    def _value(self, F: ModuleType, name: str, like: Tensor) -> Tensor:
        parameter = getattr(self.block, name)
        return parameter.var() if F is mx.sym else parameter.data(like.context)

    def _normalize(self, F: ModuleType, z: Tensor) -> Tuple[Tensor, Tensor]:
        """(BatchNorm of z, 1 / sigma of the statistics it took: those of the batch in training)."""
        if self.watcher is not None and F is mx.nd:
            self.watcher(z)
        gamma, beta, mean, var = (self._value(F, name, z) for name in _PARAMETERS)
        options = dict(self.block._kwargs)
        frozen = self.frozen or options["use_global_stats"]
        if self.statistics == "running" and not frozen:
            # statistics move in a backward pass through a BatchNorm that takes the batch's: one without a gradient
            moving = self._over(F, F.BlockGrad(z), lambda z: F.BatchNorm(z, gamma, beta, mean, var, **options))
            beta = F.broadcast_add(beta, 0 * F.mean(F.slice_axis(moving, axis=0, begin=0, end=1)))
            frozen = True
        options.update(use_global_stats=frozen, output_mean_var=True)
        y, _, inverse = self._over(F, z, lambda z: list(F.BatchNorm(z, gamma, beta, mean, var, **options)))
        return y, inverse

    def _over(self, F: ModuleType, z: Tensor, normalize: Callable[[Tensor], Any]) -> Any:
        return normalize(z) if len(self.shape) == 4 else over_four_axes(F, z, normalize)

    def __repr__(self) -> str:
        return f"{self.statistics}{' frozen' if self.frozen else ''}"

