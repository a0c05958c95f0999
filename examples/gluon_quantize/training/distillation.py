# SPDX-License-Identifier: MIT
"""Losses of a training: against the labels, or also against what the float network answers."""

from typing import Callable

from mxnet import autograd, gluon
from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray


class LabelLoss:
    """Cross entropy with the labels."""

    def __init__(self):
        self._cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
        self._cross_entropy.hybridize(static_alloc=True, static_shape=True)

    def __call__(self, x: NDArray, output: NDArray, labels: NDArray) -> NDArray:
        """Losses (n,) of images x (n, ...), the network's outputs (n, classes) and labels (n,)."""
        return self._cross_entropy(output, labels)


class Distillation(LabelLoss):
    """(1 - share) * cross entropy with the labels + share * T^2 * KL(teacher at T || network at T).

    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531), section 2, with the float
    network as the teacher of the quantized one (Mishra, Marr, "Apprentice", arXiv 1711.05852).

    Parameters
    ----------
    teacher : Block
        The float network, used in inference.
    share : float
        0 to 1.
    temperature : float
        T > 0 divides both networks' outputs.
    """

    def __init__(self, teacher: Callable[[NDArray], NDArray], share: float, temperature: float):
        super().__init__()
        self._teacher, self._share = teacher, share
        self._divergence = _Divergence(temperature)
        self._divergence.hybridize(static_alloc=True, static_shape=True)

    def __call__(self, x: NDArray, output: NDArray, labels: NDArray) -> NDArray:
        """See `LabelLoss`."""
        with autograd.pause():
            answers = self._teacher(x)
        loss = self._share * self._divergence(output, answers)
        return loss if self._share == 1 else loss + (1 - self._share) * super().__call__(x, output, labels)


class _Divergence(HybridBlock):
    """T^2 * KL(softmax(answers / T) || softmax(output / T)), (n,)."""

    def __init__(self, temperature):
        super().__init__()
        self._temperature = temperature

    def hybrid_forward(self, F, output, answers):
        wanted, given = (F.log_softmax(x / self._temperature) for x in (answers, output))
        return self._temperature ** 2 * F.sum(F.exp(wanted) * (wanted - given), axis=-1)
