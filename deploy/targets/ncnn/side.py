# SPDX-License-Identifier: MIT
"""The engine as one side of a verification, and how large sums may get in it."""

from typing import Callable, Dict, Tuple

import numpy as np

from deploy.ir import Convolution, Model, consumers
from deploy.ir.packed import unpacked
from deploy.proof.compare import Observed
from deploy.targets.ncnn.constraints import WINOGRAD_EXACT, by_winograd
from deploy.targets.ncnn.network import integer_blobs, to_network
from deploy.targets.ncnn.runner import Runner


def side(model: Model, runner: Runner) -> Callable[[np.ndarray], Observed]:
    """A function from images to what the engine computes from them.

    Parameters
    ----------
    model : Model
        What the runner's files were written from.
    """
    # in the order of computation: layers that compute in place overwrite what they read
    names = [name for node in model.nodes for name in node.outputs if name in runner.blobs]
    integers = [name for name in integer_blobs(to_network(model)[0]) if name in model.shapes]
    readers = consumers(model)

    def compute(images: np.ndarray) -> Observed:
        inputs = unpacked(model, images)
        found = runner.run(inputs, names, model.shapes)
        codes = {node.name: found[name].astype(np.int32) for name in integers for node in readers[name]
                 if node is not None}
        blobs = {name: values for name, values in found.items() if name not in integers}
        return Observed({**blobs, **inputs}, codes)
    return compute


def sum_limits(model: Model) -> Dict[str, Tuple[int, str]]:
    """Node -> (largest |integer sum| that Winograd computes exactly, its name), where ncnn uses it."""
    return {node.name: (WINOGRAD_EXACT, "F(4,3)") for node in model.nodes
            if isinstance(node, Convolution) and by_winograd(node)}
