# SPDX-License-Identifier: MIT
"""Try methods in the order of their costs, until a network keeps what it must."""

import pathlib
import tempfile
from dataclasses import dataclass, replace
from typing import Iterator, List, Optional, Tuple

import numpy as np

from calib.sensitivity import LAYER, effect
from deploy.target import Target
from gluon_quantize.models.evaluation import Predictions, first_output
from gluon_quantize.models.loading import open_model
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs import checkpoint, proof
from gluon_quantize.runs.attempt import Attempt, attempt, calibrated, float_predictions
from gluon_quantize.runs.deployment import INTEGER, deployment, lowered, write_files
from gluon_quantize.runs.methods import named_method
from gluon_quantize.runs.requests import AUTO, GoalRequest, PostTrainingRequest, SensitivityRequest
from gluon_quantize.runs.sensitivity import first_images, measure
from gluon_quantize.runs.task import open_task
from quantize.config import Rule
from quantize.errors import QuantizeError
from quantize.modes import quantized_layers

CALIBRATIONS = ("sqnr", "mse", "kl", "percentile")
LATENCY_RUNS = 5
MOST_BITS = 8


@dataclass(frozen=True)
class Skipped:
    """What could not be tried, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Reached:
    """The end of a search.

    Attributes
    ----------
    goal : GoalRequest
    best : Attempt
        The first that holds; where none does, the one that comes nearest.
    holds : bool
    tried : list of Attempt
    skipped : list of Skipped
    """

    goal: GoalRequest
    best: Attempt
    holds: bool
    tried: List[Attempt]
    skipped: List[Skipped]


def reach(goal: GoalRequest, request: PostTrainingRequest, target: Optional[Target], progress: Silent) -> Reached:
    """The first attempt that keeps the goal, of calibrations, bias correction, equalization, rounding, float layers.

    Parameters
    ----------
    request : PostTrainingRequest
        What is tried first; what is tried next changes it.
    target : Target, optional
        Its engine's time is taken for each attempt; None: no time is.
    progress : Silent
        Is told each Attempt or Skipped, and Reached.
    """
    before = float_predictions(request, progress, goal.drop is not None)
    timed = None if target is None or target.engine is None else _Timed(request, target)
    tried: List[Attempt] = []
    skipped: List[Skipped] = []
    ladder = _trained_ladder if is_trained(request) else _ladder
    for name, changed in ladder(goal, request, before, tried, progress):
        try:
            tried.append(attempt(name, changed, before, progress, timed))
        except QuantizeError as error:
            if not tried:
                raise
            skipped.append(Skipped(name, str(error)))  # this network, or these images, do not allow it
            progress.tell(skipped[-1])
            continue
        progress.tell(tried[-1])
        if missing(goal, tried[-1]) <= 0:
            break
    best = _best(goal, tried)
    found = Reached(goal, best, missing(goal, best) <= 0, tried, skipped)
    progress.tell(found)
    return found


def missing(goal: GoalRequest, tried: Attempt) -> float:
    """How many points an attempt lacks to the goal; 0 or less where it holds."""
    lacking = []
    if goal.drop is not None:
        lacking.append((tried.drop or 0.0) - goal.drop)
    if goal.agreement is not None:
        lacking.append(100 * (goal.agreement - tried.agreement))
    return max(max(lacking), 0.0) if max(lacking) > 1e-9 else 0.0


def _best(goal, tried):
    """The attempt that lacks least; of several the one with the higher agreement, the earlier one of equals."""
    return min(tried, key=lambda item: (missing(goal, item), -item.agreement))


def _ladder(goal, request, before, tried, progress) -> Iterator[Tuple[str, PostTrainingRequest]]:
    """What to try next, the cheapest first; each rung changes the best that was found before it."""
    yield f"{request.calibration.method}, as asked", request
    known = named_method(request.calibration.method).name
    if not request.calibration.files.load_table:
        for method in CALIBRATIONS:
            if named_method(method).name != known:
                yield method, replace(request, calibration=replace(request.calibration, method=method))
    best = _best(goal, tried).request
    if best.calibration.bias_correction != "sequential" and best.repair.rounding == "none":
        yield _after(best, "biases corrected"), replace(best, calibration=replace(best.calibration,
                                                                                bias_correction="sequential"))
    best = _best(goal, tried).request
    if not best.repair.equalize:
        yield _after(best, "equalized"), replace(best, repair=replace(best.repair, equalize=True))
    best = _best(goal, tried).request
    if best.repair.rounding == "none":
        yield _after(best, "rounding learned"), replace(
            best, repair=replace(best.repair, rounding="gptq"), calibration=replace(best.calibration,
                                                                                   bias_correction=AUTO))
    yield from _float_layers(_best(goal, tried).request, before, progress)


def is_trained(request: PostTrainingRequest) -> bool:
    """Whether the network is a checkpoint that is quantized already."""
    return bool(request.network.checkpoint) and open_model(request.network).converted


def _trained_ladder(goal, request, before, tried, progress) -> Iterator[Tuple[str, PostTrainingRequest]]:
    """The checkpoint as it was left, then ever more of its layers in float: nothing else of it is to be changed."""
    yield "as the checkpoint is", request
    yield from _floats(request, harm(request, progress), "")


def harm(request: PostTrainingRequest, progress: Silent) -> List[Tuple[str, ...]]:
    """Layers of a checkpoint, with those that share their input; the ones first whose rounding costs most."""
    asked = SensitivityRequest()
    task = open_task(replace(request, sensitivity=asked))
    images = [part for part, _ in first_images(task.calibration, asked.images)]
    checkpoint.settle(task.net)

    def outputs():
        return np.concatenate([first_output(task.net(part)).asnumpy() for part in images])
    with checkpoint.as_float(task.net):
        wanted = outputs()
    costs = {}
    for paths in progress.bar(checkpoint.units(task.net), "sensitivity", "layer"):
        quantizers = [quantizer for path, layer in quantized_layers(task.net) if path in paths
                      for _, quantizer in layer.quantizers()]
        with checkpoint.some_float(task.net, quantizers):
            costs[paths] = effect(wanted, outputs()).divergence
    return sorted(costs, key=lambda paths: costs[paths])


def _after(request, what):
    """A name for what is added to a request."""
    done = [request.calibration.method]
    if request.calibration.bias_correction == "sequential":
        done.append("biases corrected")
    if request.repair.equalize:
        done.append("equalized")
    if request.repair.rounding != "none":
        done.append("rounding learned")
    return ", ".join([*done, what])


def _float_layers(request, before, progress):
    """Ever more layers in float, the most harmful first, but never all."""
    work = calibrated(request, before, progress)
    asked = SensitivityRequest(bits=(MOST_BITS,), operands=(LAYER,))
    table = measure(request, asked, work.task, work.calibration.decided, progress).table(LAYER)
    harmful = sorted(table, key=lambda path: table[path][MOST_BITS].divergence)
    yield from _floats(request, [(path,) for path in harmful], _after(request, ""))


def _floats(request, harmful, before):
    """The request with ever more of the layers in float; those of one tuple go together."""
    count, total = 1, sum(map(len, harmful))
    while count < len(harmful):
        paths = [path for together in harmful[:count] for path in together]
        rule = Rule(op_names=tuple(paths), exclude=True, reason="accuracy goal")
        yield (f"{before}{len(paths)} of {total} layers float ({', '.join(paths[:3])}"
               + (", ..." if len(paths) > 3 else "") + ")",
               replace(request, quantization=replace(request.quantization, rules=request.quantization.rules + (rule,))))
        count *= 2


class _Timed:
    """Takes the engine's time of an attempt."""

    def __init__(self, request: PostTrainingRequest, target: Target):
        self._request, self._target = request, target

    def floating(self, task):
        """The network lowered in float, before its biases are corrected."""
        return lowered(self._target, task, integers=False)

    def milliseconds(self, work) -> float:
        """Of one image, in one thread."""
        deployed = deployment(self._target, work.calibration, work.floating, False)
        with tempfile.TemporaryDirectory() as folder:
            write_files(pathlib.Path(folder), deployed, ())
            return proof.latencies(work.task, deployed, pathlib.Path(folder), LATENCY_RUNS, SILENT)[INTEGER]


__all__ = ["Predictions", "Reached", "missing", "reach"]
