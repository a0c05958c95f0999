# SPDX-License-Identifier: MIT
"""The float network, changed so that it loses less when it is quantized."""

import warnings
from typing import Any

from gluon_quantize.progress import Silent
from gluon_quantize.runs.requests import PostTrainingRequest, QuantizationRequest
from gluon_quantize.runs.task import Task
from quantize.convert import merge_bn
from quantize.repair.absorb import absorb
from quantize.repair.cost import Noise
from quantize.repair.equalize import equalize
from quantize.repair.split import split_outliers


def repair(request: PostTrainingRequest, task: Task, progress: Silent) -> None:
    """Change the task's float network as is asked for; tells what was done.

    Each step reads the network that the one before it left, on the calibration images.
    """
    asked = request.repair
    if not asked.changes_float:
        return
    net, noise = task.net, noise_of(request.quantization)
    images: Any = task.calibration  # there are some where channels are changed
    net(task.example())  # parameters of unknown shape get theirs
    merge_bn(net)
    if asked.equalize:
        progress.tell(equalize(net, progress.bar(images, "equalization"), noise, request.run.seed))
    if asked.absorb:
        progress.tell(absorb(net, progress.bar(images, "absorbing biases")))
    if asked.split:
        progress.tell(split_outliers(net, images, noise, asked.split))
    with warnings.catch_warnings():
        # the graph is made here, where it is no cause for alarm that it has no merged BatchNorm's parameters
        warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
        net(task.example())


def noise_of(request: QuantizationRequest) -> Noise:
    """The formats that a request asks for; engines have a scale for each channel."""
    if request.target:
        return Noise(granularity="channel")
    weight, inputs = (min(max(bits, 2), 16) for bits in (request.weight_bits, request.input_bits))
    return Noise(weight, inputs, granularity="channel" if request.usual_granularity == "channel" else "layer")
