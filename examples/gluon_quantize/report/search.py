# SPDX-License-Identifier: MIT
"""What is said about a search of bits: a table of the curve, files, a plot."""

import json
import logging
import pathlib
from typing import Any, Dict

from gluon_quantize.runs.outputs import PLAN, RESULT
from gluon_quantize.runs.search import Point, SearchResult
from gluon_quantize.runs.sensitivity import sensitivity_contents
from quantize.files import PathLike, write_whole

logger = logging.getLogger(__name__)

RULES, PLOT = "rules.json", "curve.png"


def search_text(result: SearchResult) -> str:
    """The curve, and what was chosen."""
    lines = [f"{'of int8':>9}{'expected KL':>13}{'Top-1':>8}{'points':>9}{'agreement':>11}"]
    for point in result.curve:
        worth, tried = " " * 28, point.attempt
        if tried is not None:
            top1 = f"{'-':>8}{'-':>9}" if tried.drop is None else (
                f"{tried.predictions.top1_count:>8}{-tried.drop:>+9.2f}")
            worth = f"{top1}{tried.agreement:>11.2%}"
        mark = "  <- chosen" if point is result.best else ""
        lines.append(f"{point.allocation.cost / result.full_size:>9.1%}{point.allocation.loss:>13.3g}{worth}{mark}")
    if not result.met:
        lines.append("the limit can NOT be kept; the nearest is chosen")
    return "\n".join(lines)


def _contents(point: Point, full: int) -> Dict[str, Any]:
    found: Dict[str, Any] = {"share": point.allocation.cost / full, "cost": point.allocation.cost,
                             "expected_kl": point.allocation.loss,
                             "bits": {path: list(bits) for path, bits in point.allocation.bits.items()}}
    if point.attempt is not None:
        found.update(top1_count=point.attempt.predictions.top1_count, drop=point.attempt.drop,
                     agreement=point.attempt.agreement, bytes=point.attempt.size, seconds=point.attempt.seconds)
    return found


def write_result(output: PathLike, settings: Dict[str, Any], result: SearchResult) -> None:
    """rules.json, plan.txt, result.json and, with matplotlib, curve.png."""
    folder = pathlib.Path(output)
    contents = {"settings": settings, "met": result.met, "best": _contents(result.best, result.full_size),
                "images": len(result.float.labels), "float": {"top1_count": result.float.top1_count},
                "full_cost": result.full_size, "curve": [_contents(point, result.full_size) for point in result.curve],
                "sensitivity": sensitivity_contents(result.sensitivities)}
    write_whole(folder / RULES, json.dumps(result.rules, indent=1) + "\n")
    best: Any = result.best.attempt  # what is chosen was tried
    write_whole(folder / PLAN, str(best.plan) + "\n")
    _plot(folder / PLOT, result)
    contents["files"] = sorted(path.name for path in folder.iterdir())
    write_whole(folder / RESULT, json.dumps(contents, indent=2, sort_keys=True) + "\n")


def _plot(path, result):
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        logger.warning("no plot of the curve: it needs matplotlib (pip install matplotlib)")
        return
    figure, axes = pyplot.subplots(figsize=(6, 4))
    points = [point for point in result.curve if point.attempt is not None]
    shares = [100 * point.allocation.cost / result.full_size for point in points]
    if result.float.classifies:
        axes.plot(shares, [100 * point.attempt.predictions.top1 for point in points], "o-")
        axes.axhline(100 * result.float.top1, color="0.6", label="float")
        axes.legend()
    else:
        axes.plot(shares, [100 * point.attempt.agreement for point in points], "o-")
    axes.set_xlabel("% of the int8 network")
    axes.set_ylabel("Top-1, %" if result.float.classifies else "agreement with the float network, %")
    figure.tight_layout()
    figure.savefig(str(path), dpi=100)
    pyplot.close(figure)
