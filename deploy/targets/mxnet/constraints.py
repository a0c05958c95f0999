# SPDX-License-Identifier: MIT
"""What MXNet's int8 operators can hold, as rules for float networks and as objections to plans and models.

Inputs have 8 bits, one scale and their zero at zero: uint8 where they cannot be negative, else int8 with -128. Weights
are int8 with a scale for each output channel that its largest weight decides. Halves are rounded to the even code.
"""

from typing import Any, Iterable, Iterator, List, Tuple

import numpy as np

from deploy.engine.integer import INT32_MAX, bound
from deploy.ir import Convolution, Model, quantized
from deploy.plans import entry_problems
from deploy.target import Problem
from deploy.targets.mxnet.arithmetic import OneDnnArithmetic
from deploy.targets.mxnet.fusion import Fusion
from deploy.targets.mxnet.scales import QMAX, multiplier, stored
from quantize.spec import PerChannel, PerGroup, PerTensor

NAME = "mxnet"
WITHOUT_INT8 = {"Conv1D": "convolution over one axis", "Conv2DTranspose": "transposed convolution"}
INPUT, WEIGHT = "auto8/full/even", "int8/channel/even"


def config_list() -> List[dict]:
    """Rules that make `convert_model` simulate what the operators compute."""
    return [{"op_types": ["Conv2D", "Dense"], "weight": WEIGHT, "input": INPUT},
            {"op_types": list(WITHOUT_INT8), "exclude": True}]


def check_plan(layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
    """What the operators cannot follow in a Plan; `layers` yields (PlanEntry, float Block)."""
    return [Problem(entry.path, text) for entry, block in layers if entry.quantized
            for text in [*entry_problems(entry, "MXNet", "int8 operators", WITHOUT_INT8, _format_problems),
                         *_block_problems(entry, block)]]


def _block_problems(entry, block) -> Iterator[str]:
    if entry.op_type == "Conv2D":
        yield from _groups_problems(block._kwargs["num_group"], block.weight.shape[0])


def _groups_problems(groups, outputs) -> Iterator[str]:
    if groups > 1 and groups != outputs:
        yield (f"{groups} groups with several outputs each: MXNet takes a weight scale for each group, not for "
               "each output; exclude the layer")


def _format_problems(entry) -> Iterator[str]:
    spec = entry.input
    if not _holds(spec):
        yield (f"input {spec}, but MXNet has 8 bits with one scale and without a zero point, halves rounded to the "
               f"even code; write \"input\": \"{INPUT}\"")
    if entry.winograd is not None:
        yield (f"its weight is rounded in the Winograd domain ({entry.winograd}), but MXNet rounds kernels; write "
               "\"winograd\": \"none\"")
    spec = entry.weight
    if not (spec.signed and spec.symmetric and spec.grid == "mid_tread" and spec.rounding == "half_even"
            and spec.qmax == QMAX) or not (isinstance(spec.granularity, (PerTensor, PerGroup))
                                           or spec.granularity == PerChannel(0)):
        yield (f"weight {spec}, but MXNet stores signed codes from -{QMAX} to {QMAX} without a zero point, halves "
               f"rounded to the even code; write {WEIGHT}")


def _holds(spec) -> bool:
    return (spec.grid == "mid_tread" and spec.rounding == "half_even" and spec.granularity == PerTensor()
            and spec.symmetric and (spec.qmin, spec.qmax) in ((-128, 127), (0, 255)))


def check(model: Model) -> List[Problem]:
    """All problems of a settled model."""
    fusion, arithmetic = Fusion(model), OneDnnArithmetic()
    return [Problem(node.path or node.name, text) for node in quantized(model)
            for text in _layer_problems(node, fusion, arithmetic)]


def _layer_problems(node, fusion, arithmetic) -> Iterator[str]:
    grid = node.quantization.input
    if node.inputs[0] not in fusion.grids:
        yield "what it reads is not rounded by a node of its own; deploy settles a model before it is written"
    elif isinstance(node, Convolution) and node.name not in fusion.of:
        yield ("what it puts out is read as int8 behind a clip that ends before the codes do, or rounded by no node "
               f"of its own; write \"input\": \"{INPUT}\" for the layers that read it")
    if not arithmetic.holds(grid):
        yield (f"its input has codes {grid.qmin} to {grid.qmax} and zero at {grid.zero_point}; MXNet has -128 to 127 "
               "or 0 to 255 and zero at 0. Convert with target='mxnet'")
        return
    weight = stored(node.quantization, node.bias)
    if (weight.codes != node.quantization.weight_q).any():
        yield ("its weight's codes do not reach 127 in each output channel, or a bias is too large beside them; deploy "
               "settles a model before it is written")
    largest = float(bound(node))
    if node.bias is not None:
        largest += float(np.abs(np.rint(node.bias * (weight.scale * multiplier(grid)))).max())
    if largest > INT32_MAX:
        yield f"its sums can reach {largest:.4g} with the bias, int32 ends at {INT32_MAX}; leave it float"
    if isinstance(node, Convolution):
        yield from _convolution_problems(node)


def _convolution_problems(node) -> Iterator[str]:
    if node.pad_value != 0:
        yield f"it pads with {node.pad_value:g}; MXNet pads codes with 0"
    yield from _groups_problems(node.groups, len(node.weight))
    if node.pads[:2] != node.pads[2:] and node.dilation != (1, 1):
        yield f"pads {node.pads} with dilation {node.dilation}; MXNet pads both sides alike"


