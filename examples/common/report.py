# SPDX-License-Identifier: MIT
"""What a run prints and writes."""

import json
import os
import pathlib

from quantize.errors import DataError

PLAN, RESULT = "plan.txt", "result.json"


def settings_text(settings) -> str:
    """The settings as an aligned block."""
    width = max(len(name) for name in settings)
    return "\n".join("  {}  {}".format(name.ljust(width), value) for name, value in settings.items())


def thresholds_text(thresholds) -> str:
    """One line for each calibrated input."""
    if not thresholds:
        return "Thresholds: each batch's own range (online)"
    width = max(len(path) for path in thresholds)
    return "Thresholds\n" + "\n".join("  {}  {:.6g}".format(path.ljust(width), value)
                                      for path, value in thresholds.items())


def accuracy_text(name, predictions) -> str:
    """One line: Top-1, Top-5, mean per-class accuracy."""
    images = len(predictions.labels)
    return "{:<10} Top-1 {}/{} = {:.2%}   Top-5 {:.2%}   mean per class {:.2%}".format(
        name, predictions.top1_count, images, predictions.top1_count / images, predictions.top5_count / images,
        predictions.mean_class_accuracy)


def summary_text(before, after) -> str:
    """The closing lines of a run."""
    images = len(after.labels)
    same = after.agreement_count(before)
    return "\n".join([
        accuracy_text("float", before), accuracy_text("quantized", after),
        "agreement  {}/{} = {:.2%} of the images get the float network's class".format(same, images, same / images),
        "speed      {:.1f} images per second quantized, {:.1f} float".format(
            after.images_per_second, before.images_per_second)])


def result(settings, before, after, thresholds, history) -> dict:
    """The contents of result.json."""
    def counts(predictions):
        return {"top1_count": predictions.top1_count, "top5_count": predictions.top5_count,
                "mean_class_accuracy": predictions.mean_class_accuracy,
                "images_per_second": predictions.images_per_second}
    return {"settings": settings, "images": len(after.labels), "float": counts(before), "quantized": counts(after),
            "agreement_count": after.agreement_count(before), "images_per_second": after.images_per_second,
            "thresholds": thresholds, "top1_count_per_calibration": history}


def check_writable(folder):
    """Make the output folder now, so that a long run does not end in an error."""
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("--output {}: cannot be made: {}".format(folder, error.strerror)) from None
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError("--output {}: no permission to write there".format(folder))
    for path in (folder / PLAN, folder / RESULT):
        if path.is_dir():
            raise DataError("--output {}: {} is a folder there; remove it".format(folder, path.name))


def write_whole(path, text):
    """Write a text file whole or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError("{}: cannot be written: {}".format(path, error.strerror)) from None
    finally:
        if temporary.exists():
            temporary.unlink()


def write_result(folder, contents, plan):
    """result.json and plan.txt in a folder."""
    folder = pathlib.Path(folder)
    write_whole(folder / PLAN, str(plan) + "\n")
    write_whole(folder / RESULT, json.dumps(contents, indent=2, sort_keys=True) + "\n")
