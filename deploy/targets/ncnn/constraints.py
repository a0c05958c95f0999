# SPDX-License-Identifier: MIT
"""What ncnn's int8 layers can compute, as data and as rules for networks that are still float.

Codes are signed, -127 to 127, rounded half away from zero; a blob has one scale; a Convolution or InnerProduct has one
weight scale for each output, a ConvolutionDepthWise (every convolution with groups) one for each group; biases stay
float. Held exactly as well: input grids with fewer codes, by a clip in front of the layer; and weights without a level
at zero (DoReFa, SAT), as odd codes with half the step.
Source: ncnn 1.0.20261020, src/layer/{quantize,convolution,convolutiondepthwise,innerproduct}.cpp.
"""

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, List, Tuple

from deploy.ir import Convolution
from deploy.target import Problem
from quantize.spec import PerChannel, PerGroup, PerTensor

NAME = "ncnn"
QMAX = 127

# 3x3 convolutions may be computed by Winograd's F(4,3), in int32 and, for the last division, in float32: exact up to
# the first bound on |sum of products|, one too small at times up to the second, and beyond it int32 overflows.
WINOGRAD_QMAX = 31
WINOGRAD_EXACT = 1864136
WINOGRAD_LIMIT = 3728270

# feature mask of a layer (parameter 31): compute this convolution without Winograd
NO_WINOGRAD = 64

GROUPS_ADVICE = ("ncnn computes garbage for some int8 group convolutions on x86 (wheels since 2025, packing on, "
                 "outputs of a group a multiple of 8); leave the layer float, or verify on your machine")


@dataclass(frozen=True)
class Geometry:
    """What decides how ncnn computes a convolution; weight is (outputs, inputs of a group, kh, kw)."""

    weight: Tuple[int, ...]
    stride: Tuple[int, ...] = (1, 1)
    dilation: Tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """One input and one output channel for each group."""
        return self.groups > 1 and self.weight[0] == self.groups and self.weight[1] == 1

    @property
    def grouped(self) -> bool:
        """Groups, but not depthwise."""
        return self.groups > 1 and not self.depthwise

    @property
    def winograd(self) -> bool:
        """Whether some machine's ncnn computes it by Winograd (which channels it takes differs between machines)."""
        return self.groups == 1 and self.weight[2:] == (3, 3) and self.stride == self.dilation == (1, 1)

WITHOUT_INT8 = {"Conv1D": "convolution over one axis", "Conv2DTranspose": "transposed convolution"}


def of_node(node: Convolution) -> Geometry:
    """Geometry of an `ir.Convolution`."""
    return Geometry(tuple(node.weight.shape), tuple(node.stride), tuple(node.dilation), node.groups)


def by_winograd(node: Convolution) -> bool:
    """Whether ncnn may compute an `ir.Convolution` by Winograd: the files forbid it for more than 31 levels."""
    return of_node(node).winograd and node.quantization is not None and node.quantization.weight_qmax <= WINOGRAD_QMAX


def _of_block(block) -> Geometry:
    """Geometry of a Gluon convolution."""
    options = block._kwargs
    return Geometry(tuple(block.weight.shape), tuple(options["stride"]), tuple(options["dilate"]),
                    options["num_group"])


def _convolutions(net) -> Iterator[Tuple[str, Geometry]]:
    """(structural path, Geometry) of every `nn.Conv2D` of a float network."""
    seen, stack = set(), [("", net)]
    while stack:
        path, block = stack.pop()
        if id(block) in seen:
            continue
        seen.add(id(block))
        if type(block).__name__ == "Conv2D":
            yield path, _of_block(block)
        stack.extend((path + "." + name if path else name, child) for name, child in reversed(block._children.items()))


