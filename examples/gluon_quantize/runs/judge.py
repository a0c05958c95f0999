# SPDX-License-Identifier: MIT
"""The integer engine as a network: the exact simulation of every engine whose arithmetic it knows."""

from typing import List

import mxnet as mx
import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Model
from deploy.proof.compare import Observed


class Judge:
    """A function from images, as the network's own, to its outputs (NDArrays), each code that of the arithmetic.

    Parameters
    ----------
    model : Model
        Lowered and settled.
    arithmetic : Arithmetic
        How the engine rounds that it stands for.
    """

    def __init__(self, model: Model, arithmetic: Arithmetic) -> None:
        self.model, self.arithmetic = model, arithmetic

    def __call__(self, images: mx.nd.NDArray) -> List[mx.nd.NDArray]:
        """The model's outputs, in its order."""
        found = engine.run(self.model, images.asnumpy(), arithmetic=self.arithmetic).outputs
        return [mx.nd.array(values) for values in found]

    def observed(self, images: np.ndarray) -> Observed:
        """The codes that its layers read."""
        found = engine.run(self.model, images, arithmetic=self.arithmetic, codes=True)
        return Observed({}, found.codes)
