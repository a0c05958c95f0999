# SPDX-License-Identifier: MIT
"""How large a network is: parameters, multiply-adds and bytes of every cell, and of the whole at any number of bits."""

import json
import math
import pathlib
from dataclasses import asdict, dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from quantize.files import PathLike, write_whole
from quantize.interfaces.n2d2.cells.base import Cell, WeightedCell
from quantize.interfaces.n2d2.cells.layers import Conv, Deconv
from quantize.interfaces.n2d2.network import CellNetwork

FLOAT_BITS, END_BITS = 32, 8
BITS = (8, 4, 3, 2, 1)
MEGABYTE = 10 ** 6


@dataclass(frozen=True)
class CellStats:
    """One cell.

    Attributes
    ----------
    weights, parameters : int
        Numbers in its weight, and with all others that are trained.
    macs : int
        Multiply-adds for one image.
    weight_bits, output_bits : int
        32 where nothing is quantized.
    weight_bytes : float
        Of the weight at its bits.
    shape : tuple of int
        Of its output.
    """

    name: str
    kind: str
    weights: int
    parameters: int
    macs: int
    weight_bits: int
    output_bits: int
    weight_bytes: float
    shape: Tuple[int, ...]


def stats_of(network: CellNetwork) -> List[CellStats]:
    """Every cell of a network that is built."""
    network.pull()
    return [_cell_stats(network, cell) for cell in network.computed]


def _cell_stats(network: CellNetwork, cell: Cell) -> CellStats:
    weight = cell.arrays.get("weight")
    weights = int(weight.size) if weight is not None and isinstance(cell, WeightedCell) else 0
    parameters = sum(int(cell.arrays[name].size) for name in cell.solvers if name in cell.arrays)
    bits = FLOAT_BITS
    if isinstance(cell, WeightedCell) and cell.quantizer is not None and cell.quantizer.quantizing:
        bits = cell.quantizer.bits
    chosen = cell.activation.quantizer
    shape = network.shapes[cell.name]
    return CellStats(cell.name, cell.kind(), weights, parameters, weights * _uses(network, cell, shape), bits,
                     FLOAT_BITS if chosen is None else chosen.bits, weights * bits / 8, tuple(shape))


def _uses(network: CellNetwork, cell: Cell, shape: Sequence[int]) -> int:
    """How often every weight is used for one image."""
    if isinstance(cell, Deconv):
        source = cell.inputs[0]
        shape = network.shapes.get(source, network.size)
    return math.prod(shape[1:]) if isinstance(cell, Conv) else 1


def bytes_at(weights: Sequence[int], bits: int, end_bits: int = END_BITS) -> float:
    """Bytes of layers' weights by the rule of N2D2's tables: the first and the last at 8 bits, the others at `bits`.

    Parameters
    ----------
    weights : sequence of int
        Numbers of weights, layer by layer.
    """
    ends = {0, len(weights) - 1}
    return sum(count * (end_bits if number in ends else bits) for number, count in enumerate(weights)) / 8


def totals(found: Sequence[CellStats]) -> Dict[str, float]:
    """Sums over cells, and the bytes of the weights at 8, 4, 3, 2 and 1 bits."""
    weights = [cell.weights for cell in found if cell.weights]
    result: Dict[str, float] = {"parameters": sum(cell.parameters for cell in found), "weights": sum(weights),
                                "macs": sum(cell.macs for cell in found),
                                "weight_bytes": sum(cell.weight_bytes for cell in found)}
    result.update({f"bytes_at_{bits}_bits": bytes_at(weights, bits) for bits in BITS} if weights else {})
    return result


def stats_text(found: Sequence[CellStats]) -> str:
    """A table with a line for each cell, and the sums."""
    width = max([len(cell.name) for cell in found] + [5])
    lines = [f"{'cell':<{width}}  {'type':<10}  {'parameters':>11}  {'MACs':>12}  {'weights':>8}  {'output':>8}  bytes"]
    for cell in found:
        lines.append(f"{cell.name:<{width}}  {cell.kind:<10}  {cell.parameters:>11}  {cell.macs:>12}  "
                     f"{_format(cell.weight_bits, bool(cell.weights)):>8}  {_format(cell.output_bits):>8}  "
                     f"{cell.weight_bytes:.0f}")
    whole = totals(found)
    lines.append(f"\n{whole['parameters']:.0f} parameters ({whole['weights']:.0f} weights), {whole['macs']:.0f} MACs, "
                 f"{whole['weight_bytes'] / MEGABYTE:.2f} MB of weights")
    lines += [f"first and last layer at {END_BITS} bits, the others at {bits}: "
              f"{whole[key] / MEGABYTE:.2f} MB" for bits in BITS for key in [f"bytes_at_{bits}_bits"] if key in whole]
    return "\n".join(lines)


def _format(bits: int, there: bool = True) -> str:
    return "-" if not there else "float" if bits == FLOAT_BITS else f"{bits} bits"


def write_stats(network: CellNetwork, folder: PathLike, name: Optional[str] = None) -> None:
    """stats.json and stats.txt in a folder."""
    target, found = pathlib.Path(folder), stats_of(network)
    target.mkdir(parents=True, exist_ok=True)
    name = name or "stats"
    contents = {"cells": [asdict(cell) for cell in found], "totals": totals(found)}
    write_whole(target / f"{name}.json", json.dumps(contents, indent=1) + "\n")
    write_whole(target / f"{name}.txt", stats_text(found) + "\n")
