# SPDX-License-Identifier: MIT
"""Gluon layers as records: what their constructors were given, and the layers made from that again."""

from typing import Any, Callable, Dict, Optional, Tuple, Type

from mxnet.gluon import Block, nn

from quantize.convert.layers import LAYERS
from quantize.errors import ModelFileError
from quantize.escape import one_line
from quantize.nn import BypassBatchNorm, MeanGlobalAvgPool2D, Place, ReLU6, SkippableReLU, WinogradConv2D
from quantize.nn.batchnorm import FrozenBatchNorm
from quantize.nn.layer import QuantizedBlock, retyped
from quantize.onednn import float_type

Options = Dict[str, Any]
CONVOLUTIONS = (nn.Conv1D, nn.Conv2D, nn.Conv3D)
TRANSPOSED = (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)
POOLS = (nn.MaxPool1D, nn.MaxPool2D, nn.MaxPool3D, nn.AvgPool1D, nn.AvgPool2D, nn.AvgPool3D)
GLOBAL_POOLS = (nn.GlobalMaxPool1D, nn.GlobalMaxPool2D, nn.GlobalMaxPool3D, nn.GlobalAvgPool1D, nn.GlobalAvgPool2D,
                nn.GlobalAvgPool3D)


def _convolution(layer: Block) -> Options:
    kept, weight = layer._kwargs, layer.weight.shape
    found = {"channels": kept["num_filter"], "kernel_size": kept["kernel"], "strides": kept["stride"],
             "padding": kept["pad"], "dilation": kept["dilate"], "groups": kept["num_group"],
             "layout": kept["layout"], "use_bias": layer.bias is not None,
             "in_channels": weight[1] * kept["num_group"]}
    if isinstance(layer, TRANSPOSED):
        found.update(in_channels=weight[0], output_padding=kept["adj"])
    return found


def _dense(layer: Block) -> Options:
    return {"units": layer._units, "use_bias": layer.bias is not None, "flatten": layer._flatten,
            "in_units": layer.weight.shape[1]}


def _batch_norm(layer: Block) -> Options:
    kept = layer._kwargs
    return {"axis": kept["axis"], "momentum": kept["momentum"], "epsilon": kept["eps"], "scale": not kept["fix_gamma"],
            "use_global_stats": kept["use_global_stats"], "in_channels": layer.gamma.shape[0]}


def _pool(layer: Block) -> Options:
    kept = layer._kwargs
    found = {"pool_size": kept["kernel"], "strides": kept["stride"], "padding": kept["pad"],
             "layout": kept["layout"], "ceil_mode": kept["pooling_convention"] == "full"}
    if "count_include_pad" in kept:
        found["count_include_pad"] = kept["count_include_pad"]
    return found


# exact type -> what its constructor is given; a subclass of somebody's own is none of these
_OPTIONS: Dict[type, Callable[[Block], Options]] = {
    **dict.fromkeys(CONVOLUTIONS + TRANSPOSED, _convolution), nn.Dense: _dense,
    **dict.fromkeys((nn.BatchNorm, FrozenBatchNorm, BypassBatchNorm), _batch_norm),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys((*GLOBAL_POOLS, MeanGlobalAvgPool2D), lambda layer: {"layout": layer._kwargs["layout"]}),
    **dict.fromkeys((nn.Activation, SkippableReLU), lambda layer: {"activation": layer._act_type}),
    **dict.fromkeys((ReLU6, Place), lambda layer: {}),
}
# the quantized type -> the float type it is made from
_QUANTIZED = {**{row.quantized: row.gluon for row in LAYERS if row.quantized is not None}, WinogradConv2D: nn.Conv2D}
# made by Gluon's constructor, and then told what they have become
_BECOME = {BypassBatchNorm: nn.BatchNorm, FrozenBatchNorm: nn.BatchNorm, SkippableReLU: nn.Activation,
           MeanGlobalAvgPool2D: nn.GlobalAvgPool2D}
