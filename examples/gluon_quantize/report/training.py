# SPDX-License-Identifier: MIT
"""What a training says: its steps and its result as text, as files, as plots."""

import json
import logging
import pathlib
from typing import Any, Dict, List, Mapping

import numpy as np

from gluon_quantize.data.steps import steps_text
from gluon_quantize.models.evaluation import Predictions
from gluon_quantize.models.metrics import class_metrics, confusion_matrix
from gluon_quantize.report.settings import settings_text
from gluon_quantize.report.steps import step_text
from gluon_quantize.runs.train import Begun, EpochDone, Opened, TrainResult
from quantize.files import write_whole

logger = logging.getLogger(__name__)

LOG, RESULT, PLAN, RULES, PLOTS = "log.json", "result.json", "plan.txt", "rules.json", "curves.png"


@step_text.register
def _begun(step: Begun, networks: bool = False) -> str:
    return settings_text(dict(sorted(step.request.settings.items())))


@step_text.register
def _opened(step: Opened, networks: bool = False) -> str:
    lines = [f"\n{step.name} on {step.dataset} ({step.images} training images, {step.steps_per_epoch} steps an epoch)"]
    if step.preprocessing is not None:
        lines += ["", steps_text(step.preprocessing)]
    if networks:
        lines.append(str(step.net))
    if step.plan is not None:
        lines.append(f"\nPlan\n{step.plan}\n")
    return "\n".join(lines)


@step_text.register
def _epoch_done(step: EpochDone, networks: bool = False) -> str:
    return epoch_text(step.record)


def epoch_text(record: Mapping[str, Any]) -> str:
    """One line for an epoch."""
    return "epoch {epoch:>3}  loss {loss:.4f}  Top-1 {top1:.2%}  F1 {f1:.2%}  informedness {informedness:.2%}  " \
           "{images_per_second:.0f} images/s{mark}".format(mark="  best" if record["is_best"] else "", **record)


def final_text(name: str, result: Mapping[str, Any]) -> str:
    """The closing line about a network."""
    return "{:<6} Top-1 {top1_count}/{images} = {top1:.2%}   sensitivity {sensitivity:.2%}   specificity " \
           "{specificity:.2%}   precision {precision:.2%}   F1 {f1:.2%}   informedness {informedness:.2%}".format(
               name, **result)


def classes_text(predictions: Predictions, classes: int) -> str:
    """The metrics of each class, as a table."""
    found = class_metrics(confusion_matrix(predictions.labels, predictions.top5[:, 0], classes))
    lines = ["class  " + "  ".join(f"{name:>12}" for name in found)]
    for number in range(classes):
        lines.append(f"{number:>5}  " + "  ".join(f"{values[number]:>12.2%}" for values in found.values()))
    return "\n".join(lines)


def result_text(result: TrainResult) -> str:
    """The metrics of each class, then those of the final and of the best network."""
    lines = ["", classes_text(result.predictions, result.classes), ""]
    return "\n".join(lines + [final_text(name, found) for name, found in _scores(result).items()])


def write_log(folder: str, settings: Mapping[str, Any], history: List[Dict[str, Any]]) -> None:
    """log.json: the settings and a record of every epoch."""
    _write_json(pathlib.Path(folder) / LOG, {"settings": dict(settings), "epochs": history})


def write_result(folder: str, settings: Mapping[str, Any], result: TrainResult) -> None:
    """result.json; plan.txt and rules.json of a quantized network."""
    path = pathlib.Path(folder)
    if result.plan is not None:
        write_whole(path / PLAN, str(result.plan) + "\n")
        _write_json(path / RULES, result.rules)
    _write_json(path / RESULT, dict(_scores(result), best_epoch=result.best_epoch, settings=dict(settings)))


def _scores(result):
    found = {"final": result.final, "best": result.best}
    return {name: scores for name, scores in found.items() if scores is not None}


def _write_json(path, contents):
    write_whole(path, json.dumps(contents, indent=1, sort_keys=True) + "\n")


def plot(folder: str, history: List[Dict[str, Any]]) -> None:
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
