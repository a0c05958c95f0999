# SPDX-License-Identifier: MIT
"""What is said about a network's answers."""

from typing import Dict, List, Optional, Sequence

from gluon_quantize.models.evaluation import Answers, Predictions
from gluon_quantize.models.responses import Responses
from quantize.convert.plan import Plan
from quantize.spec import PerChannel

COLLAPSE = 0.75  # agreement with the float network below which a warning is due
NOISE = 5.0  # dB between an output and what quantization adds to it


def accuracy_text(name: str, predictions: Answers) -> str:
    """One line: Top-1, Top-5, mean per-class accuracy; for networks that do not classify the data's own metric."""
    images = len(predictions.labels)
    if not predictions.classifies:
        own = "".join(f"   {metric} {value:.6g}" for metric, value in predictions.metrics.items())
        return f"{name:<10} {images} images, {len(predictions.samples)} outputs{own}"
    return (f"{name:<10} Top-1 {predictions.top1_count}/{images} = {predictions.top1_count / images:.2%}   Top-5 "
            f"{predictions.top5_count / images:.2%}   mean per class {predictions.mean_class_accuracy:.2%}")


def summary_text(before: Answers, after: Answers, plan: Optional[Plan] = None) -> str:
    """The closing lines of a run; a collapse is said in words, with what the `plan` has not tried yet."""
    images = len(after.labels)
    if not after.classifies:
        return "\n".join([accuracy_text("float", before), accuracy_text("quantized", after),
                          *_closeness(before, after), _speed(before, after), *_warning(before, after, plan)])
    same = after.agreement_count(before)
    lines = [
        accuracy_text("float", before), accuracy_text("quantized", after),
        f"agreement  {same}/{images} = {same / images:.2%} of the images get the float network's class",
        _speed(before, after)]
    return "\n".join(lines + _warning(before, after, plan))


def _speed(before: Answers, after: Answers) -> str:
    return f"speed      {after.images_per_second:.1f} images per second quantized, {before.images_per_second:.1f} float"


def _warning(before: Answers, after: Answers, plan: Optional[Plan]) -> List[str]:
    if not collapsed(before, after):
        return []
    what = "images" if after.classifies else f"places, or its outputs are closer than {NOISE:g} dB to noise"
    return [f"warning    the quantized network agrees with the float one on less than {COLLAPSE:.0%} of the {what}: "
            f"try {remedies(plan)}"]


def _closeness(before: Responses, after: Responses) -> List[str]:
    """How close the outputs are to the float network's."""
    same = after.agreement(before)
    lines = [] if same is None else [f"agreement  {same:.2%} of the places have the float network's largest channel"]
    return lines + ["SQNR       " + sqnr_text(after.sqnr(before))]


def sqnr_text(values: Sequence[float]) -> str:
    """Of each output."""
    return ", ".join(f"output {number} {value:.1f} dB" for number, value in enumerate(values))


def chance_text(predictions: Predictions) -> str:
    """What may be wrong where a float network guesses."""
    classes = predictions.outputs or 1
    return (f"warning    the float network is right about {predictions.top1:.1%} of the images, and guessing is about "
            f"{1 / classes:.1%}: are the numbers under Preprocessing those it was trained with (--scale 1 for 0..255, "
            "--mean, --std, --colour bgr), and are labels and order of classes its own? Random weights guess, too")


def remedies(plan: Optional[Plan] = None) -> str:
    """What may help a network that collapsed: what the plan has not done already."""
    entries = plan.entries if plan else ()
    weights = [entry.weight.granularity for entry in entries if entry.weight is not None]
    forced = any("can be negative" in entry.reason for entry in entries)
    tried = [("--quant-type channel", not entries or any(not isinstance(kind, PerChannel) for kind in weights)),
             ("--input-signed auto", forced or not entries)]
    return ", ".join([option for option, helps in tried if helps]
                     + ["another --calib-mode (--compare-calibrators)", "more bits"]) + ", or train"


def collapsed(before: Answers, after: Answers) -> bool:
    """Whether quantization changed so many answers that the network is of no use."""
    if after.classifies:
        return after.agreement_count(before) < COLLAPSE * len(after.labels)
    same = after.agreement(before)
    return min(after.sqnr(before)) < NOISE or (same is not None and same < COLLAPSE)


def engines_text(before: Answers, after: Dict[str, Answers]) -> str:
    """Top-1 in float and in each engine, and how often the class is that of the float network."""
    lines = [accuracy_text("float", before)]
    for name, predictions in after.items():
        if not predictions.classifies:
            lines += [accuracy_text(name, predictions), *("  " + line for line in _closeness(before, predictions))]
            continue
        lines.append(f"{accuracy_text(name, predictions)}   same as float {predictions.agreement_count(before)}/"
                     f"{len(predictions.labels)}")
    return "\n".join(lines)
