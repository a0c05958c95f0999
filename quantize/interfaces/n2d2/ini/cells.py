# SPDX-License-Identifier: MIT
"""Sections of an INI file that are cells."""

from typing import Any, Callable, Dict

from quantize.errors import ConfigError
from quantize.interfaces.n2d2 import cells
from quantize.interfaces.n2d2.ini.options import LARGEST, Options
from quantize.interfaces.n2d2.ini.parts import activation, cell_quantizer, dims, filler, solver

#: which models there are; all compute on MXNet's device here
MODELS = ("Frame", "Frame_CUDA", "Frame_EXT_CUDA")
DATA_TYPES = ("Float32", "float32", "float")
DEFAULT_ACTIVATION = "Linear"


def made(options: Options) -> cells.Cell:
    """The cell that a section describes; ConfigError, with its place, for what it cannot be."""
    kind = options.text("Type", choices=tuple(KINDS))
    names = options.names("Input")
    options.text("Model", MODELS[0], MODELS)
    options.text("DataType", DATA_TYPES[0], DATA_TYPES)
    common: Dict[str, Any] = {"name": options.section.name, "inputs": names}
    try:
        cell = KINDS[kind](options, common)
    except ConfigError as error:
        if str(error).startswith(options.document.path):
            raise
        raise options.document.error(options.section.line, f"[{options.section.name}] {error}") from None
    options.finish()
    return cell


def weighted(options: Options) -> Dict[str, Any]:
    """What cells with weights have."""
    no_bias = options.switch("NoBias")
    if not options.switch("BackPropagate", True):
        raise options.error("BackPropagate", "cells are trained with all that comes before them; leave it out")
    found = {"no_bias": no_bias, "quantizer": cell_quantizer(options),
             "weights_filler": filler(options, "WeightsFiller"), "bias_filler": filler(options, "BiasFiller"),
             "weights_solver": solver(options, ["Solvers", "WeightsSolver"]),
             "bias_solver": solver(options, ["Solvers", "BiasSolver"])}
    return found


def _outputs(options: Options, common: Dict[str, Any], default: str = DEFAULT_ACTIVATION) -> Dict[str, Any]:
    found = dict(common, activation=activation(options, default))
    if "NbOutputs" in options:
        found["nb_outputs"] = options.whole("NbOutputs", least=1)
    else:
        options.text("NbOutputs", "")
    return found


def _mapping(options: Options) -> int:
    """Groups of channels; every other mapping must be that of all to all, or of one to one for pools."""
    part = options.part("Mapping")
    groups = part.whole("NbGroups", 1, 1)
    for key in ("Size", "SizeX", "SizeY", "Stride", "StrideX", "StrideY"):
        if part.whole(key, 1) != 1:
            raise part.error(key, "connects maps in a pattern, which is not there; NbGroups is")
    part.finish()
    return groups


def _conv(options: Options, common: Dict[str, Any]) -> cells.Cell:
    kind = cells.Deconv if options.text("Type") == "Deconv" else cells.Conv
    for key in ("SubSample", "SubSampleX", "SubSampleY"):
        if options.whole(key, 1) != 1:
            raise options.error(key, "outputs are not left out behind a convolution; use Stride")
    more = dict(_outputs(options, common), **weighted(options))
    if "nb_outputs" not in more:
        options.text("NbOutputs")
        options.whole("NbOutputs")
    return kind(None, more.pop("nb_outputs"), dims(options, "Kernel", ("KernelWidth", "KernelHeight"), None),
                stride_dims=dims(options, "Stride", ("StrideX", "StrideY"), 1),
                padding_dims=dims(options, "Padding", ("PaddingX", "PaddingY"), 0),
                dilation_dims=dims(options, "Dilation", ("DilationX", "DilationY"), 1),
                nb_groups=_mapping(options), **more)


def _fc(options: Options, common: Dict[str, Any]) -> cells.Cell:
    options.whole("NbOutputs", least=1)
    return cells.Fc(None, **_outputs(options, common), **weighted(options))


def _batch_norm(options: Options, common: Dict[str, Any]) -> cells.Cell:
    return cells.BatchNorm2d(None, epsilon=options.number("Epsilon", 0.0),
                             moving_average_momentum=options.number("MovingAverageMomentum", 0.1),
                             scale_solver=solver(options, ["Solvers", "ScaleSolver"]),
                             bias_solver=solver(options, ["Solvers", "BiasSolver"]), **_outputs(options, common))


