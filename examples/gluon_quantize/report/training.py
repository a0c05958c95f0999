# SPDX-License-Identifier: MIT
"""What a training says: its steps and its result as text and as files."""

import csv
import io
import json
import pathlib
from typing import Any, Dict, List, Mapping

from gluon_quantize.data.steps import steps_text
from gluon_quantize.models.evaluation import Predictions
from gluon_quantize.models.metrics import class_metrics, confusion_matrix
from gluon_quantize.report.settings import settings_text
from gluon_quantize.report.steps import step_text
from gluon_quantize.runs.train import Begun, EpochDone, Opened, TrainResult
from quantize.files import write_whole

LOG, RESULT, PLAN, RULES, TABLE = "log.json", "result.json", "plan.txt", "rules.json", "epochs.csv"
FIRST = ("epoch", "loss", "top1", "top5", "is_best")  # columns of the table


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
    lines += [before_text(name, found) for name, found in step.before.items() if found]
    return "\n".join(lines)


@step_text.register
def _epoch_done(step: EpochDone, networks: bool = False) -> str:
    return epoch_text(step.record)


def before_text(name: str, found: Mapping[str, Any]) -> str:
    """One line for a network before the first epoch."""
    return f"before     {name:<10}   Top-1 {found['top1']:.2%}  F1 {found['f1']:.2%}  informedness " \
           f"{found['informedness']:.2%}"


def epoch_text(record: Mapping[str, Any]) -> str:
    """One line for an epoch."""
    return f"epoch {record['epoch']:>3}  loss {record['loss']:.4f}  Top-1 {record['top1']:.2%}  " \
           f"F1 {record['f1']:.2%}  informedness {record['informedness']:.2%}  " \
           f"{record['images_per_second']:.0f} images/s{'  best' if record['is_best'] else ''}"


def final_text(name: str, result: Mapping[str, Any]) -> str:
    """The closing line about a network."""
    rates = "   ".join(f"{key.replace('f1', 'F1')} {result[key]:.2%}" for key in (
        "sensitivity", "specificity", "precision", "f1", "informedness"))
    return f"{name:<6} Top-1 {result['top1_count']}/{result['images']} = {result['top1']:.2%}   {rates}"


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


def write_log(folder: str, settings: Mapping[str, Any], history: List[Dict[str, Any]],
              before: Mapping[str, Any]) -> None:
    """log.json: the settings, the scores before the first epoch, and a record of every epoch."""
    _write_json(pathlib.Path(folder) / LOG, {"settings": dict(settings), "before": dict(before), "epochs": history})


def write_table(folder: str, history: List[Dict[str, Any]]) -> None:
    """epochs.csv: one line for each epoch, one column for each number; thresholds are called range.LAYER."""
    rows = [{**{name: value for name, value in record.items() if name != "ranges"},
             **{f"range.{path}": value for path, value in record["ranges"].items()}} for record in history]
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = [name for name in FIRST if name in names]
    text = io.StringIO()
    writer = csv.DictWriter(text, first + [name for name in names if name not in first], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(pathlib.Path(folder) / TABLE, text.getvalue())


def write_result(folder: str, settings: Mapping[str, Any], result: TrainResult) -> None:
    """result.json; plan.txt and rules.json of a quantized network."""
    path = pathlib.Path(folder)
    if result.plan is not None:
        write_whole(path / PLAN, str(result.plan) + "\n")
        _write_json(path / RULES, result.rules)
    _write_json(path / RESULT, dict(_scores(result), before=result.before, best_epoch=result.best_epoch,
                                     settings=dict(settings)))


def _scores(result):
    found = {"final": result.final, "best": result.best}
    return {name: scores for name, scores in found.items() if scores is not None}


def _write_json(path, contents):
    write_whole(path, json.dumps(contents, indent=1, sort_keys=True) + "\n")
