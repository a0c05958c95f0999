# SPDX-License-Identifier: MIT
"""The steps of a simulation: open, convert, calibrate, evaluate."""

import os
from dataclasses import dataclass
from typing import Optional, Sequence

import mxnet as mx
import numpy as np

from calib.table import data_fingerprint
from common.batches import Batches, batches
from common.datasets import balanced_indices, open_dataset
from common.evaluate import evaluate
from common.image_set import ImageSet
from common.models import LoadedModel, ModelSource, open_model
from common.preprocess import PRESETS, Preprocessing
from quantize.config import Format, Rule, load_config
from quantize.convert import convert_model, merge_bn, trace
from quantize.errors import CalibrationError, ConfigError
from quantize.modes import fix_params, quantize_input
from quantize.ops import backend

LAYERS = ("Conv2D", "Conv2DTranspose", "Dense")


@dataclass(frozen=True)
class Task:
    """A network with the images to evaluate it on, those to calibrate it on, and the rules of the --config file.

    Attributes
    ----------
    calibration : Batches or None
        With --calib-shard only the shard's images.
    calibration_set : str
        Fingerprint of the images of all shards.
    """

    model: LoadedModel
    dataset: str
    images: ImageSet
    calibration: Optional[Batches]
    calibration_set: str
    rules: Sequence[Rule]
    preprocessing: Preprocessing
    ctx: mx.Context


def open_task(args) -> Task:
    """Everything that can be wrong with names and files is found here, before work begins."""
    _refuse_unavailable(args)
    ctx = _context(args)
    rules = load_config(args.config) if args.config else ()
    np.random.seed(args.fixed_random_seed)
    mx.random.seed(args.fixed_random_seed)
    options = {name: True for name in ("use_gn", "batch_norm", "use_se", "last_gamma") if getattr(args, name)}
    model = open_model(ModelSource(name=args.model or "", onnx=args.onnx or "", symbol=args.symbol or "",
                                   params=args.params or "", pretrained=not args.params, options=options), ctx)
    dataset = args.dataset or model.dataset_hint or "imagenet"
    steps = (model.preprocessing or PRESETS[dataset]()).override(resize=args.resize, crop=args.crop)
    calibration, calibration_set = None, "-"
    searches = args.compare_calibrators or args.calib_mode == "easyquant"
    if args.quantize_input_offline and not args.load_table and (searches or not args.merge_states):
        calibration, calibration_set = calibration_batches(args, dataset, steps)
    return Task(model, dataset, open_dataset(dataset, args.data_dir, "test"), calibration, calibration_set, rules,
                steps, ctx)


def _refuse_unavailable(args):
    if args.wino_quantize != "none":
        raise ConfigError("--wino-quantize {}: Winograd-domain quantization is not yet available; leave the option "
                          "out".format(args.wino_quantize))


def _context(args):
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


def convert(args, task: Task):
    """The network quantized as the options say; its BatchNorms merged first where asked."""
    net = task.model.net
    net(mx.nd.zeros((1,) + _image_shape(task), ctx=task.ctx))  # parameters of unknown shape get theirs
    if args.merge_bn:
        merge_bn(net)
    signed = {"auto": None, "true": True, "false": False}[args.input_signed]
    rules = [Rule(op_types=LAYERS, weight=Format(args.weight_bits_width, True, args.quant_type),
                  input=Format(args.input_bits_width, signed), reason="command line")]
    if args.exclude_first_conv == "true":
        first = tuple(trace(net).first_layers())
        rules.append(Rule(op_names=first, exclude=True, reason="first convolution"))
    rules += task.rules
    net.hybridize(static_alloc=True, static_shape=True)
    return convert_model(net, config_list=rules)


def _image_shape(task):
    images = task.preprocessing.apply(task.images.load(0), task.images.origin(0))
    return images.shape


def evaluation(args, task: Task, description):
    """Predictions of the task's network in its present state."""
    indices = None if args.num_images is None else np.arange(min(args.num_images, len(task.images)))
    return evaluate(task.model.net, batches(task.images, task.preprocessing, args.batch_size, indices,
                                            args.num_workers), task.ctx, description)


def calibration_batches(args, dataset, preprocessing):
    """(Batches of a class-balanced part of the calibration images, or of one shard of it; fingerprint of all of it)."""
    folder = args.calib_data_dir or args.data_dir
    images = open_dataset(dataset, folder, "train")
    indices = balanced_indices(images.labels, args.num_sample, args.fixed_random_seed)
    if args.num_calib_batches is not None:
        indices = indices[:args.num_calib_batches * args.batch_size]
    if args.num_calib_images is not None:
        indices = indices[:args.num_calib_images]
    if not len(indices):
        raise CalibrationError("the calibration set {} is empty".format(folder or dataset))
    everything = data_fingerprint(images.identity(index) for index in indices)
    if args.calib_shard:
        shard, shards = args.calib_shard
        indices = indices[shard - 1::shards]
        if not len(indices):
            raise CalibrationError("--calib-shard {}/{}: no image is left for this shard; use fewer shards".format(
                shard, shards))
    return batches(images, preprocessing, args.batch_size, indices, args.num_workers), everything


def switch_to_quantized(args, net):
    """Weights quantized once, inputs with calibrated or with each batch's range; a table has set the modes already."""
    if not args.load_table:
        quantize_input(net, enable=True, online=not args.quantize_input_offline)
    fix_params(net)
