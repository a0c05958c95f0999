# SPDX-License-Identifier: MIT
"""A fused network for people: its layers' numbers by name, and the whole as Graphviz draws it."""

from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from deploy.ir import Activation, Grid, Model, Node, Rounding, integers
from deploy.targets.c.grids import grids
from deploy.targets.c.packing import pack
from quantize.escape import shown

HEAD = ['digraph network {', '  node [shape=box, fontname="sans-serif", fontsize=10, style=filled, fillcolor=white];',
        '  edge [fontname="sans-serif", fontsize=9];']
INTEGER = "#d9ead3"


def integer_layers(model: Model) -> Iterator[Any]:
    """Every layer that multiplies whole numbers."""
    return (node for node in model.nodes if integers(node) is not None)


def numbers_of(node: Any) -> Dict[str, np.ndarray]:
    """A layer's numbers: what it puts out is sum(weights * codes) * scale + biases.

    `weights` are whole numbers (odd ones where the grid has no zero); `scale` and `biases`, of each output, have taken
    up the BatchNorm; `biases_q` are the biases in steps of the sums; codes are those of an input of step `input_scale`,
    from `input_range[0]` to `input_range[1]`.
    """
    quantization = node.quantization
    grid = quantization.input
    scale = np.float64(grid.scale) * quantization.weight_scale.astype(np.float64)
    biases = np.zeros(len(scale)) if node.bias is None else node.bias.astype(np.float64)
    steps = np.divide(biases, scale, out=np.zeros(len(scale)), where=scale != 0)
    return {"weights": quantization.weight_q, "scale": scale, "biases": biases, "biases_q": np.rint(steps),
            "input_scale": np.array(grid.scale), "input_range": np.array([grid.qmin, grid.qmax])}


def fused_dot(model: Model) -> str:
    """The network in Graphviz's language: layers with the bits of their weights, grids of codes on the edges."""
    found, source = grids(model).of, {}
    lines: List[str] = list(HEAD)
    for blob in model.inputs:
        lines.append(f"  {_quoted(blob)} [label={_quoted(_label(blob, model.shapes.get(blob, ())))}];")
        source[blob] = blob
    for node in model.nodes:
        if isinstance(node, Rounding) or _changes_nothing(node, found):  # an edge
            source[node.outputs[0]] = source[node.inputs[0]]
            continue
        label, layer = f"{node.name} ({type(node).__name__})", integers(node)
        if layer is not None:
            label += f"\nweights of {pack(layer).bits} bits"
        colour = "white" if layer is None else INTEGER
        label = _label(label, model.shapes.get(node.outputs[0], ()))
        lines.append(f"  {_quoted(node.name)} [label={_quoted(label)}, fillcolor={_quoted(colour)}];")
        for blob in node.inputs:
            lines.append(f"  {_quoted(source[blob])} -> {_quoted(node.name)} [label={_quoted(_format(found[blob]))}];")
        source.update(dict.fromkeys(node.outputs, node.name))
    return "\n".join(lines + ["}"]) + "\n"


def _changes_nothing(node: Node, found: Mapping[str, Grid]) -> bool:
    """Whether it is a ReLU of codes, none of which is below zero."""
    grid = found.get(node.inputs[0]) if node.inputs else None
    return (isinstance(node, Activation) and node.function.kind == "relu" and grid is not None
            and grid.qmin >= grid.zero_point)


def _label(name: str, shape: Tuple[int, ...]) -> str:
    return name + ("\n" + "x".join(map(str, shape)) if shape else "")


def _format(grid: Grid) -> str:
    bits = (grid.qmax - grid.qmin).bit_length()
    return f"{'u' if grid.qmin >= 0 else ''}int{bits}" if bits <= 16 else f"{bits} bits of fixed point"


def _quoted(text: str) -> str:
    escaped = shown(text, keep="\n").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
