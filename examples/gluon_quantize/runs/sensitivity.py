# SPDX-License-Identifier: MIT
"""What each layer of a task's network costs."""

from typing import Callable, Dict, Iterator, List, Tuple

import mxnet as mx

from calib.ranges import rescaled
from calib.sensitivity import Extent, Sensitivities, sensitivities
from gluon_quantize.progress import Silent
from gluon_quantize.runs.methods import named_method
from gluon_quantize.runs.observation import Outcome
from gluon_quantize.runs.requests import PostTrainingRequest, SensitivityRequest
from gluon_quantize.runs.task import Task
from quantize.modes import quantized_layers, quantizers
from quantize.spec import QParams, QuantSpec


def measure(request: PostTrainingRequest, asked: SensitivityRequest, task: Task, outcome: Outcome,
            progress: Silent) -> Sensitivities:
    """The sensitivities of a converted and calibrated network, on the first of its calibration images."""
    images, labels = _first(task.calibration, asked.images)
    return sensitivities(task.net, images, asked.bits, labels=labels, ranges=ranges_of(request, task, outcome),
                         progress=lambda items: progress.bar(items, "sensitivity", "layer"),
                         extent=Extent(asked.operands))


def ranges_of(request: PostTrainingRequest, task: Task, outcome: Outcome) -> Callable[[str, QuantSpec], QParams]:
    """Ranges of inputs at any bits: decided anew from what was observed; of a table the same, with other steps."""
    layers = dict(quantized_layers(task.net))
    if not outcome.observers:
        return rescaled(layers)
    assert request.calibration is not None  # it has observed
    calibrator = named_method(request.calibration.method).calibrator
    seen_by = {id(quantizer): path for path, quantizer in quantizers(task.net, "activation")}
    known: Dict[Tuple[str, QuantSpec], QParams] = {}

    def ranges(path: str, spec: QuantSpec) -> QParams:
        first = seen_by[id(layers[path.rpartition(".")[0]].input_quantizer)]
        if (first, spec) not in known:
            known[first, spec] = calibrator(outcome.observers[first][calibrator.observer], spec)
        return known[first, spec]
    return ranges


def _first(batches, count) -> Tuple[Iterator[mx.nd.NDArray], List[int]]:
    """(batches of the first images, their labels)."""
    images: List[mx.nd.NDArray] = []
    labels: List[int] = []
    for part, of_part in batches:
        taken = min(count - len(labels), len(part))
        images.append(part[:taken])
        labels += list(of_part[:taken])
        if len(labels) == count:
            break
    return iter(images), labels