def _pool(options: Options, common: Dict[str, Any]) -> cells.Cell:
    pooling = options.text("Pooling", "Max", ("Max", "Average"))
    _mapping(options)
    return cells.Pool2d(dims(options, "Pool", ("PoolWidth", "PoolHeight"), None),
                        stride_dims=dims(options, "Stride", ("StrideX", "StrideY"), 1),
                        padding_dims=dims(options, "Padding", ("PaddingX", "PaddingY"), 0), pooling=pooling,
                        **_outputs(options, common))


def _dropout(options: Options, common: Dict[str, Any]) -> cells.Cell:
    return cells.Dropout(dropout=options.number("Dropout", 0.5), **_outputs(options, common))


def _softmax(options: Options, common: Dict[str, Any]) -> cells.Cell:
    if options.whole("GroupSize", 0):
        raise options.error("GroupSize", "softmax goes over all channels here")
    return cells.Softmax(options.switch("WithLoss"), **_outputs(options, common))


def _elem_wise(options: Options, common: Dict[str, Any]) -> cells.Cell:
    return cells.ElemWise(options.text("Operation", "Sum", cells.operators.OPERATIONS),
                          weights=options.numbers("Weights"), shifts=options.numbers("Shifts"),
                          **_outputs(options, common))


def _padding(options: Options, common: Dict[str, Any]) -> cells.Cell:
    sizes = []
    for key in ("TopPadding", "BottomPadding", "LeftPadding", "RightPadding"):
        sizes.append(options.whole(key, 0, -LARGEST))
    return cells.Padding(*sizes, **_outputs(options, common))


def _resize(options: Options, common: Dict[str, Any]) -> cells.Cell:
    return cells.Resize(options.whole("OutputWidth", least=1), options.whole("OutputHeight", least=1),
                        options.text("Mode", "BilinearTF"), align_corners=options.switch("AlignCorners", True),
                        **_outputs(options, common))


def _threshold(options: Options, common: Dict[str, Any]) -> cells.Cell:
    return cells.Threshold(options.number("Threshold"), operation=options.text("Operation", "Binary"),
                           max_value=options.number("MaxValue", 1.0), **_outputs(options, common))


def _fractional(options: Options, common: Dict[str, Any]) -> cells.Cell:
    _mapping(options)
    return cells.FMP(options.number("ScalingRatio"), overlapping=options.switch("Overlapping", True),
                     pseudo_random=options.switch("PseudoRandom", True), **_outputs(options, common))


def _unpool(options: Options, common: Dict[str, Any]) -> cells.Cell:
    window = dims(options, "Pool", ("PoolWidth", "PoolHeight"), None)
    if dims(options, "Stride", ("StrideX", "StrideY"), window[0]) != window:
        raise options.error("Stride", "windows of an Unpool stand side by side here: Stride is their size")
    pooling = options.text("Pooling", choices=("Average", "Max"))
    return cells.Unpool(window, pooling=pooling, arg_max=options.text("ArgMax") if pooling == "Max" else "",
                        **_outputs(options, common))


KINDS: Dict[str, Callable[[Options, Dict[str, Any]], cells.Cell]] = {
    "Activation": lambda options, common: cells.Activation(**_outputs(options, common)),
    "BatchNorm": _batch_norm,
    "Concat": lambda options, common: cells.Concat(**_outputs(options, common)),
    "Conv": _conv, "Deconv": _conv, "Dropout": _dropout, "ElemWise": _elem_wise, "FMP": _fractional, "Fc": _fc,
    "Padding": _padding, "Pool": _pool,
    "Reshape": lambda options, common: cells.Reshape(options.wholes("Dims"), **_outputs(options, common)),
    "Resize": _resize,
    "Scaling": lambda options, common: cells.Scaling(options.number("Factor"), **_outputs(options, common)),
    "Softmax": _softmax, "Threshold": _threshold,
    "Transpose": lambda options, common: cells.Transpose(options.wholes("Perm"), **_outputs(options, common)),
    "Unpool": _unpool,
}
