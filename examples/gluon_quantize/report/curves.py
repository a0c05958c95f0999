# SPDX-License-Identifier: MIT
"""The picture of a training: loss, scores, and where each layer's ranges began and ended."""

import io
import logging
import pathlib
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from quantize.files import write_whole

logger = logging.getLogger(__name__)

PLOTS = "curves.png"
ROW, TOP, WIDTH = 0.16, 3.2, 11.0  # inches: of a layer, of the curves, of the picture
KINDS = (".input_quantizer", ".weight_quantizer", "")


def plot(folder: str, history: List[Dict[str, Any]], before: Optional[Mapping[str, Any]] = None) -> None:
    """Write curves.png; a warning where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        logger.warning("no plots: they need matplotlib (pip install matplotlib, or leave them out with --no-plots)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure = draw(history, before or {})
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    write_whole(pathlib.Path(folder) / PLOTS, picture.getvalue())


def draw(history: List[Dict[str, Any]], before: Mapping[str, Any]) -> Any:
    """The figure: curves over the epochs on top; below a row for each range, so that it grows with the network."""
    from matplotlib import pyplot
    groups = [rows for rows in map(_rows, [history] * len(KINDS), KINDS) if rows]
    most = max(map(len, groups), default=0)
    below = most * ROW + 0.9 if most else 0.0
    figure = pyplot.figure(figsize=(WIDTH, TOP + below), constrained_layout=True)
    grid = figure.add_gridspec(2 if most else 1, 1, height_ratios=[TOP, below] if most else [TOP])
    curves = grid[0].subgridspec(1, 2)
    _losses(figure.add_subplot(curves[0]), history)
    _scores(figure.add_subplot(curves[1]), history, before)
    if most:
        ranges = grid[1].subgridspec(1, len(groups))
        for number, rows in enumerate(groups):
            _ranges(figure.add_subplot(ranges[number]), rows, most)
    return figure


def _rows(history, kind):
    """Quantizer -> its thresholds, epoch by epoch, of one kind (what is of none of the others is of the last)."""
    others = [other for other in KINDS if other and other != kind]
    paths = dict.fromkeys(path for record in history for path in record["ranges"]
                          if path.endswith(kind) and (kind or not path.endswith(tuple(others))))
    return {path: [record["ranges"].get(path, np.nan) for record in history] for path in paths}


def _over_epochs(axes, history):
    from matplotlib.ticker import MaxNLocator
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    epochs = [record["epoch"] for record in history]
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    return epochs


def _losses(axes, history):
    epochs = _over_epochs(axes, history)
    # a marker, or one epoch would show nothing
    axes.plot(epochs, [record["loss"] for record in history], marker="o", markersize=3)
    axes.set_title("training loss", fontsize=9)


def _scores(axes, history, before):
    epochs = _over_epochs(axes, history)
    for name in ("top1", "f1", "informedness"):
        axes.plot(epochs, [record[name] for record in history], marker="o", markersize=3, label=name)
    for style, (name, found) in zip(("--", ":"), before.items()):
        if found:
            axes.axhline(found["top1"], color="0.4", linestyle=style, linewidth=1, label=f"top1, {name}")
    axes.set_title("validation", fontsize=9)
    axes.legend(fontsize=7)


def _ranges(axes, rows, most):
    """A row for each quantizer: a line over all its values, a hollow dot at the first, a full one at the last."""
    kind = next(kind for kind in KINDS if next(iter(rows)).endswith(kind))
    for row, values in enumerate(rows.values()):
        known = [value for value in values if np.isfinite(value) and value > 0]
        if known:
            axes.plot([min(known), max(known)], [row, row], color="C0", linewidth=1)
            axes.plot(known[0], row, marker="o", markersize=4, color="C0", markerfacecolor="white")
            axes.plot(known[-1], row, marker="o", markersize=4, color="C0")
    axes.set_xscale("log")
    axes.set_ylim(most - 0.5, -0.5)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([path[:len(path) - len(kind)] or path for path in rows], fontsize=7)
    axes.grid(alpha=0.3)
    named = kind.strip(".").replace("_quantizer", "s") or "others"
    axes.set_title(f"thresholds of {named}: first epoch (hollow) to last", fontsize=9)
