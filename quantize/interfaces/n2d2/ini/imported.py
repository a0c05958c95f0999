# SPDX-License-Identifier: MIT
"""A section of Type=ONNX: the cells of the file, with what base blocks and sections of their names say of them."""

import os
import pathlib
from typing import Any, Dict, List, Mapping, Set, Tuple

from quantize.errors import ConfigError
from quantize.interfaces.n2d2 import cells
from quantize.interfaces.n2d2.cells.base import Cell, WeightedCell
from quantize.interfaces.n2d2.ini.options import Options
from quantize.interfaces.n2d2.ini.parts import act_quantizer, activation, cell_quantizer, filler, solver
from quantize.interfaces.n2d2.ini.reader import Document, Section
from quantize.interfaces.n2d2.onnx import onnx_cells
from quantize.registry import closest

BLOCK = "_def"
KINDS = ("Conv", "Deconv", "Fc", "BatchNorm", "Pool", "ElemWise", "Activation", "Concat", "Softmax", "Dropout",
         "Padding", "Reshape", "Resize", "Transpose", "Operation")


def imported_cells(document: Document, section: Section, overrides: Dict[str, Section],
                   used: Set[str]) -> Tuple[List[Cell], Mapping[str, Any]]:
    """(The cells of an ONNX file, arrays that they read).

    ``[NAME:Conv_def]`` speaks for all convolutions of section NAME, a section with a cell's name for that cell. What
    was used is taken out of `overrides`.
    """
    options = Options(document, section)
    options.text("Type")
    source, file = options.text("Input"), options.text("File")
    weights = options.switch("ONNX_init", True)
    options.finish()
    found, constants = onnx_cells(_path(document, options, file), source, weights)
    for cell in found:
        own = overrides.pop(cell.name, None)
        block = document.sections.get(f"{section.name}:{cell.kind()}{BLOCK}")
        if block is not None:
            overrides.pop(block.name, None)
        chosen = own or block
        if chosen is not None:
            _configure(cell, Options(document, chosen))
    for name in [name for name in overrides if name.startswith(section.name + ":")]:
        kind = name[len(section.name) + 1:]
        if not kind.endswith(BLOCK) or kind[:-len(BLOCK)] not in KINDS:
            raise document.error(overrides[name].line, f"section [{name}] is for no type of cell"
                                                       f"{closest(kind, [known + BLOCK for known in KINDS])}")
        if name not in used:
            raise document.error(overrides[name].line, f"section [{name}]: the file has no cell of that type")
    for name, override in overrides.items():
        if name not in used:
            raise document.error(override.line, f"section [{name}] is no cell of {file}"
                                                f"{closest(name, [cell.name for cell in found])}")
    return found, constants


def _path(document: Document, options: Options, file: str) -> pathlib.Path:
    """Beside the INI file, in the current folder, or in $N2D2_MODELS."""
    folders = [pathlib.Path(document.path).parent, pathlib.Path(), pathlib.Path(os.environ.get("N2D2_MODELS", "."))]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise options.error("File", f"{file!r} is neither beside the INI file nor in the current folder nor in "
                                "$N2D2_MODELS")


def _configure(cell: Cell, options: Options) -> None:
    """Change a cell as a section says."""
    if "ActivationFunction" in options:
        cell.activation = activation(options, "Linear")
    elif "QAct" in options:
        cell.activation.quantizer = act_quantizer(options)
    options.text("Type", cell.kind(), (cell.kind(),))
    if isinstance(cell, WeightedCell):
        _weighted(cell, options)
    elif isinstance(cell, cells.BatchNorm2d):
        cell.solvers = {name: solver(options, ["Solvers", prefix]) for name, prefix in (
            ("gamma", "ScaleSolver"), ("beta", "BiasSolver")) if name in cell.solvers}
    options.finish()


def _weighted(cell: WeightedCell, options: Options) -> None:
    if options.switch("NoBias", cell.no_bias) and cell.has_bias():
        cell.drop_bias()
    try:
        cell.quantizer = cell_quantizer(options) or cell.quantizer
    except ConfigError as error:
        if str(error).startswith(options.document.path):
            raise
        raise options.document.error(options.section.line, str(error)) from None
    for name, prefix in (("weight", "Weights"), ("bias", "Bias")):
        made = filler(options, prefix + "Filler")
        moved = solver(options, ["Solvers", prefix + "Solver"])
        if name in cell.solvers:
            cell.solvers[name] = moved
            cell.fillers[name] = made or cell.fillers[name]
