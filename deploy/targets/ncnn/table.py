# SPDX-License-Identifier: MIT
"""ncnn's calibration table (of ncnn2table, read by ncnn2int8), with its traps turned into errors.

One record per line, fields separated by single spaces: ``<layer>_param_0 s0 s1 ...`` holds weight scales, one for each
output channel (for each group in a depthwise convolution), ``<layer> s`` the input scale. A scale is ncnn's multiplier
127 / threshold (for 3x3 weights usually 31 / threshold), the inverse of `QParams.scale`.

What ncnn2int8 does without a word: a blank line ends the table; an input scale without a weight line stops the
quantization of all later layers of its type; a wrong number of weight scales writes a broken file. A layer stays float
when its input line is missing or has a '#'.
"""

import re
from dataclasses import dataclass
from typing import Dict, Iterable, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from deploy.ir import Model
from deploy.targets.ncnn.scales import table_scales
from quantize.errors import CalibrationError
from quantize.files import PathLike, read_text, write_whole

_SCALE = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
MAX_KEY = 255
WEIGHT = "_param_0"


@dataclass(frozen=True)
class NcnnScales:
    """The multipliers of one layer.

    Parameters
    ----------
    weight : tuple of float
    input : float or None
        None: the layer stays float.
    """

    weight: Tuple[float, ...]
    input: Optional[float] = None


class Range(NamedTuple):
    """The range of one tensor, with the fields of a row of a calibration table (`calib.table.Row`) in their order.

    This package and `calib` do not know each other: whoever has both makes the one of the other, ``Row(*range)``.
    """

    layer: str
    tensor: str
    method: str
    bits: int
    signed: bool
    thresholds: Tuple[float, ...]
    zero_points: Tuple[int, ...] = ()
    samples: int = 0
    data: str = "-"
    enabled: bool = True


def read_ncnn_table(path: PathLike, counts: Optional[Mapping[str, int]] = None) -> Dict[str, NcnnScales]:
    """The records of a file by layer; `counts` as in `parse_ncnn_table`."""
    return parse_ncnn_table(read_text(path), counts, str(path))


def parse_ncnn_table(text: str, counts: Optional[Mapping[str, int]] = None,
                     name: str = "ncnn table") -> Dict[str, NcnnScales]:
    """The records of a table, by layer, in its order.

    Parameters
    ----------
    counts : dict, optional
        Layer -> number of weight scales it needs. A layer that is not in it is an error, and so is another number.

    Raises
    ------
    CalibrationError
        With line and column, for what ncnn2int8 would misread without a word.
    """
    lines = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    weights: Dict[str, Tuple[float, ...]] = {}
    inputs: Dict[str, Tuple[float, ...]] = {}
    for number, line in enumerate(lines, 1):
        where = f"{name} line {number}"
        if not line.strip():
            raise CalibrationError(f"{where}: a blank line: ncnn would ignore everything after it; remove it")
        if line.startswith("#"):
            continue
        key, scales = _record(line, where)
        if key.endswith(WEIGHT):
            records, layer = weights, key[:-len(WEIGHT)]
        elif "_param_" in key:
            raise CalibrationError(f"{where}: {key} belongs to a layer with several weights, which this project does "
                                   "not quantize")
        else:
            records, layer = inputs, key
            if len(scales) != 1:
                raise CalibrationError(f"{where}: {len(scales)} input scales for {layer}, ncnn knows 1")
        if layer in records:
            raise CalibrationError(f"{where}: {key} comes twice")
        records[layer] = scales
    _check(weights, inputs, counts, name)
    return {layer: NcnnScales(scales, inputs[layer][0] if layer in inputs else None)
            for layer, scales in weights.items()}


def _record(line, where):
    key, *fields = line.split(" ")
    if not key or len(key.encode("utf-8")) > MAX_KEY or re.search(r"\s", key):
        raise CalibrationError(f"{where} column 1: expected a layer's name of at most {MAX_KEY} bytes, got "
                               f"{key[:40]!r}")
    if fields and not fields[-1]:
        fields.pop()  # ncnn2table ends weight lines with a space
    if not fields:
        raise CalibrationError(f"{where}: {key} has no scales")
    column, scales = len(key) + 2, []
    for field in fields:
        value = float(field) if _SCALE.fullmatch(field) else -1.0
        if not 1e-36 < value < 3e38:  # what a float32 holds, and its threshold too
            raise CalibrationError(f"{where} column {column}: expected a scale above 0, got {field[:20]!r} (from 1e-36 "
                                   "to 3e38; for a channel without weights use 1.0)")
        scales.append(value)
        column += len(field) + 1
    return key, tuple(scales)


