# SPDX-License-Identifier: MIT
"""The float network, changed so that it loses less when it is quantized."""

import warnings
from typing import Any, Optional

from gluon_quantize.progress import Silent
from gluon_quantize.runs.requests import PostTrainingRequest, QuantizationRequest
from gluon_quantize.runs.task import Task
from quantize.convert import merge_bn
from quantize.repair.cost import Noise
from quantize.repair.equalize import Equalization
from quantize.repair.equalize import equalize as equalized


def equalize(request: PostTrainingRequest, task: Task, progress: Silent) -> Optional[Equalization]:
    """Equalize the task's float network where that is asked for; tells and returns what was done."""
    if not request.repair.equalize:
        return None
    net = task.net
    net(task.example())  # parameters of unknown shape get theirs
    merge_bn(net)
    images: Any = task.calibration  # there are some where channels are equalized
    bar = progress.bar(images, "equalization")
    done = equalized(net, bar, noise_of(request.quantization), request.run.seed)
    with warnings.catch_warnings():
        # the graph is made here, where it is no cause for alarm that it has no merged BatchNorm's parameters
        warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
        net(task.example())
    progress.tell(done)
    return done


def noise_of(request: QuantizationRequest) -> Noise:
    """The formats that a request asks for; engines have a scale for each channel."""
    if request.target:
        return Noise(granularity="channel")
    weight, inputs = (min(max(bits, 2), 16) for bits in (request.weight_bits, request.input_bits))
    return Noise(weight, inputs, granularity="channel" if request.usual_granularity == "channel" else "layer")
