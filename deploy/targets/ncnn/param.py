# SPDX-License-Identifier: MIT
"""ncnn's .param text: the layers of a network, written so that every ncnn reads the same numbers, and read strictly.

The magic number, a line with the counts of layers and blobs, then a line for each layer::

    type name inputs outputs <input blobs> <output blobs> id=value ...

An array is written ``-23300-id=count,value,...``. ncnn takes a value for a float only if it holds '.' or 'e', reads at
most 15 characters of it and keeps its fraction's digits in 32 bits; an integer text where it wants a float is misread
without a word. Hence floats are written with an exponent, and the parser refuses what an engine would misread.
"""

import re
from dataclasses import dataclass, field
from typing import Dict, Tuple, Union

import numpy as np

from quantize.errors import DeployError, ModelFileError

MAGIC = "7767517"
MAX_NAME = 255  # bytes
MAX_ID = 31
ARRAY = 23300  # added to the id of an array, negated

Value = Union[int, float, Tuple[int, ...], Tuple[float, ...]]

_INT = re.compile(r"-?[0-9]{1,10}")
_FLOAT = re.compile(r"-?[0-9]{1,9}(\.[0-9]{0,9})?([eE][+-]?[0-9]{1,2})?")
_NAME = re.compile(r"[^\x00-\x20\x7f-\xa0\ud800-\udfff\s]+")
ACTIVATION = "_activation"  # behind a layer's name: its activation where that is a layer of its own


