# SPDX-License-Identifier: MIT
"""The layers of a lowered network as rows of facts."""

from typing import Any, Dict, List, Mapping, Optional, cast

import numpy as np

from calib.observers import HistogramObserver
from deploy.ir import Convolution, Grid, Model, Node, integers, producers
from deploy.ir.clips import reached
from deploy.study import Cost, Deviation, Study, decibels, weight_sqnr

INT32 = 2 ** 31


def layer_rows(model: Model, costs: Mapping[str, Cost], seen: Optional[Study],
               observers: Mapping[str, HistogramObserver], trust: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """A dict of JSON values for each node with weights, in the network's order; what is not known is None.

    Parameters
    ----------
    trust : dict
        The calibration as a result holds it: how stable thresholds are, and what never was active.
    """
    total = sum(item.macs for item in costs.values()) or 1
    found, grids = [], input_grids(model)
    for node in model.nodes:
        if node.name in costs:
            grid = grids.get(node.name)
            deviation = None if seen is None else seen.deviations.get(node.name)
            found.append(dict(_fixed(model, node, grid, costs[node.name], total),
                              **_seen(grid, deviation, observers.get(node.name)), **_trusted(node, trust)))
    return found


def input_grids(model: Model) -> Dict[str, Grid]:
    """Quantized node -> the grid of its input, with the codes that can reach it."""
    writers = producers(model)
    return {node.name: reached(writers, cast(Any, node)) for node in model.nodes if integers(node) is not None}


def _fixed(model: Model, node: Node, grid: Optional[Grid], cost: Cost, total: int) -> Dict[str, Any]:
    grids = integers(node)
    row = {"node": node.name, "name": node.path or node.name, "kind": _kind(node),
           "input_shape": list(model.shapes[node.inputs[0]]), "shape": list(model.shapes[node.outputs[0]]),
           "macs": cost.macs, "macs_share": cost.macs / total, "parameters": cost.parameters, "bytes": cost.bytes,
           "float_bytes": cost.float_bytes, "weight_format": "float32", "input_format": "float32", "threshold": None,
           "weight_sqnr": None}
    if grids is not None and grid is not None:
        row.update(weight_format=weight_format(grids.weight_qmax), input_format=grid_format(grid.qmin, grid.qmax),
                   threshold=grid.scale * (grid.qmax - grid.zero_point),
                   weight_sqnr=_finite(weight_sqnr(cast(Any, node))))
    return row


def weight_format(qmax: int) -> str:
    """`int8` for codes up to 127, and so on; the number of levels where that is no power of two."""
    return f"int{(qmax + 1).bit_length()}" if not qmax & (qmax + 1) else f"{2 * qmax + 1} levels"


def grid_format(qmin: int, qmax: int) -> str:
    """`int8`, `uint8` or with fewer bits."""
    return f"{'int' if qmin < 0 else 'uint'}{max((qmax - qmin).bit_length(), 1)}"


def _kind(node: Node) -> str:
    if not isinstance(node, Convolution):
        return type(node).__name__
    height, width = node.weight.shape[2:]
    kind = "depthwise" if node.depthwise else "grouped" if node.groups > 1 else "convolution"
    return f"{kind} {height}x{width}" + (f" /{node.stride[0]}" if max(node.stride) > 1 else "")


def _seen(grid: Optional[Grid], deviation: Optional[Deviation],
          observer: Optional[HistogramObserver]) -> Dict[str, Any]:
    names = ("alone", "accumulated", "input_sqnr", "clipped", "largest_sum", "headroom", "errors", "errors_span")
    row: Dict[str, Any] = dict.fromkeys(names)
    if deviation is not None and deviation.values:
        counts, span = deviation.errors()
        row.update(alone=_finite(decibels(deviation.signal, deviation.alone)),
                   accumulated=_finite(decibels(deviation.signal, deviation.accumulated)),
                   clipped=deviation.clipped / deviation.values, largest_sum=deviation.largest_sum,
                   headroom=INT32 / max(deviation.largest_sum, 1), errors=counts.tolist(), errors_span=span)
    if grid is not None and observer is not None and observer.values:
        row["input_sqnr"] = _finite(_input_sqnr(grid, observer))
    return row


def _input_sqnr(grid: Grid, observer: HistogramObserver) -> Optional[float]:
    """Of the input's values on its grid, from the middles of the histogram's bins."""
    middles = (np.arange(len(observer.positive())) + 0.5) * observer.width
    signal = noise = 0.0
    for sign, counts in ((1, observer.positive()), (-1, observer.negative())):
        values = sign * middles[counts > 0]
        steps = np.clip(np.round(values / grid.scale), grid.qmin - grid.zero_point, grid.qmax - grid.zero_point)
        signal += float((counts[counts > 0] * values ** 2).sum())
        noise += float((counts[counts > 0] * (values - steps * grid.scale) ** 2).sum())
    return decibels(signal, noise)


def _trusted(node: Node, trust: Mapping[str, Any]) -> Dict[str, Any]:
    path = f"{node.path or node.name}.input_quantizer"
    return {"movement": (trust.get("movement") or {}).get(path),
            "dead_inputs": (trust.get("never_active_channels") or {}).get(path, 0),
            "dead_channels": (trust.get("dead_channels") or {}).get(node.path or node.name, 0)}


def _finite(value: Optional[float]) -> Optional[float]:
    """JSON has no infinity: without noise there is nothing to say in decibels."""
    return value if value is not None and np.isfinite(value) else None
