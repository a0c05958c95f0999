# SPDX-License-Identifier: MIT
"""What is said about the costs of single layers: a table, result.json, a plot."""

import logging
import pathlib
from typing import Dict, List, Optional

from calib.sensitivity import INPUT, LAYER, WEIGHT, Effect, Sensitivities
from quantize.files import PathLike

logger = logging.getLogger(__name__)

EVERYTHING = "(no layer float)"
PLOT = "sensitivity.png"
TITLES = {WEIGHT: "weight alone quantized", INPUT: "input alone quantized",
          LAYER: "everything but this layer quantized"}


def sensitivity_text(found: Sensitivities) -> str:
    """A table for each kind of measurement, in the order of the layers."""
    fewest = min(row.images for row in found.rows)
    some = "" if fewest == found.images else f" (layers near the input on the first {fewest} and more)"
    lines = [f"Sensitivities on {found.images} images{some}: {found.passes:.1f} forward passes for {len(found.rows)} "
             f"measurements; {found.ratio:.2f} of layers x bits = {found.naive}"]
    for operand, title in TITLES.items():
        table = found.table(operand)
        if table:
            images = {row.layer: row.images for row in found.rows if row.operand == operand}
            everything = found.everything if operand == LAYER else {}
            lines += ["", *_table(title, table, everything, dict(images, **{EVERYTHING: found.images}))]
    return "\n".join(lines)


def _table(title: str, table: Dict[str, Dict[int, Effect]], everything: Dict[int, Effect],
           images: Dict[str, int]) -> List[str]:
    rows = dict(table, **({EVERYTHING: everything} if everything else {}))
    width, bits = max(map(len, rows)), sorted({b for of_layer in rows.values() for b in of_layer}, reverse=True)
    top1 = any(effect.top1 is not None for of_layer in rows.values() for effect in of_layer.values())
    names = f"{'SQNR dB':>9}{'KL':>10}{'same':>8}" + (f"{'Top-1':>7}" if top1 else "")
    lines = [title, "  " + " " * (width + 8) + "".join(f"{f'{b} bits':>{len(names)}}" for b in bits),
             "  " + "layer".ljust(width) + "  images" + names * len(bits)]
    for path, of_layer in rows.items():
        cells = "".join(_cells(of_layer.get(b), len(names), top1) for b in bits)
        lines.append(f"  {path.ljust(width)}{images[path]:8d}{cells}")
    return lines


def _cells(effect: Optional[Effect], width: int, top1: bool) -> str:
    if effect is None:
        return "-".rjust(width)
    return (f"{effect.sqnr:9.1f}{effect.divergence:10.2e}{effect.agreement:8.1%}"
            + (f"{effect.top1:7d}" if top1 else ""))


def write_plot(folder: PathLike, found: Sensitivities) -> None:
    """sensitivity.png: the divergence of each layer, by bits; nothing but a warning without matplotlib."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        logger.warning("no plot of the sensitivities: it needs matplotlib (pip install matplotlib)")
        return
    tables = {operand: found.table(operand) for operand in TITLES}
    tables = {operand: table for operand, table in tables.items() if table}
    layers = max(map(len, tables.values()))
    figure, axes = pyplot.subplots(1, len(tables), figsize=(5 * len(tables), 2 + layers / 5), squeeze=False)
    for place, (operand, table) in zip(axes[0], tables.items()):
        for number, bits in enumerate(sorted({b for of_layer in table.values() for b in of_layer}, reverse=True)):
            values = [of_layer[bits].divergence if bits in of_layer else 0 for of_layer in table.values()]
            place.plot(values, range(len(values)), "o-", color=f"C{number}", label=f"{bits} bits", markersize=3)
        place.set_yticks(range(len(table)))
        place.set_yticklabels(list(table), fontsize=6)
        place.invert_yaxis()
        place.set_xscale("symlog", linthresh=1e-4)
        place.set_xlabel("KL of the class probabilities, nats")
        place.set_title(TITLES[operand], fontsize=9)
        place.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(pathlib.Path(folder) / PLOT, dpi=100)
    pyplot.close(figure)