# what constructors are given, and nothing else: files know no initializers, and no parameters of others
_NAMES = ("activation axis ceil_mode channels count_include_pad dilation epsilon flatten groups in_channels in_units "
          "kernel_size layout momentum output_padding padding pool_size scale strides units use_bias use_global_stats")
NAMES = frozenset(_NAMES.split())
# the least that numbers may be: MXNet divides by some of them without a look, which ends the process
_LEAST = {**dict.fromkeys(("channels", "dilation", "groups", "kernel_size", "pool_size", "strides", "units"), 1),
          **dict.fromkeys(("in_channels", "in_units", "output_padding", "padding"), 0)}
KINDS: Dict[str, Any] = {kind.__name__: kind for kind in (*_OPTIONS, *_QUANTIZED)}


def is_layer(block: Block) -> bool:
    """Whether a block is kept as a layer; all others are what their operators do."""
    return type(block) in _QUANTIZED or (float_type(block) in _OPTIONS and not getattr(block, "fuse_relu", False))


def float_kind(block: Block) -> type:
    """The Gluon type of a layer, quantized or not."""
    return _QUANTIZED.get(type(block), float_type(block))


def record_of(layer: Block) -> Dict[str, Any]:
    """A layer, and the activation in it, as JSON can hold it."""
    kind = float_kind(layer)
    found = {"type": type(layer).__name__, "prefix": layer.prefix, "options": _OPTIONS[kind](layer)}
    activation = layer._children.get("act")
    if activation is not None:
        found["activation"] = record_of(activation)
    return found


def made(record: Any, where: str, as_float: bool = False) -> Tuple[Block, Optional[type]]:
    """(A float layer with parameters that have no values yet, the type that it is to become; None where it stays).

    `as_float`: what conversion makes of layers, it does not become.

    Raises ModelFileError for a record that makes no layer.
    """
    kind = KINDS.get(record["type"])
    if kind is None:
        raise ModelFileError(f"{where}: {record['type']!r} is no layer; known: {', '.join(sorted(KINDS))}")
    gluon = _QUANTIZED.get(kind) or _BECOME.get(kind) or kind
    options = {name: tuple(value) if isinstance(value, list) else value
               for name, value in record["options"].items()}
    if not NAMES.issuperset(options):
        raise ModelFileError(f"{where}: {sorted(set(options) - NAMES)[0]!r} is no option of a layer")
    _check_numbers(options, where)
    try:
        layer = gluon(prefix=record["prefix"], **options)
    except Exception as error:  # whatever Gluon's constructors raise for values that cannot be
        raise ModelFileError(f"{where}: a {gluon.__name__} cannot be made of {options}: {one_line(error)}") from None
    if record.get("activation") is not None:
        inner, become = made(record["activation"], f"{where}.act", as_float)
        layer.act = become_kind(inner, become)
    stays = kind is gluon or (as_float and issubclass(kind, (QuantizedBlock, SkippableReLU)))
    return layer, None if stays else kind


def _check_numbers(options: Dict[str, Any], where: str) -> None:
    for name, least in _LEAST.items():
        value = options.get(name)
        for part in value if isinstance(value, tuple) else (value,):
            if part is not None and not (type(part) is int and least <= part < 2 ** 31):
                raise ModelFileError(f"{where}: {name}={str(value)[:60]!r}; whole numbers from {least} on are wanted")


def become_kind(layer: Block, kind: Optional[Type[Any]]) -> Block:
    """A layer retyped: quantized (without quantizers yet), stepped aside, frozen."""
    if kind is None:
        return layer
    if kind is FrozenBatchNorm:
        FrozenBatchNorm.freeze(layer)
        return layer
    return kind.from_float(layer, ()) if kind is SkippableReLU else kind.from_float(layer)


def stepped_back(aside: BypassBatchNorm) -> nn.BatchNorm:
    """The BatchNorm that stepped aside, computing, on the same parameters: a layer that folds it holds it."""
    return retyped(aside, nn.BatchNorm)
