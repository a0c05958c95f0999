# SPDX-License-Identifier: MIT
"""What a training prints and writes: log, result, plots."""

import json
import logging
import pathlib

import numpy as np

from gluon_quantize.report.metrics import class_metrics, mean_metrics
from gluon_quantize.report.plots import confusion_matrix
from quantize.files import write_whole
from quantize.modes import quantizers

logger = logging.getLogger(__name__)

LOG, RESULT, PLAN, RULES, PLOTS = "log.json", "result.json", "plan.txt", "rules.json", "curves.png"


def scores(predictions, classes) -> dict:
    """Metrics of predictions: counts, and the means over the classes that N2D2 prints."""
    matrix = confusion_matrix(predictions.labels, predictions.top5[:, 0], classes)
    images = len(predictions.labels)
    return dict(mean_metrics(matrix), images=images, top1_count=predictions.top1_count,
                top1=predictions.top1_count / images, top5=predictions.top5_count / images)


def learned_ranges(net) -> dict:
    """Mean threshold, in real units, of every quantizer that has a stored or trained one."""
    return {path: float(np.mean(quantizer.threshold)) for path, quantizer in quantizers(net)
            if quantizer.mode in ("offline", "ema") and quantizer.calibrated}


def epoch_text(record) -> str:
    """One line for an epoch."""
    return "epoch {epoch:>3}  loss {loss:.4f}  Top-1 {top1:.2%}  F1 {f1:.2%}  informedness {informedness:.2%}  " \
           "{images_per_second:.0f} images/s{mark}".format(mark="  best" if record["is_best"] else "", **record)


def final_text(name, result) -> str:
    """The closing line about a network."""
    return "{:<6} Top-1 {top1_count}/{images} = {top1:.2%}   sensitivity {sensitivity:.2%}   specificity " \
           "{specificity:.2%}   precision {precision:.2%}   F1 {f1:.2%}   informedness {informedness:.2%}".format(
               name, **result)


def classes_text(predictions, classes) -> str:
    """The metrics of each class, as a table."""
    found = class_metrics(confusion_matrix(predictions.labels, predictions.top5[:, 0], classes))
    lines = ["class  " + "  ".join(f"{name:>12}" for name in found)]
    for number in range(classes):
        lines.append(f"{number:>5}  " + "  ".join(f"{values[number]:>12.2%}"
                                                           for values in found.values()))
    return "\n".join(lines)


def write_log(folder, settings, progress):
    """log.json: the settings and a record of every epoch."""
    _write_json(pathlib.Path(folder) / LOG, {"settings": settings, "epochs": progress.history})


def write_result(folder, settings, results, plan, rules):
    """result.json; plan.txt and rules.json of a quantized network."""
    folder = pathlib.Path(folder)
    if plan is not None:
        write_whole(folder / PLAN, str(plan) + "\n")
        _write_json(folder / RULES, rules)
    _write_json(folder / RESULT, dict(results, settings=settings))


def _write_json(path, contents):
    write_whole(path, json.dumps(contents, indent=1, sort_keys=True) + "\n")


def plot(folder, history):
    """curves.png: loss, validation metrics and learned ranges, epoch by epoch."""
    try:
        import matplotlib
    except ImportError:
        logger.warning("no plots: they need matplotlib (pip install matplotlib, or leave them out with --no-plots)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(3, 1, figsize=(7, 10), sharex=True)
    epochs = [record["epoch"] for record in history]
    axes[0].plot(epochs, [record["loss"] for record in history])
    axes[0].set_ylabel("training loss")
    for name in ("top1", "f1", "informedness"):
        axes[1].plot(epochs, [record[name] for record in history], label=name)
    axes[1].set_ylabel("validation")
    axes[1].legend()
    for path in sorted({path for record in history for path in record["ranges"]}):
        axes[2].plot(epochs, [record["ranges"].get(path, np.nan) for record in history], linewidth=0.8, label=path)
    axes[2].set_ylabel("threshold")
    axes[2].set_xlabel("epoch")
    if axes[2].lines:
        axes[2].legend(fontsize=4, ncol=2)
    figure.tight_layout()
    path = pathlib.Path(folder) / PLOTS
    temporary = path.with_name(f".{path.name}")
    figure.savefig(str(temporary), format="png", dpi=110)
    pyplot.close(figure)
    temporary.replace(path)
