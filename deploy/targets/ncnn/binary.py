# SPDX-License-Identifier: MIT
"""ncnn's .bin: the weights of all layers one after another, little endian, in the order in which ncnn loads them.

A weight starts with a tag that says how it is stored; everything else (bias, statistics, scales) is plain float32. What
a layer has, and how many numbers, is written nowhere in the file: it follows from the layer's parameters.
"""

from dataclasses import dataclass
from typing import Dict, Mapping, Tuple

import numpy as np

from deploy.targets.ncnn.param import Layer, Network
from quantize.errors import DeployError, ModelFileError

TAGS: Dict[int, np.dtype] = {0: np.dtype("<f4"), 0x01306B47: np.dtype("<f2"), 0x000D4B38: np.dtype("i1")}
TINY = 1e-30  # ncnn's writers store less as 0: denormal numbers are slow

PLAIN = frozenset([
    "AbsVal", "BinaryOp", "Clip", "Concat", "Crop", "Dropout", "ELU", "Eltwise", "Erf", "Flatten", "GELU",
    "HardSigmoid", "HardSwish", "Input", "Interp", "Mish", "Noop", "Padding", "Permute", "Pooling", "ReLU",
    "Reduction", "Reshape", "ShuffleChannel", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Swish", "TanH",
    "UnaryOp",
])


@dataclass(frozen=True)
class Field:
    """One array of a layer: its name, its number of elements, and whether a tag stands before it."""

    name: str
    count: int
    tagged: bool = False


def stores(layer: Layer) -> bool:
    """Whether what a layer of this type stores is known here."""
    return layer.type in PLAIN or layer.type in _FIELDS


def fields(layer: Layer) -> Tuple[Field, ...]:
    """What the .bin holds for a layer, in its order; DeployError for a type that this project does not know."""
    if layer.type in PLAIN:
        return ()
    if not stores(layer):
        raise DeployError(f"{layer.name}: what a layer of type {layer.type} stores is not known here")

    def size(number):
        value = layer.parameters.get(number, 0)
        if not isinstance(value, int) or value < 0:
            raise DeployError(f"{layer.name}: parameter {number} of a layer of type {layer.type} must be a whole "
                              f"number, not {value}")
        return value
    return tuple(_FIELDS[layer.type](size))


def _weighted(outputs, weight, bias):
    return [Field("weight", weight, tagged=True)] + ([Field("bias", outputs)] if bias else [])


def _scales(count, term):
    if not term:
        return []
    output = [Field("output_scale", 1)] if term > 100 else []
    return [Field("weight_scale", count), Field("input_scale", 1)] + output


def _convolution(p):
    return _weighted(p(0), p(6), p(5)) + _scales(p(0), p(8))


def _grouped_convolution(p):
    return _weighted(p(0), p(6), p(5)) + _scales(1 if p(8) % 100 == 2 else p(7), p(8))


def _inner_product(p):
    return _weighted(p(0), p(2), p(1)) + _scales(p(0), p(8))


def _memory_data(p):
    size = 1
    for axis in (0, 1, 2, 11):
        size *= p(axis) or 1
    return [Field("data", size)]


_FIELDS = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _grouped_convolution,
    "Deconvolution": lambda p: _weighted(p(0), p(6), p(5)),
    "DeconvolutionDepthWise": lambda p: _weighted(p(0), p(6), p(5)),
    "InnerProduct": _inner_product,
    "BatchNorm": lambda p: [Field(name, p(0)) for name in ("slope", "mean", "variance", "bias")],
    "Scale": lambda p: [Field(name, p(0)) for name in (("scale", "bias") if p(1) else ("scale",))],
    "MemoryData": _memory_data,
    "PReLU": lambda p: [Field("slope", p(0))],
}

Weights = Mapping[str, Mapping[str, np.ndarray]]


def write_binary(network: Network, weights: Weights) -> bytes:
    """The file's content.

    Parameters
    ----------
    weights : dict
        Layer's name -> field's name -> array. A weight of int8 is stored as int8, all else as float32.
    """
    parts = []
    for layer in network.layers:
        for item in fields(layer):
            array = np.ascontiguousarray(weights[layer.name][item.name]).reshape(-1)
            if array.size != item.count:
                raise DeployError(f"{layer.name}: {array.size} numbers for its {item.name}, the .param says "
                                  f"{item.count}")
            parts.append(_stored(array, item, layer))
    return b"".join(parts)


def _stored(array, item, layer):
    if item.tagged and array.dtype == np.int8:
        tag = 0x000D4B38
    else:
        tag, array = 0, array.astype("<f4")
        if not np.isfinite(array).all():
            raise DeployError(f"{layer.name}: its {item.name} holds values that are not finite")
        array[np.abs(array) < TINY] = 0
    data = array.tobytes()
    return (np.uint32(tag).astype("<u4").tobytes() if item.tagged else b"") + data + bytes(-len(data) % 4)


def read_binary(network: Network, data: bytes, name: str = ".bin") -> Dict[str, Dict[str, np.ndarray]]:
    """Layer's name -> field's name -> array, flat, with the number type that is stored.

    Raises
    ------
    ModelFileError
        With the layer and the offset, when the file is not exactly what the network's layers need.
    """
    weights: Dict[str, Dict[str, np.ndarray]] = {}
    offset = 0
    for layer in network.layers:
        where = f"{name} byte {offset}: {layer.name}"
        try:
            expected = fields(layer)
        except DeployError as error:
            raise ModelFileError(f"{name}: {error}") from None
        for item in expected:
            array, offset = _load(data, offset, item, f"{where} {item.name}")
            weights.setdefault(layer.name, {})[item.name] = array
    if offset != len(data):
        raise ModelFileError(f"{name}: the network's layers need {offset} bytes, the file has {len(data)}; it belongs "
                             "to another .param"
                             )
    return weights


def _load(data, offset, item, where):
    dtype = TAGS[0]
    if item.tagged:
        tag = int(np.frombuffer(_cut(data, offset, 4, where), "<u4")[0])
        if tag not in TAGS:
            known = ", ".join(f"{number:#x} ({kind.name})" for number, kind in TAGS.items())
            raise ModelFileError(f"{where}: unknown tag {tag:#x} of a weight; known are {known}")
        dtype, offset = TAGS[tag], offset + 4
    size = item.count * dtype.itemsize
    array = np.frombuffer(_cut(data, offset, size, where), dtype)
    padding = -size % 4
    if any(_cut(data, offset + size, padding, where)):
        raise ModelFileError(f"{where}: {padding} bytes of padding that are not zero")
    return array, offset + size + padding


def _cut(data, offset, size, where):
    if offset + size > len(data):
        raise ModelFileError(f"{where}: {offset + size - len(data)} bytes are missing; the file was cut off, or "
                             "belongs to another .param")
    return data[offset:offset + size]
