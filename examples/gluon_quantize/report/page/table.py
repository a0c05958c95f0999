# SPDX-License-Identifier: MIT
"""The table of the layers: its columns, in groups, and how numbers are written."""

from itertools import groupby
from math import log2
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
OPERANDS = (("weight", "w"), ("input", "in"))


class Column(NamedTuple):
    """A column: the row's key, its title in the table and in full, its values' kind, its group, if it is first."""

    key: str
    title: str
    full: str
    kind: str
    group: str
    begins: bool = False


COLUMNS = (
    Column("name", "layer", "layer", "text", ""), Column("kind", "kind", "kind", "text", ""),
    Column("shape", "output", "output shape", "shape", ""),
    Column("macs", "MACs", "multiply-adds for one image", "count", "cost"),
    Column("macs_share", "share", "share of the network's multiply-adds", "share", "cost"),
    Column("parameters", "parameters", "parameters", "count", "cost"),
    Column("bytes", "bytes", "bytes as they are stored", "bytes", "cost"),
    Column("weight_format", "weight", "format of the weight", "text", "format"),
    Column("input_format", "input", "format of the input", "text", "format"),
    Column("threshold", "threshold", "threshold of the input", "number", "input range"),
    Column("movement", "moves", "how far the threshold moves between halves of the images", "share", "input range"),
    Column("clipped", "clipped", "share of the input beyond the threshold", "share", "input range"),
    Column("dead_inputs", "dead in", "channels of the input that never were active", "dead", "input range"),
    Column("dead_channels", "dead out", "channels whose weights are all zero", "dead", "input range"),
    Column("weight_sqnr", "weight", "SQNR of the weight", "decibels", "SQNR, dB"),
    Column("input_sqnr", "input", "SQNR of the input", "decibels", "SQNR, dB"),
    Column("alone", "alone", "SQNR of the output, this layer alone quantized", "decibels", "SQNR, dB"),
    Column("accumulated", "network", "SQNR of the output, the whole network quantized", "decibels", "SQNR, dB"),
    Column("largest_sum", "largest sum", "largest integer sum", "count", "32-bit sums"),
    Column("headroom_bits", "headroom", "headroom of the largest sum, in bits", "bits", "32-bit sums"),
    Column("float_ms", "float", "milliseconds in float", "ms", "time, ms"),
    Column("int8_ms", "int8", "milliseconds in int8", "ms", "time, ms"),
    Column("times_as_fast", "gain", "float time over int8 time", "times", "time, ms"))


def columns_of(rows: Sequence[Mapping[str, Any]], sensitivity: Optional[Mapping[str, Any]]) -> List[Column]:
    """The columns in which something is known, those of sensitivities at each bit width before the integer sums."""
    found = list(COLUMNS)
    place = next(number for number, column in enumerate(found) if column.key == "largest_sum")
    found[place:place] = sensitivity_columns(sensitivity)
    shown_ones = [column for column in found if any(
        row.get(column.key) is not None and (row[column.key] or column.kind != "dead") for row in rows)]
    return [column._replace(begins=bool(column.group) and column.group != before.group)
            for before, column in zip(shown_ones[:1] + shown_ones, shown_ones)]


class Group(NamedTuple):
    """Neighbouring columns of one group."""

    name: str
    size: int


def groups_of(columns: Sequence[Column]) -> List[Group]:
    """The groups, in the columns' order."""
    return [Group(name, len(list(members))) for name, members in groupby(columns, lambda column: column.group)]


def sensitivity_columns(sensitivity: Optional[Mapping[str, Any]]) -> List[Column]:
    """A column for each operand and number of bits that was measured."""
    if not sensitivity:
        return []
    measured = {(row["operand"], row["bits"]) for row in sensitivity["rows"]}
    return [Column(f"sensitivity_{operand}_{bits}", f"{short} {bits} bit",
                   f"SQNR of the network's output, {operand} of this layer alone at {bits} bits", "decibels",
                   "outputs' SQNR, dB")
            for bits in sorted({bits for _, bits in measured}, reverse=True) for operand, short in OPERANDS
            if (operand, bits) in measured]


def with_sensitivities(rows: Sequence[Mapping[str, Any]], sensitivity: Optional[Mapping[str, Any]]
                       ) -> List[Dict[str, Any]]:
    """The rows of a report with their sensitivities, their headroom in bits, and the columns' missing values."""
    nothing = dict.fromkeys([column.key for column in (*COLUMNS, *sensitivity_columns(sensitivity))])
    found: List[Dict[str, Any]] = [{**nothing, **row, "headroom_bits": _bits(row.get("headroom"))} for row in rows]
    by_name = {row["name"]: row for row in found}
    for item in (sensitivity or {}).get("rows", ()):
        if item["layer"] in by_name:
            by_name[item["layer"]][f"sensitivity_{item['operand']}_{item['bits']}"] = item["sqnr_db"]
    return found


def _bits(headroom: Optional[float]) -> Optional[float]:
    return log2(headroom) if headroom else None


def shown(value: Any, kind: str) -> str:
    """A cell: numbers with the digits that matter, an empty text for what is not known."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "×".join(str(size) for size in value)
    if kind not in FORMATS or isinstance(value, str):
        return str(value)
    return FORMATS[kind](value)


def short_count(value: float) -> str:
    """A count with three digits and a unit: 10.4 M."""
    for size, unit in UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _share(value: float) -> str:
    return "0 %" if not value else f"{100 * value:.2f} %" if value >= 0.0001 else "< 0.01 %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


FORMATS = {"count": short_count, "bytes": lambda value: f"{short_count(value)}B" if value >= 1000 else f"{value} B",
           "share": _share, "decibels": lambda value: f"{value:.1f}", "number": _number,
           "dead": lambda value: f"{value:,}", "bits": lambda value: f"{value:.1f} bits",
           "ms": lambda value: f"{value:.3f}" if value < 10 else f"{value:.1f}", "times": lambda value: f"{value:.2f}×"}
