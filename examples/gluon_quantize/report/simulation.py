# SPDX-License-Identifier: MIT
"""What a simulation writes."""

import json
import pathlib
from typing import Any, Dict

from deploy.proof.compare import Difference
from gluon_quantize.data.steps import origins
from gluon_quantize.models.checkpoint import NETWORK
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.report.calibration import comparison_contents, trust_contents
from gluon_quantize.report.sensitivity import write_plot
from gluon_quantize.runs.answers import answers_contents, metrics_contents
from gluon_quantize.runs.backend import Nearness
from gluon_quantize.runs.outputs import PLAN, RESULT
from gluon_quantize.runs.sensitivity import sensitivity_contents
from gluon_quantize.runs.simulate import SimulateResult
from quantize.files import PathLike, write_whole


def result_contents(settings: Dict[str, Any], result: SimulateResult) -> Dict[str, Any]:
    """The contents of result.json; `settings` are the options of the command."""
    before: Answers = result.float
    after: Answers = result.quantized
    return {"settings": dict(settings, preprocessing=result.preprocessing.to_dict(),
                             preprocessing_from=origins(result.preprocessing)), "images": len(after.labels),
            "float": _counts(before), "quantized": _counts(after), "agreement_count": after.agreement_count(before),
            "images_per_second": after.images_per_second, "thresholds": result.thresholds,
            "top1_count_per_calibration": result.history, "calibration": trust_contents(result.trust),
            "bias_corrections": {path: values.tolist() for path, values in result.corrections.items()},
            "comparison": comparison_contents(result.comparison), **_asked_contents(result)}


def _asked_contents(result: SimulateResult) -> Dict[str, Any]:
    """What is there for options alone, and for one kind of networks."""
    found: Dict[str, Any] = {}
    before: Answers = result.float
    after: Answers = result.quantized
    if not after.classifies:
        found["responses"] = after.compared(before)
    else:
        found["answers"] = answers_contents(before, after, "the simulation")
    if result.learned:
        found["rounding"] = {layer.path: {"error": layer.error, "nearest_error": layer.nearest_error}
                             for layer in result.learned}
    if result.nearness is not None:
        found["backend"] = nearness_contents(result.nearness)
    if result.sensitivities is not None:
        found["sensitivity"] = sensitivity_contents(result.sensitivities)
    return found


def nearness_contents(nearness: Nearness) -> Dict[str, Any]:
    """How far a back end's codes are from those of the network as it was converted."""
    def numbers(difference: Difference) -> Dict[str, Any]:
        return {"codes": difference.elements, "identical": difference.identical, "largest": difference.largest}
    return {"name": nearness.backend, "versions": nearness.versions, "images": nearness.images,
            "total": numbers(nearness.total),
            "layers": {path: numbers(difference) for path, difference in nearness.codes.items()}}


def nearness_text(nearness: Nearness) -> str:
    """The same in words, with the layer that is farthest."""
    total = nearness.total
    engine = " ".join(f"{name} {version}" for name, version in nearness.versions.items())
    worst = min(nearness.codes, key=lambda path: nearness.codes[path].share)
    text = (f"Back end {nearness.backend} ({engine}): of {total.elements:,} codes of {nearness.images} images "
            f"{total.share:.4%} are the converted network's own")
    return text if total.exact else (f"{text}, others up to {total.largest:g} LSB away; fewest, "
                                     f"{nearness.codes[worst].share:.2%}, where {worst} reads")


def _counts(predictions: Answers) -> Dict[str, Any]:
    if not predictions.classifies:
        return {"metrics": dict(predictions.metrics), "images_per_second": predictions.images_per_second}
    return {"top1_count": predictions.top1_count, "top5_count": predictions.top5_count,
            "metrics": metrics_contents(predictions), "mean_class_accuracy": predictions.mean_class_accuracy,
            "images_per_second": predictions.images_per_second}


def write_result(output: PathLike, settings: Dict[str, Any], result: SimulateResult) -> None:
    """result.json, plan.txt and the checkpoint in a folder."""
    folder = pathlib.Path(output)
    write_whole(folder / PLAN, str(result.plan) + "\n")
    if result.sensitivities is not None:
        write_plot(folder, result.sensitivities)
    if result.known is not None:
        result.known.save_if_possible(result.net, folder / NETWORK)
    contents = result_contents(settings, result)
    write_whole(folder / RESULT, json.dumps(contents, indent=2, sort_keys=True) + "\n")
