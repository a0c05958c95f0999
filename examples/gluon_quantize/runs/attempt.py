# SPDX-License-Identifier: MIT
"""A network quantized in one way of several, to see what that is worth."""

import contextlib
import dataclasses
import time
from typing import Any, List, Optional

import numpy as np
from mxnet.gluon import Block

from calib.budget import LayerSize
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs import checkpoint
from gluon_quantize.runs.calibration import Calibration
from gluon_quantize.runs.repair import repair
from gluon_quantize.runs.requests import PostTrainingRequest
from gluon_quantize.runs.task import Task, convert, evaluation, open_task
from quantize.convert.rules import Plan
from quantize.errors import ConfigError
from quantize.modes import quantized_layers
from quantize.stages import LayerGraph

FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One way to quantize, and what it is worth.

    Attributes
    ----------
    name : str
        What is done.
    request : PostTrainingRequest
    plan : Plan
    predictions : Predictions or Responses
    drop : float or None
        Points of Top-1 lost against the float network; negative where some were won; None without labels.
    agreement : float
        Share of the images with the float network's class; of outputs that are maps, of their places.
    size : int
        Bytes of the parameters, with weights at their bits.
    seconds : float
        Quantizing and evaluating took so long.
    milliseconds : float or None
        Of one image in the engine, where it was asked.
    """

    name: str
    request: PostTrainingRequest
    plan: Plan
    predictions: Answers
    drop: Optional[float]
    agreement: float
    size: int
    seconds: float
    milliseconds: Optional[float] = None


@dataclasses.dataclass
class Quantizing:
    """A network on its way: what an attempt leaves for those who want more of it."""

    task: Task
    calibration: Calibration
    floating: Any = None
    finished: bool = False


def float_predictions(request: PostTrainingRequest, progress: Silent, drops: bool) -> Answers:
    """What the network says before anything is done to it; of a checkpoint the float network under it.

    Parameters
    ----------
    drops : bool
        Whether a drop of Top-1 is to be kept, which takes classes and labels.

    Raises
    ------
    ConfigError
        Where there is no Top-1 to drop, or nothing to agree upon.
    """
    task = open_task(request)
    if drops and not task.classifies:
        raise ConfigError("--accuracy-drop counts Top-1, and here are no labels to count with, or a network that does "
                          "not classify; ask for --agreement with the float network, or give labels")
    progress.tell(task)
    task.net.hybridize(static_alloc=True, static_shape=True)
    with checkpoint.as_float(task.net) if task.model.converted else contextlib.nullcontext():
        found = evaluation(request, task, "float", progress)
    if not found.classifies and found.agreement(found) is None:
        raise ConfigError(f"{task.model.name}: none of its outputs has channels of which one is the largest, so there "
                          "is no agreement to keep or to compare by; quantize it with `simulate` and look at SQNR")
    return found


def calibrated(request: PostTrainingRequest, before: Answers, progress: Silent) -> Quantizing:
    """The network converted, with its ranges; a checkpoint is as it was left."""
    quiet = _Bars(progress)
    task = open_task(request)
    if task.model.converted:
        checkpoint.refuse_formats(request)
        checkpoint.leave_float(task.net, request.quantization.rules)
        checkpoint.settle(task.net)
        left = Calibration(request, task, before, quiet)
        left.outcome = checkpoint.outcome_of(task.net)
        return Quantizing(task, left, finished=True)
    repair(request, task, quiet)
    convert(request.quantization, task)
    calibration = Calibration(request, task, before, quiet)
    calibration.calibrate()
    return Quantizing(task, calibration)


def attempt(name: str, request: PostTrainingRequest, before: Answers, progress: Silent, measured: Any = None
            ) -> Attempt:
    """Quantize as a request says, and evaluate.

    Parameters
    ----------
    before : Predictions or Responses
        Of the float network.
    measured : object, optional
        ``floating(task)`` is called with the task before and ``milliseconds(quantizing)`` after the network computes
        quantized; for the engine's time.
    """
    start = time.perf_counter()
    work = calibrated(request, before, progress)
    if measured is not None:
        work.floating = measured.floating(work.task)
    if not work.finished:
        work.calibration.switch_to_quantized()
    after = work.calibration.evaluated()
    milliseconds = None if measured is None else measured.milliseconds(work)
    net = work.task.net
    drop = 100 * (before.top1 - after.top1) if after.classifies else None
    agreement = after.agreement_count(before) / len(after.labels) if after.classifies else after.agreement(before)
    return Attempt(name, request, net.plan, after, drop, agreement, parameter_bytes(net), time.perf_counter() - start,
                   milliseconds)


class _Bars(Silent):
    """Shows bars, and tells nothing: many attempts would tell the same."""

    def __init__(self, progress: Silent):
        # mypy: methods are put in place of methods
        self.bar, self.counter = progress.bar, progress.counter  # type: ignore[method-assign]


def layer_size(layer: Any, products: int = 0) -> LayerSize:
    """What the bits of a quantized layer cost."""
    quantizer = layer.weight_quantizer
    others = (0 if layer.bias is None else int(np.prod(layer.bias.shape))) + int(np.prod(quantizer.scale.shape))
    return LayerSize(int(np.prod(layer.weight.shape)), others, products)


def parameter_bytes(net: Block) -> int:
    """Bytes of a converted network's layers: quantized weights at their bits, everything else at 32."""
    quantized, total = dict(quantized_layers(net)), 0
    for path, layer in LayerGraph(net).layers.items():
        quantizer = getattr(quantized.get(path), "weight_quantizer", None)
        if quantizer is not None and quantizer.mode != "float":
            total += layer_size(layer).size((quantizer.spec.bits, FLOAT_BITS))
        else:
            total += 4 * sum(int(np.prod(p.shape)) for p in (layer.weight, layer.bias) if p is not None)
    return total


__all__: List[str] = ["Attempt", "Quantizing", "SILENT", "attempt", "calibrated", "float_predictions", "layer_size",
                      "parameter_bytes"]
