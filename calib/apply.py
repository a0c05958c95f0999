# SPDX-License-Identifier: MIT
"""Between a converted network and a calibration table."""

from typing import Dict, Tuple, Union

from mxnet.gluon import Block

from calib.table import Row, Table, row_of
from quantize.errors import CalibrationError
from quantize.modes import clear_cached_graphs, quantized_layers


def table_of(net: Block, method: Union[str, Dict[str, str]], seen: Tuple[int, str] = (0, "-"),
             weights: bool = False) -> Table:
    """The table of a calibrated network; every layer has its line, also where layers share a quantizer.

    Parameters
    ----------
    method : str, or dict
        How the ranges were decided, for all layers or by path of the quantizer.
    seen : (int, str)
        Images seen, and their fingerprint (`calib.table.data_fingerprint`).
    weights : bool
        Lines for weights too; they must be calibrated or frozen.
    """
    rows = []
    for path, quantizer in _named_quantizers(net):
        if path.endswith("weight_quantizer") and not weights:
            continue
        how = "minmax" if path.endswith("weight_quantizer") else method
        rows.append(row_of(path, quantizer.spec, quantizer.get_qparams(),
                           how if isinstance(how, str) else how[path], seen))
    return Table(tuple(rows))


def apply_table(net: Block, table: Table) -> None:
    """Store a table's ranges in a converted network, and put its quantizers into the modes the table asks for.

    Activations compute with the stored ranges. Layers whose line is switched off compute in float, weights too.
    Weights with a line use its ranges, others their own.

    Raises
    ------
    CalibrationError
        For a table of another network or format; the network is then unchanged.
    """
    named = dict(_named_quantizers(net))
    rows = {f"{row.layer}.{row.tensor}_quantizer": row for row in table.rows}
    _check_names(net, named, rows)
    off = set(table.float_layers)
    _check_shared(named, rows, off)
    ready = {path: row.qparams(named[path].spec, named[path].scale.shape) for path, row in rows.items()
             if row.layer not in off}
    for path, quantizer in named.items():
        if path in ready:
            quantizer.set_qparams(ready[path])
            quantizer.mode = "offline"
        else:
            quantizer.mode = "float" if path.rpartition(".")[0] in off else "online"
    plan = getattr(net, "plan", None)
    if off and plan is not None:
        net.plan = plan.left_float(off, "'#' in the table")
    clear_cached_graphs(net)


def _named_quantizers(net):
    """(path, quantizer) of every operand of every layer; shared quantizers come under each of their layers."""
    for path, layer in quantized_layers(net):
        for name, quantizer in layer.quantizers():
            yield f"{path}.{name}", quantizer


def _check_names(net, named, rows):
    for path, row in rows.items():
        if path not in named:
            raise CalibrationError(f"{row.layer}: the table has a line for its {row.tensor}, but "
                                   f"{net.name or 'the network'} has no such quantizer; the table is of another "
                                   "network, or was made with other options")
    for path in named:
        if path not in rows and not path.endswith("weight_quantizer"):
            layer, _, name = path.rpartition(".")
            raise CalibrationError(f"{layer}: the table has no line for its {name.replace('_quantizer', '')}; the "
                                   "table is of another network, or was made with other options")


def _check_shared(named, rows, off):
    """Layers that read one tensor have one quantizer, and so one range."""
    first: Dict[int, Row] = {}
    for path, row in rows.items():
        other = first.setdefault(id(named[path]), row)
        if (other.layer in off) != (row.layer in off):
            raise CalibrationError(f"{other.layer} and {row.layer} read the same tensor: put '#' in front of both "
                                   "lines or of none")
        if (other.thresholds, other.zero_points) != (row.thresholds, row.zero_points):
            raise CalibrationError(f"{other.layer} and {row.layer} read the same tensor, but their lines in the table "
                                   "have different ranges"
                                   )
