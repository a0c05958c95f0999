# SPDX-License-Identifier: MIT
"""What a training works on: images, the network, its rules, and where quantization starts from."""

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, List

import mxnet as mx
import numpy as np

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from calib.tiles import calibrate_tiles
from gluon_quantize.commands.options import winograd_format
from gluon_quantize.data.batches import Batches, batches
from gluon_quantize.data.datasets import balanced_indices, open_dataset
from gluon_quantize.data.preprocess import PRESETS, Preprocessing
from gluon_quantize.models.loading import LENET, LoadedModel
from gluon_quantize.models.opening import device, named_model
from gluon_quantize.training.augmentation import Augmentation
from gluon_quantize.training.distillation import Distillation, LabelLoss
from gluon_quantize.training.images import TrainingImages
from quantize.config import load_config
from quantize.convert import convert_model, fake_bn, mean_global_pooling, trace
from quantize.convert.graph import batchnorm_partners
from quantize.errors import ConfigError, DataError, ModelFileError
from quantize.modes import quantize_input, set_mode
from quantize.nn.methods import TRAINED_STEP
from quantize.train import set_clamp_only, start_training
from quantize.winograd import NONE

LAYERS = ("Conv2D", "Conv2DTranspose", "Dense")
PER_CHANNEL = ("ste",) + TRAINED_STEP


@dataclass(frozen=True)
class Task:
    """A float network and its images.

    Attributes
    ----------
    training : TrainingImages
    calibration, validation, test : Batches
        `validation` are the test images unless some training images are held out.
    """

    model: LoadedModel
    dataset: str
    classes: int
    preprocessing: Preprocessing
    training: TrainingImages
    calibration: Batches
    validation: Batches
    test: Batches
    ctx: mx.Context


def open_task(args) -> Task:
    """Everything that can be wrong with names and files is found here, before work begins."""
    winograd_format(args)  # checks the options
    ctx = device(args)
    np.random.seed(args.fixed_random_seed)
    mx.random.seed(args.fixed_random_seed)
    model = named_model(args, ctx)
    if args.from_scratch:
        model.net.initialize(mx.init.Xavier(), ctx=ctx, force_reinit=True)
    dataset = args.dataset or model.dataset_hint or "imagenet"
    steps = (model.preprocessing or PRESETS[dataset]()).override(resize=args.resize, crop=args.crop)
    return _with_images(args, model, dataset, steps, ctx)


