# SPDX-License-Identifier: MIT
"""What is said about a network's answers."""

from typing import Dict, Optional

from gluon_quantize.models.evaluation import Predictions
from quantize.convert.plan import Plan
from quantize.spec import PerChannel

COLLAPSE = 0.75  # agreement with the float network below which a warning is due


def accuracy_text(name: str, predictions: Predictions) -> str:
    """One line: Top-1, Top-5, mean per-class accuracy."""
    images = len(predictions.labels)
    return (f"{name:<10} Top-1 {predictions.top1_count}/{images} = {predictions.top1_count / images:.2%}   "
            f"Top-5 {predictions.top5_count / images:.2%}   mean per class {predictions.mean_class_accuracy:.2%}")


def summary_text(before: Predictions, after: Predictions, plan: Optional[Plan] = None) -> str:
    """The closing lines of a run; a collapse is said in words, with what the `plan` has not tried yet."""
    images = len(after.labels)
    same = after.agreement_count(before)
    lines = [
        accuracy_text("float", before), accuracy_text("quantized", after),
        f"agreement  {same}/{images} = {same / images:.2%} of the images get the float network's class",
        f"speed      {after.images_per_second:.1f} images per second quantized, {before.images_per_second:.1f} float"]
    if collapsed(before, after):
        lines.append(f"warning    the quantized network agrees with the float one on less than {COLLAPSE:.0%} of the "
                     f"images: try {remedies(plan)}")
    return "\n".join(lines)


def remedies(plan: Optional[Plan] = None) -> str:
    """What may help a network that collapsed: what the plan has not done already."""
    entries = plan.entries if plan else ()
    weights = [entry.weight.granularity for entry in entries if entry.weight is not None]
    forced = any("can be negative" in entry.reason for entry in entries)
    tried = [("--quant-type channel", not entries or any(not isinstance(kind, PerChannel) for kind in weights)),
             ("--input-signed auto", forced or not entries)]
    return ", ".join([option for option, helps in tried if helps]
                     + ["another --calib-mode (--compare-calibrators)", "more bits"]) + ", or train"


def collapsed(before: Predictions, after: Predictions) -> bool:
    """Whether quantization changed so many answers that the network is of no use."""
    return after.agreement_count(before) < COLLAPSE * len(after.labels)


def engines_text(before: Predictions, after: Dict[str, Predictions]) -> str:
    """Top-1 in float and in each engine, and how often the class is that of the float network."""
    lines = [accuracy_text("float", before)]
    for name, predictions in after.items():
        lines.append(f"{accuracy_text(name, predictions)}   same as float {predictions.agreement_count(before)}/"
                     f"{len(predictions.labels)}")
    return "\n".join(lines)
