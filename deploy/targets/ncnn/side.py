# SPDX-License-Identifier: MIT
"""The engine as one side of a verification, and where it is known to compute something else than its arithmetic."""

from typing import Callable, Dict, Tuple

import numpy as np

from deploy.ir import Convolution, InnerProduct, Model, Pooling, Reduce, Softmax, consumers
from deploy.proof.compare import Observed
from deploy.targets.ncnn.constraints import WINOGRAD_EXACT, by_winograd
from deploy.targets.ncnn.network import integer_blobs, to_network
from deploy.targets.ncnn.runner import Runner

PACKED = 8  # channels that one packed element holds
PACKED_DEPTHWISE = ("with packing on and channels a multiple of 8, ncnn's x86 depthwise kernel divides by the scales "
                    "with the processor's approximate reciprocal (up to 3.7e-4 relative, other on Intel than on AMD)")
FLOAT_CONVOLUTION = "float convolution: Winograd and packed kernels add in another order"
FLOAT_SUM = "float sums: packed kernels add in another order, which decides where a value lies between two codes"
FLOAT_INNER_PRODUCT = "float fully connected layer: its weights are stored as float16"


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
        found = runner.run(images, names, model.shapes)
        codes = {node.name: found[name].astype(np.int32) for name in integers for node in readers[name]
                 if node is not None}
        blobs = {name: values for name, values in found.items() if name not in integers}
        return Observed(dict(blobs, **{model.inputs[0]: images}), codes)
    return compute


def default_deviations(model: Model) -> Dict[str, str]:
    """Node -> why its output may differ under ncnn's default options; other nodes only hand on what they get."""
    found = {}
    for node in model.nodes:
        if isinstance(node, Convolution):
            if node.quantization is None:
                found[node.name] = FLOAT_CONVOLUTION
            elif node.depthwise and node.groups % PACKED == 0:
                found[node.name] = PACKED_DEPTHWISE
        elif isinstance(node, InnerProduct) and node.quantization is None:
            found[node.name] = FLOAT_INNER_PRODUCT
        elif isinstance(node, (Reduce, Softmax)) or isinstance(node, Pooling) and node.kind == "avg":
            found[node.name] = FLOAT_SUM
    return found


def sum_limits(model: Model) -> Dict[str, Tuple[int, str]]:
    """Node -> (largest |integer sum| that Winograd computes exactly, its name), where ncnn uses it."""
    return {node.name: (WINOGRAD_EXACT, "F(4,3)") for node in model.nodes
            if isinstance(node, Convolution) and by_winograd(node)}
