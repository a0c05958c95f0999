# SPDX-License-Identifier: MIT
"""The steps of a simulation: open, convert, calibrate, evaluate."""

from dataclasses import dataclass
from typing import List, Optional, Sequence

import mxnet as mx
import numpy as np

from calib.bias_correction import correct_biases
from calib.table import data_fingerprint
from calib.tiles import calibrate_tiles
from gluon_quantize.commands.options import winograd_format
from gluon_quantize.data.batches import Batches, batches
from gluon_quantize.data.datasets import balanced_indices, open_dataset
from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.preprocess import PRESETS, Preprocessing
from gluon_quantize.models.evaluation import evaluate
from gluon_quantize.models.loading import LoadedModel
from gluon_quantize.models.opening import device, named_model
from quantize.config import Format, Rule, load_config
from quantize.convert import convert_model, merge_bn, trace
from quantize.convert.targets import find_target
from quantize.errors import CalibrationError, ConfigError
from quantize.modes import fix_params, quantize_input
from quantize.winograd import NONE, parse_winograd

LAYERS = ("Conv2D", "Conv2DTranspose", "Dense")
PLAIN_FORMATS = {"weight_bits_width": 8, "input_bits_width": 8, "input_signed": "auto", "quant_type": "layer",
                 "wino_quantize": "none"}


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
    _check_formats(args)
    ctx = device(args)
    rules = load_config(args.config) if args.config else ()
    np.random.seed(args.fixed_random_seed)
    mx.random.seed(args.fixed_random_seed)
    model = named_model(args, ctx)
    dataset = args.dataset or model.dataset_hint or "imagenet"
    steps = (model.preprocessing or PRESETS[dataset]()).override(resize=args.resize, crop=args.crop)
    calibration, calibration_set = None, "-"
    searches = args.compare_calibrators or args.calib_mode == "easyquant"
    observes = args.quantize_input_offline and not args.load_table and (searches or not args.merge_states)
    tiles = args.wino_inputs and args.quantize_input_offline
    if observes or tiles or args.bias_correction != "none":
        calibration, calibration_set = calibration_batches(args, dataset, steps)
    return Task(model, dataset, open_dataset(dataset, args.data_dir, "test"), calibration, calibration_set, rules,
                steps, ctx)


def _check_formats(args):
    winograd_format(args)
    find_target(args.target)
    given = [option for option, plain in PLAIN_FORMATS.items() if getattr(args, option) != plain]
    if args.target and given:
        raise ConfigError("--target {}: the engine decides the formats; leave out --{}, or write rules for single "
                          "layers into a --config file".format(args.target, given[0].replace("_", "-")))


def convert(args, task: Task):
    """The network quantized as the options say; its BatchNorms merged first where asked."""
    net = task.model.net
    net(mx.nd.zeros((1,) + _image_shape(task), ctx=task.ctx))  # parameters of unknown shape get theirs
    if args.merge_bn:
        merge_bn(net)
    rules = [] if args.target else _formats(args)
    if args.exclude_first_conv == "true":
        first = tuple(trace(net).first_layers())
        rules.append(Rule(op_names=first, exclude=True, reason="first convolution"))
    rules += task.rules
    net.hybridize(static_alloc=True, static_shape=True)
    return convert_model(net, config_list=rules, target=args.target)


def _formats(args) -> List[Rule]:
    signed = {"auto": None, "true": True, "false": False}[args.input_signed]
    rules = [Rule(op_types=LAYERS, weight=Format(args.weight_bits_width, True, args.quant_type),
                  input=Format(args.input_bits_width, signed), reason="command line")]
    winograd = parse_winograd(winograd_format(args))
    if winograd != NONE:
        rules.append(Rule(op_types=("Conv2D",), winograd=winograd, reason="command line"))
    return rules


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
        raise CalibrationError(f"the calibration set {folder or dataset} is empty")
    everything = data_fingerprint(images.identity(index) for index in indices)
    if args.calib_shard:
        shard, shards = args.calib_shard
        indices = indices[shard - 1::shards]
        if not len(indices):
            raise CalibrationError(f"--calib-shard {shard}/{shards}: no image is left for this shard; use fewer shards")
    return batches(images, preprocessing, args.batch_size, indices, args.num_workers), everything


def switch_to_quantized(args, task: Task):
    """Weights quantized once, inputs with calibrated or with each batch's range; a table has set the modes already.

    Returns what was added to the biases: {layer: array (channels,)}, empty without --bias-correction.
    """
    net, corrections = task.model.net, {}
    if not args.load_table:
        quantize_input(net, enable=True, online=not args.quantize_input_offline)
    if args.wino_inputs and args.quantize_input_offline:
        calibrate_tiles(net, task.calibration, task.ctx)
    if args.bias_correction != "none":
        corrections = correct_biases(net, task.calibration, args.bias_correction, ctx=task.ctx)
    fix_params(net)
    return corrections
