# SPDX-License-Identifier: MIT
"""The device and the network that a command line names."""

import os

import mxnet as mx

from gluon_quantize.models.loading import LoadedModel, ModelSource, open_model
from quantize.errors import ConfigError
from quantize.ops import backend


def device(args) -> mx.Context:
    """The context of --use-gpu; ConfigError for a GPU that is not there."""
    if args.disable_cudnn_autotune:
        os.environ["MXNET_CUDNN_AUTOTUNE_DEFAULT"] = "0"
    if args.use_gpu < 0:
        backend()  # loads the native operators now: their memory settings speed the float network up as well
        return mx.cpu()
    count = mx.context.num_gpus()
    if args.use_gpu >= count:
        raise ConfigError("--use-gpu {}: MXNet sees {} GPUs here; use -1 for the CPU{}".format(
            args.use_gpu, count, "" if count else " (GPUs need the mxnet-cu112 wheel)"))
    return mx.gpu(args.use_gpu)


def named_model(args, ctx) -> LoadedModel:
    """The network of --model, --onnx or --symbol with the weights of --params, else with its own or pretrained ones."""
    options = {name: True for name in ("use_gn", "batch_norm", "use_se", "last_gamma") if getattr(args, name)}
    pretrained = not args.params and not getattr(args, "from_scratch", False)
    return open_model(ModelSource(name=args.model or "", onnx=args.onnx or "", symbol=args.symbol or "",
                                  params=args.params or "", pretrained=pretrained, options=options), ctx)
