# SPDX-License-Identifier: MIT
"""The multipliers that ncnn's int8 layers hold, as its binary file and its calibration table have them."""

from typing import Dict, Tuple

import numpy as np

from deploy.ir import Convolution, Model, QuantizedNode, quantized
from deploy.targets.ncnn.arithmetic import multiplier
from quantize.errors import DeployError

# ncnn2int8 finds "<layer>_param_0" in a buffer of 256 bytes, and takes every key with "_param_" in it for a weight's
MAX_NAME = 255 - len("_param_0")


def table_scales(model: Model) -> Dict[str, Tuple[np.ndarray, np.float32]]:
    """What a calibration table says about a quantized model: layer -> (weight multipliers, input multiplier).

    Layers that are to stay float are left out: ncnn2int8 quantizes those with an input line, and a weight line alone is
    of no use.

    Raises
    ------
    DeployError
        With every layer that a table cannot describe.
    """
    problems = [f"{node.path or node.name}: {text}" for node in quantized(model) for text in _problems(node)]
    if problems:
        raise DeployError("no calibration table can describe this network:\n" + "\n".join(problems))
    return {node.name: multipliers(node) for node in quantized(model)}


def multipliers(node: QuantizedNode) -> Tuple[np.ndarray, np.float32]:
    """(weight multipliers, input multiplier) of a quantized layer, float32.

    A Convolution without groups and an InnerProduct have one for each output, a convolution with groups one for each
    group; DeployError where its channels need more.
    """
    quantization = node.quantization
    steps = np.asarray(quantization.weight_scale, np.float32)
    if isinstance(node, Convolution) and node.groups != 1:
        steps = steps.reshape(node.groups, -1)
        if (steps != steps[:, :1]).any():
            raise DeployError(f"{node.path or node.name}: the channels of a group have different weight scales, ncnn "
                              "holds one for each group"
                              )
        steps = steps[:, 0]
    return multiplier(steps), np.float32(multiplier(quantization.input.scale))


def _problems(node):
    if "_param_" in node.name or len(node.name.encode("utf-8")) > MAX_NAME:
        yield (f"{node.name[:40]!r}: names in a table have no '_param_' and at most {MAX_NAME} bytes; rename the layer")
    try:
        with np.errstate(over="ignore", divide="ignore"):
            values = np.append(*multipliers(node))
    except DeployError as error:
        yield str(error).split(": ", 1)[1]
        return
    if not (np.isfinite(values) & (values > 0)).all():
        yield "its multipliers are not all finite and above 0; dead channels get the step 1"
