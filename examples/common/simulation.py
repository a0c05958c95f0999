# SPDX-License-Identifier: MIT
"""The steps of a simulation: open, convert, calibrate, evaluate."""

import itertools
import os
from dataclasses import dataclass
from typing import Optional, Sequence

import mxnet as mx
import numpy as np
from tqdm import tqdm

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
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

LAYERS = ("Conv2D", "Conv2DTranspose", "Dense")


@dataclass(frozen=True)
class Task:
    """A network with the images to evaluate it on, those to calibrate it on, and the rules of the --config file."""

    model: LoadedModel
    dataset: str
    images: ImageSet
    calibration: Optional[Batches]
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
    calibration = calibration_batches(args, dataset, steps) if args.quantize_input_offline else None
    return Task(model, dataset, open_dataset(dataset, args.data_dir, "test"), calibration, rules, steps, ctx)


def _refuse_unavailable(args):
    if args.wino_quantize != "none":
        raise ConfigError("--wino-quantize {}: Winograd-domain quantization is not yet available; leave the option "
                          "out".format(args.wino_quantize))
    if args.calib_mode not in CALIBRATORS.names():
        raise ConfigError("--calib-mode {}: this calibration is not yet available; use one of: {}".format(
            args.calib_mode, ", ".join(CALIBRATORS.names())))


def _context(args):
    if args.disable_cudnn_autotune:
        os.environ["MXNET_CUDNN_AUTOTUNE_DEFAULT"] = "0"
    if args.use_gpu < 0:
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


def calibration_batches(args, dataset, preprocessing) -> Batches:
    """Batches of a class-balanced part of the calibration images."""
    folder = args.calib_data_dir or args.data_dir
    images = open_dataset(dataset, folder, "train")
    indices = balanced_indices(images.labels, args.num_sample, args.fixed_random_seed)
    if args.num_calib_batches is not None:
        indices = indices[:args.num_calib_batches * args.batch_size]
    if not len(indices):
        raise CalibrationError("the calibration set {} is empty".format(folder or dataset))
    return batches(images, preprocessing, args.batch_size, indices, args.num_workers)


def calibration_passes(args, task: Task):
    """After each pass over the calibration images yields (number of the pass, thresholds so far)."""
    calibrator = CALIBRATORS.get(args.calib_mode)()
    observers = None
    for number in itertools.count(1):
        bar = tqdm(task.calibration, desc="calibration {}/{}".format(number, args.calib_epoch), unit="batch",
                   disable=None)
        observers = observe(task.model.net, bar, calibrator, observers, task.ctx)
        yield number, calibrate(task.model.net, observers, calibrator)
        if number == args.calib_epoch:
            return


def switch_to_quantized(args, net):
    """Weights quantized once, inputs with calibrated or with each batch's range."""
    quantize_input(net, enable=True, online=not args.quantize_input_offline)
    fix_params(net)
