# SPDX-License-Identifier: MIT
"""The cells of an ONNX file: one for each step of its program, under the step's name."""

from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
from mxnet.gluon import nn

from quantize.files import PathLike
from quantize.importers.graph_block import LayerSpec, Program, Step
from quantize.interfaces.n2d2 import cells
from quantize.interfaces.n2d2.activation import Rectifier
from quantize.interfaces.n2d2.cells.base import Cell, Names, WeightedCell
from quantize.interfaces.n2d2.filler import Constant
from quantize.interfaces.n2d2.network import INPUT

OPERATIONS = {"broadcast_add": "ElemWise", "elemwise_add": "ElemWise", "broadcast_mul": "ElemWise",
              "concat": "Concat", "Concat": "Concat", "pad": "Padding", "reshape": "Reshape", "Reshape": "Reshape",
              "transpose": "Transpose", "softmax": "Softmax"}


def onnx_cells(path: PathLike, provider: str = "sp", weights: bool = True) -> Tuple[List[Cell], Mapping[str, Any]]:
    """(The cells of a file, arrays that its steps read).

    Parameters
    ----------
    provider : str
        What cells call the images.
    weights : bool
        False: parameters are filled anew, whatever the file holds.
    """
    from quantize.importers.onnx import onnx_program  # onnx takes long to load, and few scripts want it
    program = onnx_program(path)
    makers = {program.input: provider}
    made: Dict[str, Cell] = {}
    for step in program.steps:
        cell = _cell(step, program)
        name, count = step.name, 1
        while name in made:  # a layer that is called twice
            count += 1
            name = f"{step.name}_{count}"
        cell.name = name
        cell.inputs = [makers[source] for source in step.inputs if source in makers]
        if not weights:
            cell.arrays = {}
        made[name] = cell
        makers.update((output, name) for output in step.outputs)
    return list(made.values()), program.constants


def _cell(step: Step, program: Program) -> Cell:
    step = step._replace(inputs=tuple(INPUT if source == program.input else source for source in step.inputs))
    kind = None if step.layer is None else step.layer.kind
    if kind is nn.Activation and step.layer is not None and step.layer.options.get("activation") == "relu":
        cell: Cell = cells.Activation(activation=Rectifier())
    else:
        cell = _layer_cell(step.layer) if step.layer is not None else cells.Operation()
        if step.op in OPERATIONS:
            cell.type_name = OPERATIONS[step.op]
        cell.imported = [step]
    cell.given = Names(step.name, step.outputs[0])
    return cell


def _layer_cell(layer: LayerSpec) -> Cell:
    options: Dict[str, Any] = dict(layer.options)
    arrays = {name: np.asarray(array, np.float32) for name, array in layer.arrays.items()}
    if layer.kind in (nn.Conv2D, nn.Conv2DTranspose):
        kind = cells.Conv if layer.kind is nn.Conv2D else cells.Deconv
        height, width = _two(options["kernel_size"])
        cell: Cell = kind(None, options["channels"], (width, height), stride_dims=_two(options.get("strides", 1))[::-1],
                          nb_groups=options.get("groups", 1), no_bias=not options.get("use_bias", True))
    elif layer.kind is nn.Dense:
        cell = cells.Fc(None, options["units"], no_bias=not options.get("use_bias", True))
    elif layer.kind is nn.BatchNorm:
        cell = cells.BatchNorm2d()
    elif layer.kind is nn.Dropout:
        cell = cells.Dropout(dropout=options.get("rate", 0.5))
    elif "Pool" in layer.kind.__name__:
        cell = cells.GlobalPool2d("Max" if "Max" in layer.kind.__name__ else "Average")
    else:
        cell = cells.Operation()
        cell.type_name = layer.kind.__name__
    cell.arrays = arrays
    if not isinstance(cell, (WeightedCell, cells.BatchNorm2d)):
        # what N2D2 has no solver for starts from the file, and stays
        cell.fillers = {name: Constant() for name in arrays}
    if isinstance(cell, cells.BatchNorm2d):
        cell.nb_outputs = len(arrays["running_mean"])
        for name in ("gamma", "beta"):  # layers that have no scale or centre of their own
            if name in arrays and not options.get({"gamma": "scale", "beta": "center"}[name], True):
                cell.solvers.pop(name)
    return cell


def _two(value: Any) -> Tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
