# SPDX-License-Identifier: MIT
"""What a deployment prints and writes about itself."""

import json
import pathlib
from typing import Any, Dict, Optional

from gluon_quantize.data.steps import origins
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.report.accuracy import engines_text
from gluon_quantize.report.calibration import trust_contents
from gluon_quantize.report.steps import step_text
from gluon_quantize.report.verification import verification_text
from gluon_quantize.runs.answers import answers_contents, metrics_contents
from gluon_quantize.runs.attempt import Attempt
from gluon_quantize.runs.calibration import Quantized
from gluon_quantize.runs.deploy import DeployResult, Reported, Verified, Warned
from gluon_quantize.runs.goal import Reached, Skipped
from gluon_quantize.runs.outputs import RESULT
from quantize.files import write_whole


def deploy_step_text(step: Any, networks: bool = False) -> Optional[str]:
    """As `step_text`, but of a quantized network only the network: its ranges are in the table that is written."""
    if isinstance(step, Quantized):
        return str(step.net) if networks else None
    return step_text(step, networks)


@step_text.register
def _warned(step: Warned, networks: bool = False) -> str:
    return f"warning: {step.problem}"


@step_text.register
def _verified(step: Verified, networks: bool = False) -> str:
    if step.certificate is None:
        return f"\nNothing is compared: {step.engine} has neither an engine nor an exact simulation here"
    return "\n" + verification_text(step.certificate, step.engine)


@step_text.register
def _attempt(step: Attempt, networks: bool = False) -> str:
    return "tried      " + attempt_text(step)


@step_text.register
def _skipped(step: Skipped, networks: bool = False) -> str:
    return f"skipped    {step.name}: {step.reason}"


@step_text.register
def _reached(step: Reached, networks: bool = False) -> str:
    return "\n" + reached_text(step)


def attempt_text(tried: Attempt) -> str:
    """What an attempt is worth, in a line."""
    engine = "" if tried.milliseconds is None else f", {tried.milliseconds:.2f} ms"
    top1 = "" if tried.drop is None else f"Top-1 {tried.predictions.top1_count} ({-tried.drop:+.2f} points), "
    return (f"{tried.name}: {top1}agreement {tried.agreement:.2%}, {tried.size:,} bytes{engine}; took "
            f"{tried.seconds:.0f} s")


def reached_text(step: Reached) -> str:
    """Whether the goal is kept, and by what."""
    goal = step.goal
    asked = [f"Top-1 at most {goal.drop:g} points below float"] if goal.drop is not None else []
    asked += [f"agreement of at least {goal.agreement:.2%}"] if goal.agreement is not None else []
    verdict = "kept by" if step.holds else "NOT reached by anything that was tried; the best is deployed:"
    return f"goal       {' and '.join(asked)}: {verdict} {step.best.name}"


def reached_contents(step: Reached) -> Dict[str, Any]:
    """The same for result.json."""
    return {"drop": step.goal.drop, "agreement": step.goal.agreement, "holds": step.holds, "best": step.best.name,
            "skipped": [{"name": item.name, "reason": item.reason} for item in step.skipped],
            "tried": [{"name": item.name, "top1_count": item.predictions.top1_count, "drop": item.drop,
                       "agreement": item.agreement, "bytes": item.size, "seconds": item.seconds,
                       "milliseconds": item.milliseconds} for item in step.tried]}


@step_text.register
def _reported(step: Reported, networks: bool = False) -> str:
    return "\n" + step.text


def worth_text(result: DeployResult) -> str:
    """Accuracy in each engine, sizes on disk and, where measured, latency."""
    sizes, latency = result.sizes, result.latency
    lines = [engines_text(result.float, result.accuracy),
             f"size       int8 {sizes['int8']:,} bytes, float {sizes['float']:,}: {sizes['ratio']:.3f}"]
    if latency is not None:
        lines.append(f"latency    int8 {latency['int8']:.2f} ms, float {latency['float']:.2f} ms: "
                     f"{latency['ratio']:.2f} times as fast (one thread, medians of {latency['runs']} runs in turn on "
                     "this machine)")
    return "\n".join(lines)


def write_result(folder: pathlib.Path, settings: Dict[str, Any], result: DeployResult) -> None:
    """result.json; `settings` are the options of the command."""
    def counts(predictions: Answers) -> Dict[str, Any]:
        if not predictions.classifies:
            return {"metrics": dict(predictions.metrics), **predictions.compared(result.float)}
        return {"top1_count": predictions.top1_count, "top5_count": predictions.top5_count,
                "metrics": metrics_contents(predictions), "agreement_count": predictions.agreement_count(result.float)}
    contents = {"settings": dict(settings, preprocessing=result.preprocessing.to_dict(),
                             preprocessing_from=origins(result.preprocessing)),
                "images": len(result.float.labels), "float": counts(result.float),
                "accuracy": {name: counts(predictions) for name, predictions in result.accuracy.items()},
                "sizes": result.sizes, "latency_ms": result.latency,
                "verification": result.certificate["sides"] if result.certificate else {},
                "calibration": trust_contents(result.trust)}
    if result.float.classifies:
        contents["answers"] = answers_contents(result.float, *list(result.accuracy.items())[-1][::-1])
    if result.reached is not None:
        contents["goal"] = reached_contents(result.reached)
    contents["files"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_whole(folder / RESULT, json.dumps(contents, indent=2, sort_keys=True) + "\n")
