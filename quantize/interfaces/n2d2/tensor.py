# SPDX-License-Identifier: MIT
"""What goes from a provider through cells to a loss, and knows its way back."""

from typing import TYPE_CHECKING, Optional

import mxnet as mx
import numpy as np

from quantize.errors import ConfigError

if TYPE_CHECKING:
    from quantize.interfaces.n2d2.cells.deepnet import DeepNetCell


class Tensor:
    """A batch.

    Attributes
    ----------
    value : NDArray
    labels : array of int, (N,)
    logits : NDArray or None
        What a softmax with loss was given.
    losses : NDArray or None
        Of each image.
    """

    def __init__(self, value: mx.nd.NDArray, labels: np.ndarray, deepnet: Optional["DeepNetCell"] = None) -> None:
        self.value, self.labels, self._deepnet = value, labels, deepnet
        self.logits: Optional[mx.nd.NDArray] = None
        self.losses: Optional[mx.nd.NDArray] = None

    def followed_by(self, value: mx.nd.NDArray, deepnet: Optional["DeepNetCell"] = None) -> "Tensor":
        """The same images behind another step."""
        return Tensor(value, self.labels, deepnet or self._deepnet)

    @property
    def shape(self) -> tuple:
        """Of the value."""
        return self.value.shape

    def get_deepnet(self) -> "DeepNetCell":
        """The network that it came through; ConfigError before any."""
        if self._deepnet is None:
            raise ConfigError("these images have not been through a network yet")
        return self._deepnet

    def back_propagate(self) -> None:
        """Gradients of the loss; ConfigError where there is none."""
        if self.losses is None:
            raise ConfigError("there is no loss to go back from: call a target (n2d2.target.Score) first, in learn()")
        self.losses.backward()

    def update(self) -> None:
        """One step of every solver."""
        self.get_deepnet().update(len(self.labels))

    def __getitem__(self, index: int) -> float:
        """A number of the value; the mean loss behind a target."""
        if self.losses is not None:
            return float(self.losses.mean().asscalar())
        return float(self.value.reshape(-1)[index].asscalar())

    def to_numpy(self) -> np.ndarray:
        """The value."""
        return self.value.asnumpy()

    def __repr__(self) -> str:
        return f"Tensor{self.shape}"
