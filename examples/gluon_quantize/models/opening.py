# SPDX-License-Identifier: MIT
"""The device and the network that a command line names."""

import mxnet as mx

from gluon_quantize.commands.options import network_request, run_request
from gluon_quantize.models import device as devices
from gluon_quantize.models.loading import LoadedModel, open_model


def device(args) -> mx.Context:
    """The context of --use-gpu; ConfigError for a GPU that is not there."""
    return devices.device(run_request(args))


def named_model(args, ctx) -> LoadedModel:
    """The network of --model, --onnx or --symbol with the weights of --params, else with its own or pretrained ones."""
    return open_model(network_request(args, not getattr(args, "from_scratch", False)), ctx)
