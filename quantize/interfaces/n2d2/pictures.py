# SPDX-License-Identifier: MIT
"""Pictures: how weights are distributed, and the network with its formats."""

import logging
import pathlib
import shutil
from typing import Any, List

import numpy as np

from quantize.escape import shown
from quantize.files import PathLike, whole_file, write_whole
from quantize.interfaces.n2d2.cells.base import Cell
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.parameters import file_name, quantized_weight

logger = logging.getLogger(__name__)

BINS, MANY = 120, 300
MOVING = ("Pool", "Dropout", "Padding", "Reshape", "Transpose")  # cells whose outputs are numbers of their inputs
DISTRIBUTION = "_weights.distrib.png"
QUANTIZED = "_weights_quant.distrib.png"


def can_draw(what: str) -> bool:
    """Whether matplotlib is there, set to draw into files; a warning else."""
    try:
        import matplotlib
    except ImportError:
        logger.warning("no pictures of %s: they need matplotlib (pip install matplotlib)", what)
        return False
    matplotlib.use("Agg")
    return True


def draw_distributions(network: CellNetwork, folder: PathLike) -> List[pathlib.Path]:
    """``CELL_weights.distrib.png`` of each cell's weights, ``CELL_weights_quant.distrib.png`` as they count.

    Nothing but a warning without matplotlib.
    """
    if not can_draw("weights"):
        return []
    network.pull()
    made = []
    for cell in network.computed:
        if "weight" not in cell.arrays:
            continue
        path = pathlib.Path(folder) / file_name(cell.name)
        made.append(_draw(cell.arrays["weight"], f"{cell.name}: weights as they are trained",
                          path.with_name(path.name + DISTRIBUTION)))
        found = quantized_weight(network, cell)
        if found:
            made.append(_draw(found["values"], f"{cell.name}: {cell.quantizer}",
                              path.with_name(path.name + QUANTIZED)))
    return made


def distribution(values: np.ndarray) -> Any:
    """(Positions, counts, width of a bar): one bar for each level where there are few, else 120 equal bins."""
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) <= MANY:
        step = float(np.diff(levels).min()) if len(levels) > 1 else 0.1
        return levels, counts, 0.8 * step
    counts, edges = np.histogram(values, BINS)
    return (edges[:-1] + edges[1:]) / 2, counts, float(edges[1] - edges[0])


def _draw(values: np.ndarray, title: str, path: pathlib.Path) -> pathlib.Path:
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    positions, counts, width = distribution(values)
    axes.bar(positions, counts, width=width, color="0.35")
    said = f"{len(positions)} levels" if len(np.unique(values)) <= MANY else "continuous"
    axes.set_title(f"{title}\nmean {values.mean():.4f}, deviation {values.std():.4f}, {said}", fontsize=8)
    axes.set_xlabel("value")
    axes.set_ylabel("weights")
    figure.tight_layout()
    with whole_file(path) as temporary:
        figure.savefig(str(temporary), format="png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    return path


def network_dot(network: CellNetwork) -> str:
    """The network in Graphviz's language: cells with their types and quantizers, formats on the edges."""
    lines = ["digraph network {", '  node [shape=box, fontname="sans-serif", fontsize=10, style=filled, '
             'fillcolor=white];', '  edge [fontname="sans-serif", fontsize=9];']
    channels, height, width = network.size
    images = f"{network.provider}: {channels}x{height}x{width}"
    lines.append(f"  {_quoted(network.provider)} [label={_quoted(images)}];")
    for cell in network.computed:
        colour = "#fff2cc" if cell.quantizer is not None or cell.activation.quantizer is not None else "white"
        lines.append(f"  {_quoted(cell.name)} [label={_quoted(_label(network, cell))}, fillcolor={_quoted(colour)}];")
        for source in cell.inputs:
            lines.append(f"  {_quoted(source)} -> {_quoted(cell.name)} [label={_quoted(_edge(network, source))}];")
    return "\n".join(lines + ["}"]) + "\n"


def _label(network: CellNetwork, cell: Cell) -> str:
    shape = "x".join(map(str, network.shapes.get(cell.name, ())))
    parts = [f"{cell.name} ({cell.kind()})", shape]
    if cell.quantizer is not None:
        stage = f"{cell.quantizer.bits} bits" if cell.quantizer.quantizing else "clamped"
        parts.append(f"QWeight {type(cell.quantizer).__name__[:3]} {stage}")
    function = cell.activation
    if type(function).__name__ != "Linear":
        parts.append(type(function).__name__)
    if function.quantizer is not None:
        parts.append(f"QAct {type(function.quantizer).__name__[:3]} {function.quantizer.bits} bits")
    return "\n".join(part for part in parts if part)


def _edge(network: CellNetwork, source: str) -> str:
    """The format of what a cell puts out; what only moves numbers keeps its input's."""
    while source in network.cells:
        cell = network.cells[source]
        if cell.activation.quantizer is not None:
            return f"uint{cell.activation.quantizer.bits}"
        if cell.kind() not in MOVING or len(cell.inputs) != 1 or getattr(cell, "pooling", "Max") != "Max":
            return "float"
        source = cell.inputs[0]
    return "float"


def _quoted(text: str) -> str:
    escaped = shown(text, keep="\n").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def draw_network(network: CellNetwork, path: PathLike) -> List[pathlib.Path]:
    """See `draw_dot`."""
    return draw_dot(network_dot(network), path)


def draw_dot(source: str, path: PathLike) -> List[pathlib.Path]:
    """PATH.svg and PATH.png by Graphviz; where that is not installed, PATH.dot and a warning."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("dot") is None:
        write_whole(target.with_name(target.name + ".dot"), source)
        logger.warning("%s.dot: the network is not drawn, for which Graphviz is needed (dot on the PATH)", target.name)
        return [target.with_name(target.name + ".dot")]
    import graphviz  # a package that only calls the program
    made = []
    for ending in ("svg", "png"):
        place = target.with_name(f"{target.name}.{ending}")
        write_whole(place, graphviz.Source(source).pipe(format=ending))
        made.append(place)
    return made