def config_list(net: Any, winograd: bool = False) -> list:
    """Rules that make `convert_model` simulate what ncnn computes.

    Parameters
    ----------
    net : HybridBlock
        A float network whose parameters have their shapes.
    winograd : bool
        Weights of 3x3 convolutions with stride 1 get 31 levels on each side, with which ncnn's Winograd is safe but for
        very wide layers; else they have 127, and the layer is computed without Winograd.
    """
    found = list(_convolutions(net))
    rules = [{"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "int8"},
             {"op_types": list(WITHOUT_INT8), "exclude": True}]
    grouped = [path for path, geometry in found if geometry.grouped]
    if grouped:
        rules.append({"op_names": grouped, "weight": "int8/group", "exclude": True})
    small = [path for path, geometry in found if geometry.winograd]
    if winograd and small:
        rules.append({"op_names": small, "weight": "int6/channel"})
    return rules


def check_plan(layers: Iterable[Tuple[Any, Any]], winograd: bool = False) -> List[Problem]:
    """What ncnn cannot follow in a Plan.

    Parameters
    ----------
    layers : iterable of (PlanEntry, Block)
        Every layer of the plan with its float block.
    """
    problems, layers = [], list(layers)
    outputs = any(entry.output is not None for entry, _ in layers)
    for entry, block in layers:
        if not entry.quantized:
            continue
        geometry = _of_block(block) if entry.op_type == "Conv2D" else None
        problems += [Problem(entry.path, text) for text in _plan_problems(entry, geometry, winograd, outputs)]
        if geometry is not None and geometry.grouped:
            problems.append(Problem(entry.path, GROUPS_ADVICE, fatal=False))
    return problems


def _plan_problems(entry, geometry, winograd, outputs) -> Iterator[str]:
    if entry.op_type in WITHOUT_INT8:
        yield f"ncnn has no int8 {WITHOUT_INT8[entry.op_type]}; exclude the layer"
        return
    if entry.output is not None and not _holds_input(entry.output):
        yield _input_problem("output", entry.output)
    if entry.input is None and entry.weight is None:
        return
    # an input that is not rounded here may lie on the grid of an output before it: lowering knows
    if entry.weight is None or entry.input is None and not outputs:
        operand = "input" if entry.input is None else "weight"
        yield (f"{operand} float, but ncnn computes in integers with both operands quantized, or in float; write a "
               "format for both, or exclude the layer")
        return
    if entry.input is not None and not _holds_input(entry.input):
        yield _input_problem("input", entry.input)
    if entry.winograd is not None:
        yield (f"its weight is rounded in the Winograd domain ({entry.winograd}), but ncnn stores kernels on a grid; "
               "write \"winograd\": \"none\"")
        return
    yield from _weight_problems(entry.weight, geometry, winograd)


def _input_problem(operand, spec) -> str:
    given = str(spec).replace("/layer", "")
    return (f"{operand} {given}, but ncnn takes int8 (-127 to 127) without a zero point, or fewer of its codes; write "
            f"\"{operand}\": \"int8\"")


def _holds_input(spec) -> bool:
    """Whether every code is one of ncnn's; what fewer codes cut off is cut off in front of the layer."""
    return (spec.symmetric and spec.grid == "mid_tread" and spec.rounding == "half_away"
            and spec.granularity == PerTensor() and spec.qmin >= -QMAX and spec.qmax <= QMAX)


def _largest_code(spec) -> int:
    """The largest magnitude of the integers that stand for a weight: odd ones where no level is at zero."""
    return max(-spec.qmin, spec.qmax) if spec.grid == "mid_tread" else 2 * spec.qmax + 1


def _weight_problems(spec, geometry, winograd) -> Iterator[str]:
    if not (spec.signed and spec.symmetric) or spec.rounding != "half_away" or _largest_code(spec) > QMAX:
        yield f"weight {spec}, but ncnn stores signed codes from -{QMAX} to {QMAX} without a zero point, " \
              "rounded half away from zero; write for example int8/channel" \
              + ("; without a level at zero there can be 7 bits at most" if spec.grid == "mid_rise" else "")
    elif winograd and geometry is not None and geometry.winograd and _largest_code(spec) > WINOGRAD_QMAX:
        yield f"weight {spec}, but Winograd convolutions have at most {WINOGRAD_QMAX} levels on each side; " \
              "write int6/channel, or use the target without winograd"
    if not _one_scale_per_output(spec, geometry):
        yield f"weight {spec}, but ncnn has one weight scale for each group of a convolution with groups; write " \
              f"int{spec.bits}/group"


def _one_scale_per_output(spec, geometry) -> bool:
    """Whether ncnn can store as many scales as the format has."""
    if geometry is not None and geometry.grouped:
        return spec.granularity in (PerTensor(), PerGroup(geometry.groups))
    return isinstance(spec.granularity, (PerTensor, PerGroup)) or spec.granularity == PerChannel(0)
