# SPDX-License-Identifier: MIT
"""What is said about a calibration."""

from typing import Any, Dict, Optional

from calib.stability import stability_text
from gluon_quantize.report.accuracy import collapsed
from gluon_quantize.runs.calibration import Comparison, Quantized, Trust
from quantize.repair.absorb import Absorption
from quantize.repair.equalize import Equalization
from quantize.repair.equivalence import Equivalence
from quantize.repair.split import Split


def quantized_text(step: Quantized) -> str:
    """How the ranges were decided, one line for each calibrated input, and how far biases were corrected."""
    outcome = step.outcome
    if outcome is None or not outcome.thresholds:
        lines = ["Thresholds: each batch's own range (online)"]
    else:
        width = max(len(path) for path in outcome.thresholds)
        lines = [f"Thresholds by {outcome.method}, {outcome.samples} images"]
        lines += [f"  {path.ljust(width)}  {value:.6g}" for path, value in outcome.thresholds.items()]
    if step.corrections:
        path = max(step.corrections, key=lambda name: abs(step.corrections[name]).max())
        largest = abs(step.corrections[path]).max()
        lines.append(f"Biases of {len(step.corrections)} layers corrected ({step.correction}), by {largest:.6g} at "
                     f"most, in {path}")
    if step.learned:
        lines.append(rounding_text(step))
    return "\n".join(lines)


def rounding_text(step: Quantized) -> str:
    """What learned rounding has bought each layer."""
    width = max(len(layer.path) for layer in step.learned)
    lines = [f"Rounding of {len(step.learned)} layers learned ({step.rounding}); share of noise in their outputs:",
             f"  {'layer'.ljust(width)}  {'learned':>9}  {'nearest':>9}"]
    return "\n".join(lines + [f"  {layer.path.ljust(width)}  {layer.error:9.2e}  {layer.nearest_error:9.2e}"
                              for layer in step.learned])


def equalization_text(done: Equalization) -> str:
    """What equalization has done, and that the float network stayed what it was."""
    return (f"{len(done.factors)} layers equalized: expected noise of quantization {done.expected_before:.3g} -> "
            f"{done.expected_after:.3g} (of it {done.clipped:.3g} by clips that cut elsewhere)\n"
            + equivalence_text(Equivalence(done.images, done.agreement, done.deviation)))


def absorption_text(done: Absorption) -> str:
    """Which biases were absorbed, and that the float network stayed what it was."""
    channels = sum(int((shift > 0).sum()) for shift in done.shifts.values())
    return (f"biases of {channels} channels of {len(done.shifts)} layers absorbed by the next layers\n"
            + equivalence_text(done.equivalence))


def split_text(done: Split) -> str:
    """How many channels were split, and that the float network stayed what it was."""
    return (f"{sum(done.channels.values())} channels of {len(done.channels)} layers split in two\n"
            + equivalence_text(done.equivalence))


def equivalence_text(found: Equivalence) -> str:
    """How far a changed float network is from what it was."""
    return (f"float network before and after: {found.agreement} of {found.images} calibration images the same class, "
            f"outputs differ by {found.deviation:.2g} of their size")


def trust_text(trust: Trust) -> str:
    """How far the thresholds can be trusted, and what never was active."""
    lines = []
    if trust.parts > 1:
        lines.append(stability_text(trust.moved, parts="halves" if trust.parts == 2 else "shards"))
    lines += [f"warning: {path}: 0 for all calibration images; its range is arbitrary" for path in trust.never_active]
    lines += [f"note: {path}: {count} channels are 0 for all calibration images"
              for path, count in trust.silent_channels.items()]
    lines += [f"warning: {path}: all weights of {count} output channels are 0"
              for path, count in trust.dead_channels.items()]
    return "\n".join(lines)


def trust_contents(trust: Optional[Trust]) -> Dict[str, Any]:
    """The same for result.json."""
    if trust is None:
        return {}
    return {"method": trust.method, "samples": trust.samples, "data": trust.data,
            "movement": {item.path: round(item.share, 6) for item in trust.moved},
            "never_active_inputs": trust.never_active, "never_active_channels": trust.silent_channels,
            "dead_channels": trust.dead_channels}


def comparison_text(comparison: Comparison) -> str:
    """The methods side by side."""
    before = comparison.before
    images = len(before.labels)
    if not before.classifies:
        return _closeness_table(comparison)
    lines = [f"{'method':<15}{'Top-1':>8}{'share':>9}{'same as float':>16}{'mean threshold':>18}",
             f"{'float':<15}{before.top1_count:>8}{before.top1:>9.2%}{'-':>16}{'-':>18}"]
    for name in comparison.ranking:
        row = comparison.rows[name]
        after = row.predictions
        lines.append(f"{name:<15}{after.top1_count:>8}{after.top1:>9.2%}{after.agreement_count(before):>16}"
                     f"{row.ratio:>18.3f}{'  collapsed' if collapsed(before, after) else ''}")
    lines.append(f"best: {comparison.best}")
    title = (f"Comparison of calibrations ({images} images; thresholds as shares of the largest magnitude; the best "
             "last)")
    return "\n".join([title, *lines])


def _closeness_table(comparison: Comparison) -> str:
    """The methods side by side, by how close the outputs are to the float network's."""
    before = comparison.before
    lines = [f"Comparison of calibrations ({len(before.labels)} images; thresholds as shares of the largest magnitude)",
             f"{'method':<15}{'least SQNR dB':>15}{'agreement':>11}{'mean threshold':>18}"]
    for name, row in comparison.rows.items():
        same = row.predictions.agreement(before)
        lines.append(f"{name:<15}{min(row.predictions.sqnr(before)):>15.1f}{'-' if same is None else f'{same:.2%}':>11}"
                     f"{row.ratio:>18.3f}{'  collapsed' if collapsed(before, row.predictions) else ''}")
    return "\n".join(lines)


def comparison_contents(comparison: Optional[Comparison]) -> Dict[str, Any]:
    """The same for result.json, with every threshold."""
    if comparison is None:
        return {}
    return {name: {"top1_count": row.predictions.top1_count,
                   "agreement_count": row.predictions.agreement_count(comparison.before),
                   "mean_threshold_ratio": row.ratio, "thresholds": row.thresholds}
            for name, row in comparison.rows.items()}
