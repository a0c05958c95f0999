# SPDX-License-Identifier: MIT
"""The device that a run computes on."""

import os

import mxnet as mx
import numpy as np

from gluon_quantize.models.request import RunRequest
from quantize.errors import ConfigError
from quantize.ops import backend


def start(request: RunRequest) -> mx.Context:
    """The context that is asked for, with the random generators at their seed; ConfigError for a GPU not there."""
    ctx = device(request)
    np.random.seed(request.seed)
    mx.random.seed(request.seed)
    return ctx


def device(request: RunRequest) -> mx.Context:
    """The context that is asked for; ConfigError for a GPU that is not there."""
    if not request.cudnn_autotune:
        os.environ["MXNET_CUDNN_AUTOTUNE_DEFAULT"] = "0"
    if request.gpu < 0:
        backend()  # loads the native operators now: their memory settings speed the float network up as well
        return mx.cpu()
    count = mx.context.num_gpus()
    if request.gpu >= count:
        raise ConfigError(f"--use-gpu {request.gpu}: MXNet sees {count} GPUs here; use -1 for the CPU"
                          f"{'' if count else ' (GPUs need the mxnet-cu112 wheel)'}")
    return mx.gpu(request.gpu)