def _with_images(args, model, dataset, steps, ctx):
    images, test = (open_dataset(dataset, args.data_dir, split) for split in ("train", "test"))
    order = np.random.RandomState(args.fixed_random_seed).permutation(len(images)) if args.hold_out \
        else np.arange(len(images))
    if args.hold_out >= len(images):
        raise DataError(f"--hold-out {args.hold_out}: there are only {len(images)} training images")
    held, kept = order[:args.hold_out], order[args.hold_out:][:args.num_train_images]
    chosen = balanced_indices(images.labels[kept], -(-args.calib_images // images.num_classes), args.fixed_random_seed)
    training = TrainingImages(images, steps, args.batch_size, augmentation(args, dataset), indices=kept,
                              seed=args.fixed_random_seed, threads=args.num_workers)

    def plain(source, indices=None):
        return batches(source, steps, args.batch_size, indices, args.num_workers)
    evaluated = plain(test, None if args.num_images is None else np.arange(min(args.num_images, len(test))))
    return Task(model, dataset, images.num_classes, steps, training, plain(images, kept[chosen[:args.calib_images]]),
                plain(images, held) if args.hold_out else evaluated, evaluated, ctx)


def augmentation(args, dataset) -> Augmentation:
    """The data set's own, with what the command line says differently."""
    usual = Augmentation.for_dataset(dataset)
    return Augmentation(args.augment or usual.kind, usual.pad if args.pad is None else args.pad)


def build_rules(args, net) -> List[Dict[str, Any]]:
    """The config list that the options stand for."""
    graph = trace(net)
    if args.method == "bnn":
        rules = [{"op_types": LAYERS, "weight": "int1", "input": "float", "method": "bnn"},
                 {"op_types": ["Activation"], "output": "int1", "method": "bnn"}]
    else:
        rules = [{"op_types": LAYERS, "weight": _weight(args, args.weight_bits),
                  "input": f"auto{args.input_bits}", "method": args.method}]
    if args.method == "sat":
        partners = batchnorm_partners(graph)
        alone = [path for path in graph.calls if path not in partners and path not in set(partners.values())]
        if alone:
            rules.append({"op_names": alone, "op_types": LAYERS, "options": {"scaling": True}})
    if winograd_format(args) != NONE:
        rules.append({"op_types": ["Conv2D"], "winograd": winograd_format(args)})
    ends = sorted(set(graph.first_layers() + graph.last_layers()))
    rules.append(_ends(args, ends))
    return rules + ([] if not args.config else _as_dicts(args.config))


def _weight(args, bits):
    default = "channel" if args.method in PER_CHANNEL else "layer"
    # LSQ's grid (arXiv 1902.08153, section 2) has all 2^b codes; at 2 bits the lowest is a quarter of them
    codes = "/full" if bits == 2 and args.method in TRAINED_STEP else ""
    return f"int{bits}/{args.quant_type or default}{codes}"


def _ends(args, paths):
    if not args.first_last_bits:
        return {"op_names": paths, "exclude": True}
    rule = {"op_names": paths, "weight": _weight(args, args.first_last_bits),
            "input": f"auto{args.first_last_bits}"}
    # behind a sign there are negative values whatever activation the float network has
    return dict(rule, method="ste", input=f"int{args.first_last_bits}") if args.method == "bnn" else rule


def _as_dicts(path):
    load_config(path)  # checks it, and says where it is wrong
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def convert(args, task: Task):
    """(Network ready for `start_quantization`, its rules): converted, batch norm folded, weights loaded, hybridized."""
    net, rules = task.model.net, []
    net(mx.nd.array(next(iter(task.calibration))[0][:1], ctx=task.ctx))  # parameters of unknown shape get theirs
    mean_global_pooling(net)
    if args.method != "float":
        rules = build_rules(args, net)
        convert_model(net, config_list=rules)
        if args.fake_bn != "none":
            fake_bn(net, args.fake_bn)
    if args.weights:
        load_weights(net, args.weights)
    net.hybridize(static_alloc=True, static_shape=True)
    return net, rules


def loss(args, task: Task):
    """The loss that the options ask for; ConfigError where there is no trained network to learn from."""
    if not args.distill:
        return LabelLoss()
    if _starts_random(args) or args.float_epochs:
        raise ConfigError("--distill: the float network has random weights at the start; train one first (--method "
                          "float) and give it with --params")
    teacher = named_model(args, task.ctx).net
    teacher.hybridize(static_alloc=True, static_shape=True)
    return Distillation(teacher, args.distill, args.temperature)


def load_weights(net, path):
    """Parameters that another run saved; ModelFileError when they are of another network or method."""
    if not os.path.isfile(path):
        raise ModelFileError(f"{path}: no such parameter file")
    try:
        net.load_parameters(path)
    except (AssertionError, ValueError, KeyError, mx.MXNetError) as error:
        raise ModelFileError(f"{path}: does not fit the network as it is quantized here: "
                             f"{str(error).splitlines()[0]}") from None


def _starts_random(args):
    return args.from_scratch or (args.model == LENET and not args.params)


def start_quantization(args, task: Task):
    """Ranges of inputs from a calibration, then every quantizer into the mode in which its method trains."""
    net = task.model.net
    if args.method == "float":
        return
    # a calibration runs in inference, where batch norm without statistics leaves ranges that training does not have
    trained = args.weights or args.float_epochs or not _starts_random(args)
    usual = "none" if not trained else "naive" if args.method == "bnn" else "mse"
    method = args.calib_mode or usual
    if method != "none" and not args.clamp_only:
        calibrator = CALIBRATORS.get(method)()
        calibrate(net, observe(net, task.calibration, calibrator, ctx=task.ctx), calibrator)
        if args.wino_inputs:
            quantize_input(net, enable=True, online=False)
            calibrate_tiles(net, task.calibration, task.ctx)
    enter_training(args, task)


def enter_training(args, task: Task):
    """Every quantizer into the mode in which its method trains; in the clamped stage nothing is rounded."""
    net = task.model.net
    if args.method == "float":
        return
    start_training(net, next(iter(task.calibration))[0].as_in_context(task.ctx), args.ranges)
    if args.clamp_only:
        set_clamp_only(net)
        set_mode(net, "float", "activation")
