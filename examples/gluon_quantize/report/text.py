# SPDX-License-Identifier: MIT
"""What a run prints and writes."""

import json
import os
import pathlib

from quantize.errors import DataError
from quantize.files import write_whole

PLAN, RESULT = "plan.txt", "result.json"
COLLAPSE = 0.75  # agreement with the float network below which a warning is due


def settings_text(settings) -> str:
    """The settings as an aligned block."""
    width = max(len(name) for name in settings)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in settings.items())


def thresholds_text(outcome) -> str:
    """How they were decided, and one line for each calibrated input."""
    if outcome is None or not outcome.thresholds:
        return "Thresholds: each batch's own range (online)"
    thresholds = outcome.thresholds
    width = max(len(path) for path in thresholds)
    lines = [f"  {path.ljust(width)}  {value:.6g}" for path, value in thresholds.items()]
    return "\n".join([f"Thresholds by {outcome.method}, {outcome.samples} images"] + lines)


def corrections_text(method, corrections) -> str:
    """How many biases were corrected, and how the largest was: layer -> what was added, (channels,)."""
    path = max(corrections, key=lambda name: abs(corrections[name]).max())
    largest = abs(corrections[path]).max()
    return f"Biases of {len(corrections)} layers corrected ({method}), by {largest:.6g} at most, in {path}"


def accuracy_text(name, predictions) -> str:
    """One line: Top-1, Top-5, mean per-class accuracy."""
    images = len(predictions.labels)
    return (f"{name:<10} Top-1 {predictions.top1_count}/{images} = {predictions.top1_count / images:.2%}   "
            f"Top-5 {predictions.top5_count / images:.2%}   mean per class {predictions.mean_class_accuracy:.2%}")


def summary_text(before, after) -> str:
    """The closing lines of a run; a collapse is said in words."""
    images = len(after.labels)
    same = after.agreement_count(before)
    lines = [
        accuracy_text("float", before), accuracy_text("quantized", after),
        f"agreement  {same}/{images} = {same / images:.2%} of the images get the float network's class",
        f"speed      {after.images_per_second:.1f} images per second quantized, {before.images_per_second:.1f} float"]
    if collapsed(before, after):
        lines.append(f"warning    the quantized network agrees with the float one on less than {COLLAPSE:.0%} of the "
                     "images: "
                     "try --quant-type channel, --input-signed auto, another --calib-mode (--compare-calibrators) or "
                     "more bits")
    return "\n".join(lines)


def collapsed(before, after) -> bool:
    """Whether quantization changed so many answers that the network is of no use."""
    return after.agreement_count(before) < COLLAPSE * len(after.labels)


def result(settings, before, after, **more) -> dict:
    """The contents of result.json."""
    def counts(predictions):
        return {"top1_count": predictions.top1_count, "top5_count": predictions.top5_count,
                "mean_class_accuracy": predictions.mean_class_accuracy,
                "images_per_second": predictions.images_per_second}
    return dict(more, settings=settings, images=len(after.labels), float=counts(before), quantized=counts(after),
                agreement_count=after.agreement_count(before), images_per_second=after.images_per_second)


def comparison_text(rows, before) -> str:
    """The methods side by side: name -> (Predictions, thresholds, their mean ratio to the largest magnitudes)."""
    images = len(before.labels)
    lines = ["{:<15}{:>8}{:>9}{:>16}{:>18}".format("method", "Top-1", "share", "same as float", "mean threshold"),
             "{:<15}{:>8}{:>9.2%}{:>16}{:>18}".format("float", before.top1_count, before.top1_count / images, "-", "-")]
    for name, (predictions, _, ratio) in rows.items():
        lines.append("{:<15}{:>8}{:>9.2%}{:>16}{:>18.3f}{}".format(
            name, predictions.top1_count, predictions.top1_count / images, predictions.agreement_count(before), ratio,
            "  collapsed" if collapsed(before, predictions) else ""))
    title = f"Comparison of calibrations ({images} images; thresholds as shares of the largest magnitude)"
    return "\n".join([title, *lines])


def comparison(rows, before) -> dict:
    """The same for result.json, with every threshold."""
    return {name: {"top1_count": predictions.top1_count, "agreement_count": predictions.agreement_count(before),
                   "mean_threshold_ratio": ratio, "thresholds": thresholds}
            for name, (predictions, thresholds, ratio) in rows.items()}


def check_writable(folder):
    """Make the output folder now, so that a long run does not end in an error."""
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {folder}: cannot be made: {error.strerror}") from None
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError(f"--output {folder}: no permission to write there")
    for path in (folder / PLAN, folder / RESULT):
        if path.is_dir():
            raise DataError(f"--output {folder}: {path.name} is a folder there; remove it")


def write_result(folder, contents, plan):
    """result.json and plan.txt in a folder."""
    folder = pathlib.Path(folder)
    write_whole(folder / PLAN, str(plan) + "\n")
    write_whole(folder / RESULT, json.dumps(contents, indent=2, sort_keys=True) + "\n")


def check_file_writable(path):
    """That a file to be written later has a folder, and is none."""
    if path is None:
        return
    path = pathlib.Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: the folder {folder} does not exist; make it first")
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError(f"{path}: no permission to write there")
