# SPDX-License-Identifier: MIT
"""BatchNorm that steps aside once it lives in the convolution's weights, or stands still."""

from types import ModuleType

from mxnet.gluon import Block, nn

from quantize.nn.layer import retyped
from quantize.onednn import BatchNorm
from quantize.ops.types import Tensor


class BypassBatchNorm(nn.BatchNorm):
    """Identity in the place of an `nn.BatchNorm`; keeps its parameters so that names and checkpoints survive."""

    @classmethod
    def from_float(cls, layer: nn.BatchNorm) -> "BypassBatchNorm":
        """An identity with the layer's name, options and Parameter objects."""
        return retyped(layer, cls)

    def hybrid_forward(self, F: ModuleType, x: Tensor, gamma: Tensor, beta: Tensor, running_mean: Tensor,
                       running_var: Tensor) -> Tensor:
        """`x` unchanged."""
        return x


class FrozenBatchNorm(BatchNorm):
    """An `nn.BatchNorm` that `quantize.train.freeze_bn` has stopped, and may let go again.

    It computes with its running statistics, as one made with ``use_global_stats=True`` does, which stays so for good.
    """

    @classmethod
    def freeze(cls, norm: nn.BatchNorm) -> None:
        """Stop a BatchNorm, in place: who holds it goes on holding it."""
        norm._kwargs["use_global_stats"] = True
        norm._moving, norm.__class__ = type(norm), cls

    def release(self) -> None:
        """Let it follow the batches again."""
        self._kwargs["use_global_stats"] = False
        self.__class__ = self._moving

    def hybrid_forward(self, F: ModuleType, x: Tensor, gamma: Tensor, beta: Tensor, running_mean: Tensor,
                       running_var: Tensor) -> Tensor:
        """As what it was computes, and will again."""
        return self._moving.hybrid_forward(self, F, x, gamma, beta, running_mean, running_var)

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, "BatchNorm", 1)


def is_batchnorm(block: Block) -> bool:
    """Whether a block computes as Gluon's BatchNorm does: none that steps aside, and no user's own."""
    return type(block) in (nn.BatchNorm, BatchNorm, FrozenBatchNorm)