def _check(weights, inputs, counts, name):
    for layer in inputs:
        if layer not in weights:
            raise CalibrationError(f"{name}: {layer} has an input scale, but no line {layer}{WEIGHT}: ncnn would leave "
                                   "this and all later layers of its type float; to keep the layer float comment out "
                                   "its input line"
                                   )
    if counts is None:
        return
    for layer, scales in weights.items():
        if layer not in counts:
            raise CalibrationError(f"{name}: {layer} is no layer of the network; the table is of another one")
        if len(scales) != counts[layer]:
            raise CalibrationError(f"{name}: {layer} has {len(scales)} weight scales, the layer needs {counts[layer]} "
                                   "(one for each output channel, or group of a depthwise convolution)")


def write_model_table(model: Model, path: PathLike) -> None:
    """Write the table of a quantized model; DeployError where no table can describe it."""
    write_ncnn_table(path, {layer: NcnnScales(tuple(map(float, weight)), float(scale))
                            for layer, (weight, scale) in table_scales(model).items()})


def write_ncnn_table(path: PathLike, scales: Mapping[str, NcnnScales]) -> None:
    """Write a table, whole or not at all: weight lines first, then input lines, as ncnn2table does."""
    write_whole(path, format_ncnn_table(scales))


def format_ncnn_table(scales: Mapping[str, NcnnScales]) -> str:
    """The text of a table; it is parsed again before it is returned."""
    lines = [" ".join([layer + WEIGHT] + [_number(scale) for scale in item.weight]) for layer, item in scales.items()]
    lines += [" ".join([layer, _number(item.input)]) for layer, item in scales.items() if item.input is not None]
    text = "".join(line + "\n" for line in lines)
    if list(parse_ncnn_table(text, {layer: len(item.weight) for layer, item in scales.items()})) != list(scales):
        raise CalibrationError("this table cannot be written: a layer's name starts with '#'")
    return text


def _number(scale) -> str:
    """Nine digits hold a float32; ncnn reads no exponents before 2021."""
    return np.format_float_positional(np.float32(scale), unique=True, trim="0")


def to_ncnn(ranges: Iterable[Range], names: Mapping[str, str]) -> Dict[str, NcnnScales]:
    """The multipliers of ranges, those of weights among them.

    Parameters
    ----------
    ranges : iterable of Range, or of rows of a calibration table
    names : dict
        Layer's path -> its name in the ncnn network.

    Raises
    ------
    CalibrationError
        For what ncnn cannot hold: unsigned or asymmetric inputs, several input scales, more than 8 bits.
    """
    rows = {(row.layer, row.tensor): row for row in ranges}
    scales = {}
    for layer in dict.fromkeys(layer for layer, _ in rows):
        found = [rows[key] for key in ((layer, "weight"), (layer, "input")) if key in rows]
        if len(found) < 2 or layer not in names:
            missing = "name for ncnn"
            if layer in names:
                missing = "line for its " + ("weight" if (layer, "weight") not in rows else "input")
            raise CalibrationError(f"{layer}: no {missing}")
        for row in found:
            if not row.signed or row.zero_points or row.bits > 8:
                raise CalibrationError(f"{layer} {row.tensor}: ncnn holds signed, symmetric numbers of at most 8 bits; "
                                       "calibrate with --input-signed true")
        weight, inputs = (tuple(_multiplier(value, row.bits) for value in row.thresholds) for row in found)
        if len(inputs) != 1:
            raise CalibrationError(f"{layer} input: {len(inputs)} thresholds, ncnn knows one")
        scales[names[layer]] = NcnnScales(weight, inputs[0] if found[1].enabled else None)
    return scales


def _multiplier(threshold, bits) -> float:
    return float(np.float32((2 ** (bits - 1) - 1) / threshold))


def from_ncnn(scales: Mapping[str, NcnnScales], names: Mapping[str, str],
              levels: Mapping[str, int]) -> Tuple[Range, ...]:
    """The ranges that ncnn's multipliers are.

    Parameters
    ----------
    names : dict
        Layer's name in ncnn -> its path.
    levels : dict
        Layer's name -> largest weight code, 31 or 127; 127 for those that are not in it.
    """
    rows = []
    for layer, item in scales.items():
        if layer not in names:
            raise CalibrationError(f"{layer}: is no layer of this network; the table is of another one")
        enabled = item.input is not None
        top = levels.get(layer, 127)
        bits = int(top).bit_length() + 1
        rows.append(Range(names[layer], "input", "ncnn", 8, True, (127 / item.input if item.input else 1.0,),
                          enabled=enabled))
        rows.append(Range(names[layer], "weight", "ncnn", bits, True, tuple(top / scale for scale in item.weight),
                          enabled=enabled))
    return tuple(rows)