@dataclass(frozen=True)
class Layer:
    """One line of the file.

    Parameters
    ----------
    type, name : str
    inputs, outputs : tuple of str
        Blobs.
    parameters : dict
        Id -> int, float (a float32 number) or tuple of one of these, in the order of the file.
    """

    type: str
    name: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    parameters: Dict[int, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """The layers in topological order; every blob is written once, before it is read."""

    layers: Tuple[Layer, ...]

    @property
    def blobs(self) -> Tuple[str, ...]:
        """All blobs, in the order they are written."""
        return tuple(blob for layer in self.layers for blob in layer.outputs)


def format_param(network: Network) -> str:
    """The file's text; DeployError for what the format cannot hold."""
    lines = [MAGIC, f"{len(network.layers)} {len(network.blobs)}"]
    for layer in network.layers:
        lines.append(" ".join([f"{layer.type:<24} {layer.name:<24} {len(layer.inputs)} "
                               f"{len(layer.outputs)}", *layer.inputs, *layer.outputs]
                              + [_parameter(layer, number, value) for number, value in layer.parameters.items()]))
    text = "".join(line + "\n" for line in lines)
    try:
        parse_param(text)
    except ModelFileError as error:
        raise DeployError(f"this network cannot be written for ncnn: {error}") from None
    return text


def format_float(value: float) -> str:
    """The shortest text with an exponent that every ncnn reads as exactly this float32 number.

    Six decimals where they are enough, as ncnn's own tools write; eight always are, and fill the 15 characters.
    """
    wanted = np.float32(value)
    if not np.isfinite(wanted):
        raise DeployError(f"{wanted} cannot be a parameter of an ncnn layer, only finite numbers can")
    texts = (f"{float(wanted):.{digits}e}" for digits in (6, 7, 8))
    return next(text for text in texts if read_float(text) == wanted)


def read_float(text: str) -> float:
    """The float32 number that ncnn reads, whose own arithmetic is at times a bit away from the nearest one."""
    mantissa, _, power = text.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("+-").partition(".")
    value = int(whole) + int(fraction or 0) / 10.0 ** len(fraction)
    exponent = int(power or 0)
    scale = 1.0
    for factor in [1e8] * (abs(exponent) // 8) + [10.0] * (abs(exponent) % 8):
        scale *= factor
    value = value / scale if exponent < 0 else value * scale
    with np.errstate(over="ignore"):
        return float(np.float32(-value if mantissa.startswith("-") else value))


def _parameter(layer, number, value):
    if isinstance(value, tuple):
        return ",".join([f"{-ARRAY - number}={len(value)}", *map(_value, value)])
    return f"{number}={_value(value)}"


def _value(value):
    return format_float(value) if isinstance(value, float) else f"{value:d}"


def parse_param(text: str, name: str = ".param") -> Network:
    """The network of a file's text.

    Parameters
    ----------
    name : str
        What the text is called in errors.

    Raises
    ------
    ModelFileError
        With line and column, for everything that is not exactly a network.
    """
    lines = text.split("\n")
    if lines[0].rstrip("\r") != MAGIC:
        raise ModelFileError(f"{name} line 1: expected ncnn's magic number {MAGIC}, got {lines[0][:20]!r}")
    if lines.pop():
        raise ModelFileError(f"{name} line {len(lines) + 1}: the file ends inside a line; it was cut off")
    counts = _Tokens(lines[1] if len(lines) > 1 else "", f"{name} line 2")
    layer_count, blob_count = counts.count(), counts.count()
    counts.end()
    if len(lines) - 2 != layer_count:
        raise ModelFileError(f"{name}: line 2 says {layer_count} layers, {len(lines) - 2} lines follow")
    network = Network(tuple(_layer(_Tokens(line, f"{name} line {number}"))
                            for number, line in enumerate(lines[2:], 3)))
    _check_graph(network, name)
    if len(network.blobs) != blob_count:
        raise ModelFileError(f"{name}: line 2 says {blob_count} blobs, the layers write {len(network.blobs)}")
    return network


class _Tokens:
    """The fields of a line, taken one by one; errors say line and column."""

    def __init__(self, line, where):
        self.where = where
        self.found = list(re.finditer("[^ ]+", line[:-1] if line.endswith("\r") else line))
        self.next = 0

    def error(self, token, expected, got=None):
        column = token.start() + 1 if token else (self.found[-1].end() + 1 if self.found else 1)
        got = repr((got or token.group())[:40]) if token else "the line's end"
        raise ModelFileError(f"{self.where} column {column}: expected {expected}, got {got}")

    def take(self):
        token = self.found[self.next] if self.next < len(self.found) else None
        self.next += 1
        return token

    def name(self, what):
        token = self.take()
        if not token or not _NAME.fullmatch(token.group()) or len(token.group().encode("utf-8")) > MAX_NAME:
            self.error(token, f"{what} of at most {MAX_NAME} bytes without spaces")
        return token.group()

    def count(self):
        token = self.take()
        if not token or not re.fullmatch("[0-9]{1,9}", token.group()):
            self.error(token, "a number of layers or blobs")
        return int(token.group())

    def parameter(self):
        token = self.take()
        key, equals, text = token.group().partition("=")
        if not equals or not _INT.fullmatch(key):
            self.error(token, "<id>=<value>")
        number, texts = int(key), text.split(",")
        if number <= -ARRAY:  # the old spelling of arrays starts with the length
            number, length, texts = -number - ARRAY, texts[0], texts[1:]
            if length != str(len(texts)):
                self.error(token, f"an array of {length[:10]} values after its length")
        elif len(texts) == 1:
            return self.id(token, number), self.value(token, text)
        values = tuple(self.value(token, item) for item in texts)
        if len({type(item) for item in values}) > 1:
            self.error(token, "an array of integers or one of floats")
        return self.id(token, number), values

    def id(self, token, number):
        if not 0 <= number <= MAX_ID:
            self.error(token, f"an id from 0 to {MAX_ID}")
        return number

    def value(self, token, text):
        if _INT.fullmatch(text) and -2 ** 31 <= int(text) < 2 ** 31:
            return int(text)
        if _FLOAT.fullmatch(text) and not _INT.fullmatch(text) and len(text) <= 15:
            value = read_float(text)
            if np.isfinite(value):
                return value
        self.error(token, "an integer or a float of at most 15 characters", text or " ")

    def end(self):
        if self.next < len(self.found):
            self.error(self.found[self.next], "the line's end")


def _layer(tokens):
    kind, name = tokens.name("a layer type"), tokens.name("a layer name")
    counts = tokens.count(), tokens.count()
    if sum(counts) > len(tokens.found) - tokens.next:
        tokens.error(None, f"{sum(counts)} blobs")
    inputs, outputs = (tuple(tokens.name("a blob name") for _ in range(count)) for count in counts)
    parameters = {}
    while tokens.next < len(tokens.found):
        token = tokens.found[tokens.next]
        number, value = tokens.parameter()
        if number in parameters:
            tokens.error(token, "each id once")
        parameters[number] = value
    return Layer(kind, name, inputs, outputs, parameters)


def _check_graph(network, name):
    names, blobs = set(), set()
    for number, layer in enumerate(network.layers, 3):
        where = f"{name} line {number}"
        if layer.name in names:
            raise ModelFileError(f"{where}: a second layer {layer.name}")
        names.add(layer.name)
        for blob in layer.inputs:
            if blob not in blobs:
                raise ModelFileError(f"{where}: {layer.name} reads the blob {blob}, which no layer before it writes")
        for blob in layer.outputs:
            if blob in blobs:
                raise ModelFileError(f"{where}: {layer.name} writes the blob {blob} a second time")
            blobs.add(blob)
