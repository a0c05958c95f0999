# SPDX-License-Identifier: MIT
"""A network's numbers in a folder, cell by cell: ``NAME.npz`` as they are trained, ``NAME_quant.npz`` as they count.

The second file holds `values`, what the cell computes with, and where they lie on a grid `codes` and `scale`:
values = codes * scale, or (codes + 0.5) * scale where `offset` is 0.5 (grids without a zero).
"""

import io
import pathlib
import re
from typing import Dict, List, Mapping

import mxnet as mx
import numpy as np

from quantize import npz
from quantize.errors import ModelFileError
from quantize.files import PathLike, check_within, write_whole
from quantize.interfaces.n2d2.cells.base import Cell
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.quantizer import Quantizer
from quantize.modes import eager

ENDING, QUANT = ".npz", "_quant"
RANGE = "range"


def file_name(cell: str) -> str:
    """A cell's name as that of a file."""
    return re.sub(r"[^\w.\-]", "_", cell).lstrip(".") or "_"


def export_parameters(network: CellNetwork, folder: PathLike) -> List[str]:
    """Write the numbers of every cell that has any; returns the cells' names."""
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    network.pull()
    written = []
    for cell in network.computed:
        if not cell.arrays:
            continue
        write_whole(target / (file_name(cell.name) + ENDING), _packed({**cell.arrays, **_ranges(cell)}))
        written.append(cell.name)
        found = quantized_weight(network, cell)
        if found:
            write_whole(target / (file_name(cell.name) + QUANT + ENDING), _packed(found))
    return written


def export_numbers(numbers: Mapping[str, Mapping[str, np.ndarray]], folder: PathLike) -> None:
    """Write arrays by layer and name: ``LAYER.npz`` each."""
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, arrays in numbers.items():
        write_whole(target / (file_name(name) + ENDING), _packed(dict(arrays)))


def quantized_weight(network: CellNetwork, cell: Cell) -> Dict[str, np.ndarray]:
    """`values` (and `codes`, `scale`, `offset`) of a cell's weight as it counts; empty without a quantizer."""
    if cell.quantizer is None or network.net is None:
        return {}
    layer = network.net._children[network.places[cell.name].path]
    block = layer.weight_quantizer
    with eager(layer):  # a hybridized quantizer would trace a graph of its own, and warn of what it does not use
        values = layer.rounded(mx.nd, layer.weight.data()).asnumpy()
    if getattr(block, "clamp_only", False):
        return {"values": values}
    grid = block.get_qparams() if block.mode == "offline" else block.qparams_of(layer.effective_weight())
    offset = 0.5 if block.spec.grid == "mid_rise" else 0.0
    codes = np.rint(values / grid.scale.reshape((-1,) + (1,) * (values.ndim - 1)) - offset)
    return {"values": values, "codes": codes.astype(np.int32), "scale": grid.scale.ravel(),
            "offset": np.array([offset], np.float32)}


def import_parameters(network: CellNetwork, folder: PathLike, ignore_not_exists: bool = False) -> List[str]:
    """Put the numbers of a folder into the cells; returns the names of those that were found.

    A trained step or clip comes along where the quantizer's range is the one that it was trained with; clips (alpha)
    always do.

    Raises
    ------
    ModelFileError
        For a folder without files, a cell without one (unless `ignore_not_exists`), and arrays of other shapes.
    """
    source = pathlib.Path(folder)
    if not source.is_dir():
        raise ModelFileError(f"{source}: no such folder; name one that an earlier training wrote (weights)")
    found = []
    for cell in network.computed:
        path = source / (file_name(cell.name) + ENDING)
        holds = cell.fillers or cell.activation.quantizer is not None
        if not holds:
            continue
        if path.is_file():
            check_within(source, [path], ModelFileError)
            _put(cell, npz.read_npz(path), path)
            found.append(cell.name)
        elif cell.fillers and not ignore_not_exists:
            raise ModelFileError(f"{path}: is missing; cell {cell.name!r} has no numbers in {source}")
    if not found:
        raise ModelFileError(f"{source}: holds no numbers of any cell of this network")
    if network.net is not None:
        network.build()
    return found


def _put(cell: Cell, arrays: Dict[str, np.ndarray], path: pathlib.Path) -> None:
    chosen: Dict[str, Quantizer] = {}
    if cell.quantizer is not None:
        chosen["weight"] = cell.quantizer
    if cell.activation.quantizer is not None:
        chosen["activation"] = cell.activation.quantizer
    for key, value in arrays.items():
        owner, _, name = key.partition(".")
        if not name:
            if key not in cell.fillers:
                raise ModelFileError(f"{path}: holds {key!r}, which a {cell.kind()} does not have")
            if not np.isfinite(value).all():
                raise ModelFileError(f"{path}: {key!r} holds NaN or infinity")
            cell.arrays[key] = value.astype(np.float32)
        elif name != RANGE and owner in chosen:
            same = _range(arrays, f"{owner}.{RANGE}", path) == chosen[owner].range
            if same or name == "alpha":
                cell.arrays[key] = value.astype(np.float32)


def _range(arrays: Mapping[str, np.ndarray], key: str, path: pathlib.Path) -> float:
    """The one number of a range; 0 where the file holds none."""
    value = arrays.get(key, np.zeros(1))
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ModelFileError(f"{path}: {key!r} has the shape {value.shape} of {value.dtype}, one number is wanted")
    return float(value.ravel()[0])


def _ranges(cell: Cell) -> Dict[str, np.ndarray]:
    found: Dict[str, np.ndarray] = {}
    if cell.quantizer is not None and "weight.scale" in cell.arrays:
        found[f"weight.{RANGE}"] = np.array([cell.quantizer.range])
    if cell.activation.quantizer is not None:
        found[f"activation.{RANGE}"] = np.array([cell.activation.quantizer.range])
    return found


def _packed(arrays: Dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()

