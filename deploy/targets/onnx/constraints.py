# SPDX-License-Identifier: MIT
"""What integer layers of an ONNX file can hold, as rules for float networks and as objections to plans and models.

Activations have 8 bits and one scale; those that cannot be negative begin at zero, others have their zero point in the
middle (or anywhere: option `affine`). Weights are signed, symmetric, with a scale for each output; biases are int32 in
units of the sums. Halves are rounded to the even code.
"""

from typing import Any, Iterable, Iterator, List, Tuple

import numpy as np

from deploy.engine.integer import INT32_MAX, bound
from deploy.fusing import endings, rounded_blobs
from deploy.ir import Convolution, Model, quantized
from deploy.plans import entry_problems
from deploy.target import Problem
from deploy.targets.onnx.arithmetic import OrtArithmetic, bias_codes
from quantize.spec import PerChannel, PerGroup, PerTensor

NAME = "onnx"
QMAX = 127
WITHOUT_INT8 = {"Conv1D": "convolution over one axis", "Conv2DTranspose": "transposed convolution"}


def config_list(affine: bool, weight_bits: int) -> List[dict]:
    """Rules that make `convert_model` simulate what the files compute."""
    inputs = "auto8/affine/full/even" if affine else "auto8/full/even"
    return [{"op_types": ["Conv2D", "Dense"], "weight": f"int{weight_bits}/channel/even", "input": inputs},
            {"op_types": list(WITHOUT_INT8), "exclude": True}]


def check_plan(layers: Iterable[Tuple[Any, Any]], weight_bits: int) -> List[Problem]:
    """What the files cannot follow in a Plan; `layers` yields (PlanEntry, float Block)."""
    entries = [entry for entry, _ in layers if entry.quantized]
    outputs = any(entry.output is not None for entry in entries)
    return [Problem(entry.path, text) for entry in entries
            for text in entry_problems(entry, "ONNX Runtime", "integer layers", WITHOUT_INT8,
                                       lambda entry: _format_problems(entry, weight_bits),
                                       (lambda entry: _range_problems("output", entry.output)) if outputs else None)]


def _range_problems(operand, spec) -> Iterator[str]:
    if spec.grid != "mid_tread" or spec.rounding != "half_even" or spec.granularity != PerTensor() or spec.bits > 8:
        yield (f"{operand} {spec}, but a file takes 8 bits or fewer with one scale, halves rounded to the even code; "
               f"write \"{operand}\": \"auto8/full/even\"")


def _format_problems(entry, weight_bits) -> Iterator[str]:
    if entry.input is not None:
        yield from _range_problems("input", entry.input)
    if entry.winograd is not None:
        yield (f"its weight is rounded in the Winograd domain ({entry.winograd}), but a file stores kernels on a grid; "
               "write \"winograd\": \"none\"")
        return
    yield from _weight_problems(entry.weight, weight_bits)


def _weight_problems(spec, weight_bits) -> Iterator[str]:
    largest = spec.qmax if spec.grid == "mid_tread" else 2 * spec.qmax + 1
    allowed = 2 ** (weight_bits - 1) - 1
    even = spec.rounding == "half_even" or spec.grid == "mid_rise"
    if not (spec.signed and spec.symmetric) or not even or largest > allowed:
        yield (f"weight {spec}, but a file stores signed codes from -{allowed} to {allowed} without a zero point, "
               f"halves rounded to the even code; write int{weight_bits}/channel/even")
    if not (isinstance(spec.granularity, (PerTensor, PerGroup)) or spec.granularity == PerChannel(0)):
        yield f"weight {spec}, but a file has one weight scale for each output; write int{weight_bits}/channel/even"


def check(model: Model, weight_bits: int) -> List[Problem]:
    """All problems of a settled model."""
    rounded, ends, problems = rounded_blobs(model), endings(model), []
    arithmetic = OrtArithmetic()
    for node in quantized(model):
        where = node.path or node.name
        problems += [Problem(where, text) for text in _layer_problems(node, rounded, arithmetic, weight_bits)]
        if isinstance(node, Convolution) and node.name not in ends and node.outputs[0] not in model.outputs:
            problems.append(Problem(where, "what it puts out is not rounded right away, so that ONNX Runtime computes "
                                           "this convolution in float; a ReLU or nothing may stand behind it",
                                    fatal=False))
    return problems


def _layer_problems(node, rounded, arithmetic, weight_bits) -> Iterator[str]:
    grid, weight_q = node.quantization.input, node.quantization.weight_q.astype(np.int64)
    if node.inputs[0] not in rounded:
        yield "its input is not rounded by a node of its own; deploy settles a model before it is written"
    if not arithmetic.holds(grid) or grid.qmax - grid.qmin != 255:
        yield (f"its input has codes {grid.qmin} to {grid.qmax}, a file has -128 to 127 or 0 to 255. Convert with "
               "target='onnx'")
    allowed = 2 ** (weight_bits - 1) - 1
    if node.quantization.weight_qmax > QMAX:
        yield f"its weight's codes may reach {node.quantization.weight_qmax}, {allowed} is allowed"
    elif weight_q.size and np.abs(weight_q).max() > allowed:
        yield f"weight codes reach {int(np.abs(weight_q).max())}, {allowed} is allowed"
    largest = bound(node) + float(np.abs(bias_codes(node)).max(initial=0))
    if largest > INT32_MAX:
        yield (f"its sums can reach {largest:.4g} with the bias, int32 ends at {INT32_MAX}. Use fewer bits for its "
               "weights, or leave it float")
    if isinstance(node, Convolution) and node.pad_value != 0:
        yield f"it pads with {node.pad_value:g}; a file pads with 0"
