# SPDX-License-Identifier: MIT
"""What each layer of a task's network costs."""

from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import mxnet as mx
import numpy as np

from calib.ranges import rescaled
from calib.sensitivity import Effect, Extent, Sensitivities, sensitivities
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.progress import Silent
from gluon_quantize.runs.material import Material
from gluon_quantize.runs.methods import named_method
from gluon_quantize.runs.observation import Outcome
from gluon_quantize.runs.requests import PostTrainingRequest, SensitivityRequest
from gluon_quantize.runs.subject import checkpoint_of
from gluon_quantize.runs.task import Task
from gluon_quantize.training.loop import fixed_ranges
from quantize.errors import DataError
from quantize.modes import quantized_layers, quantizers
from quantize.spec import QParams, QuantSpec

BATCH = 16  # images


def measure(request: PostTrainingRequest, asked: SensitivityRequest, task: Task, outcome: Outcome,
            progress: Silent) -> Sensitivities:
    """The sensitivities of a converted and calibrated network, on the first of its calibration images."""
    parts = list(first_images(task.calibration, asked.images))
    labels = [label for _, of_part in parts for label in of_part]
    return sensitivities(task.net, [part for part, _ in parts], asked.bits, labels=labels,
                         ranges=ranges_of(request, task, outcome), extent=Extent(asked.operands),
                         progress=lambda items: progress.bar(items, "sensitivity", "layer"))


def of_checkpoint(found: Material, request: ImagesRequest, images: int, bits: Sequence[int],
                  progress: Silent) -> Dict[str, Any]:
    """The same of a checkpoint, on the first images of its data: `sensitivity_contents`.

    Inputs cover at other bits what they cover now.
    """
    subject = checkpoint_of(found, request)
    if subject.images is None:
        raise DataError(" ".join(subject.notes))
    arrays = subject.images.prepared(images)
    batches = (mx.nd.array(np.stack(arrays[start:start + BATCH])) for start in range(0, len(arrays), BATCH))
    labels = subject.images.images.labels[:len(arrays)].tolist() if subject.images.images.labelled else None
    with fixed_ranges(subject.net):
        return sensitivity_contents(sensitivities(
            subject.net, batches, bits, labels=labels,
            progress=lambda items: progress.bar(items, "sensitivity", "layer")))


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


def first_images(batches: Any, count: int) -> Iterator[Tuple[mx.nd.NDArray, List[int]]]:
    """Batches of the first images, with their labels."""
    left = count
    for part, labels in batches:
        yield part[:left], list(labels[:left])
        left -= len(part)
        if left <= 0:
            return


def sensitivity_contents(found: Sensitivities) -> Dict[str, Any]:
    """The measurements as result.json holds them."""
    rows = [dict(_numbers(row.effect), layer=row.layer, operand=row.operand, bits=row.bits, images=row.images)
            for row in found.rows]
    return {"images": found.images, "passes": found.passes, "layers_times_bits": found.naive, "ratio": found.ratio,
            "rows": rows,
            "everything": {str(bits): _numbers(effect) for bits, effect in found.everything.items()}}


def _numbers(effect: Effect) -> Dict[str, Any]:
    sqnr = None if effect.sqnr == float("inf") else effect.sqnr
    return {"sqnr_db": sqnr, "kl": effect.divergence, "agreement": effect.agreement, "top1_count": effect.top1}
