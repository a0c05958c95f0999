# SPDX-License-Identifier: MIT
"""The command line of `train_qat.py`."""

import argparse
import dataclasses
import sys
from typing import Any, Iterator, List, Optional

from deploy.target import TARGETS, Target, find
from gluon_quantize.commands.options import (
    add_data,
    add_device,
    add_model,
    add_seed,
    add_target_options,
    add_verbose,
    add_winograd,
    images_request,
    network_request,
    run_request,
    settings,
    told_target,
    winograd_format,
)
from gluon_quantize.commands.parser import Parser, calibration_method, number, whole
from gluon_quantize.commands.reporting import add_report
from gluon_quantize.commands.running import spelled
from gluon_quantize.models.metrics import NAMES as METRICS
from gluon_quantize.training.request import (
    AUGMENTATIONS,
    FLOAT,
    SCHEDULES,
    DistillationRequest,
    FormatsRequest,
    OptimizerRequest,
    ScheduleRequest,
    StartRequest,
    TrainingImagesRequest,
    TrainRequest,
)
from quantize.errors import ConfigError
from quantize.methods import ROWS
from quantize.winograd import NONE

PROG = "train_qat.py"
DESCRIPTION = """Retrain a CNN with fake quantization, so that it gets back what rounding costs.

Without further options as the measurements recommend: one weight scale per channel, ranges that start from a
calibration by sqnr and are fixed in the end. Biases are trained, which does more than correcting them. BatchNorms go on
training, and deploy takes them up into scales, which changes no code; --target and --fake-bn fold them before rounding.
"""
EPILOG = """examples:
  {prog} --model digits_lenet --method lsq --weight-bits 4 --input-bits 4 --epochs 3 --output out
  {prog} --onnx model.onnx --data-dir data --method lsq --weight-bits 4 --input-bits 4 --output out
  {prog} --model mnist_lenet --data-dir data --method sat --clamp-only --epochs 10 --output clamped
  {prog} --model mnist_lenet --data-dir data --method sat --params clamped/final.params --output out
  {prog} --model digits_lenet --target ncnn --epochs 3 --output out, then: deploy out --output files

A run that was killed goes on with the same command and --resume.
"""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the command line asks for: a training, and what the command shows of it."""

    request: TrainRequest
    print_model: bool
    plots: bool
    verbose: bool
    table: bool
    page: bool = False


class Format(argparse.Action):
    """Stores an option that says how layers are rounded, and that one was given."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        """See the class."""
        setattr(namespace, self.dest, values)
        namespace.formats_given = True


class Methods:
    """The methods and 'float', without loading MXNet: a program's own have been registered where it is loaded."""

    def __iter__(self) -> Iterator[str]:
        loaded = sys.modules.get("quantize.nn.methods")
        return iter((*(loaded.METHODS.names() if loaded else sorted(ROWS)), FLOAT))

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)


def target_of(prog: str, argv: Optional[List[str]]) -> Optional[Target]:
    """The engine that a command line names, None without one: it says which options there are."""
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--target")
    name = parser.parse_known_args(argv)[0].target
    try:
        return None if name is None else find(name)
    except ConfigError as error:
        parser.error(f"--target: {error}")


def build_parser(prog: str = PROG, target: Optional[Target] = None) -> Parser:
    """The parser, with what a target offers; networks and images are named as in `simulate_quantization.py`."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(prog=spelled(prog)))
    add_model(parser)
    parser.add_argument("--from-scratch", action="store_true",
                        help="random weights at the start, whatever the network brings along")
    add_data(parser, calibration=False)
    _add_images(parser)
    _add_quantization(parser, target)
    for add in (_add_start, _add_batchnorm, _add_optimizer, _add_run):
        add(parser)
    return parser


def _add_images(parser):
    group = parser.add_argument_group("the training images")
    group.add_argument("--augment", choices=AUGMENTATIONS,
                       help="random crops, mirrored or not (default: crop-flip for cifar10 and imagenet, crop for "
                            "mnist)")
    group.add_argument("--pad", type=whole(0), metavar="N",
                       help="pixels of border from which crops are taken (default: 2 for mnist, else 4)")
    group.add_argument("--hold-out", type=whole(0), default=0, metavar="N",
                       help="choose the best epoch on N images taken from the training images; 0: on the test images "
                            "(default: %(default)s)")
    group.add_argument("--num-train-images", type=whole(1), metavar="N",
                       help="train on the first N images only (default: all)")


def _add_quantization(parser, target):
    group = parser.add_argument_group("quantization", "without any of these a CHECKPOINT that is quantized stays as it "
                                      "is; with one, the float network under it is converted anew")
    parser.set_defaults(formats_given=False)
    group.add_argument("--method", action=Format, choices=Methods(), default="lsq", metavar="METHOD",
                       help="how layers are rounded and trained, one of %(choices)s; float: not at all (default: "
                            "%(default)s)")
    group.add_argument("--weight-bits", "--weight-bits-width", action=Format, type=whole(1, 8), default=8, metavar="N",
                       help="bits of the weights, 1 to 8 (default: %(default)s)")
    group.add_argument("--input-bits", "--input-bits-width", action=Format, type=whole(1, 8), default=8, metavar="N",
                       help="bits of the layers' inputs, 1 to 8 (default: %(default)s)")
    group.add_argument("--first-last-bits", action=Format, type=whole(0, 8), default=8, metavar="N",
                       help="bits of the first and the last layer, 0: float (default: %(default)s)")
    group.add_argument("--quant-type", action=Format, choices=("layer", "group", "channel"),
                       help="one weight scale per layer, group or channel (default: channel where the method can, as "
                            "ste, lsq and lsq+ do; the other methods have one per layer)")
    group.add_argument("--ranges", choices=("ema", "online", "offline"), default="ema",
                       help="inputs of methods that train no ranges (ste): moving averages, each batch's range, or the "
                            "calibrated one (default: %(default)s)")
    add_winograd(group)
    group.add_argument("--target", action=Format, metavar="NAME",
                       help=f"keep to what this engine can hold, one of {', '.join(TARGETS.names())}, so that deploy "
                            "CHECKPOINT writes what was trained; its rules come before the options above, and batch "
                            "norm is folded where the method can (default: no engine)")
    if target is not None:
        add_target_options(group, target)
    group.add_argument("--config", action=Format, metavar="FILE",
                       help="JSON list of rules for single layers, applied after the options above")


def _add_start(parser):
    group = parser.add_argument_group("the start")
    group.add_argument("--float-epochs", type=whole(0), default=0, metavar="N",
                       help="train in float for N epochs first (default: %(default)s)")
    group.add_argument("--quant-start-step", type=whole(0), default=0, metavar="N",
                       help="quantize after N steps of the epochs that follow (default: %(default)s)")
    group.add_argument("-w", "--weights", metavar="FILE",
                       help="start from the final.params of another run; --params takes such a file, too")
    group.add_argument("--clamp-only", action="store_true",
                       help="first stage of SAT: weights are clamped and nothing is rounded; the second stage takes "
                            "the result with --params")
    group.add_argument("--calib-mode", type=calibration_method("none"), metavar="MODE",
                       help="ranges of inputs at the start: a calibration method of simulate_quantization.py, or none: "
                            "the method's own start, or what --params holds (default: what suits the method: sqnr, "
                            "with 4 bits of inputs or less mse, for bnn naive; none for random weights)")
    group.add_argument("--calib-images", "--num-calib-images", type=whole(1), default=512, metavar="N",
                       help="training images of that calibration (default: %(default)s)")


def _add_batchnorm(parser):
    group = parser.add_argument_group("batch norm")
    group.add_argument("--fake-bn", choices=("none", "batch", "corrected", "running"), action=Format,
                       help="round weights as they will be once batch norm is merged into them, with these statistics "
                            "in training (default: none; with --target batch, where the method can)")
    group.add_argument("--freeze-bn-epoch", type=whole(0), metavar="N",
                       help="from epoch N on keep and use the running statistics (default: never)")
    group.add_argument("--reestimate-bn", type=whole(0), default=0, metavar="N",
                       help="after training measure the statistics anew on N batches (default: %(default)s)")


def _add_optimizer(parser):
    group = parser.add_argument_group("the optimizer")
    group.add_argument("--epochs", type=whole(1), default=10, metavar="N",
                       help="epochs after those in float (default: %(default)s)")
    group.add_argument("--optimizer", default="nag", metavar="NAME",
                       help="an optimizer of MXNet: sgd, nag, adam, ... (default: %(default)s)")
    group.add_argument("--lr", type=number(), default=0.01, help="learning rate (default: %(default)s)")
    group.add_argument("--float-lr", type=number(), default=0.1,
                       help="learning rate of the float epochs (default: %(default)s)")
    group.add_argument("--momentum", type=number(0, 1), default=0.9, help="of sgd and nag (default: %(default)s)")
    group.add_argument("--wd", type=number(), default=1e-4, help="weight decay (default: %(default)s)")
    group.add_argument("--quantizer-optimizer", metavar="NAME",
                       help="of quantizers' trained steps and clips (default: as --optimizer)")
    group.add_argument("--quantizer-lr", type=number(), help="their learning rate (default: as --lr)")
    group.add_argument("--quantizer-wd", type=number(),
                       help="their weight decay; LSQ's steps have none (default: as --wd)")
    group.add_argument("--schedule", choices=SCHEDULES, default="cosine",
                       help="of the learning rates (default: %(default)s)")
    group.add_argument("--warm-up", type=number(), default=0, metavar="EPOCHS",
                       help="epochs in which the rates rise from 0 (default: %(default)s)")
    group.add_argument("--lr-drops", type=whole(1), nargs="+", default=[], metavar="EPOCH",
                       help="epochs after which schedule step multiplies the rates by --lr-decay (default: never)")
    group.add_argument("--lr-decay", type=number(0, 1), default=0.1, help="see --lr-drops (default: %(default)s)")
    group.add_argument("--distill", type=number(0, 1), default=0.0, metavar="SHARE",
                       help="share of the loss that compares with the float network's answers, the rest compares with "
                            "the labels (default: %(default)s)")
    group.add_argument("--temperature", type=number(0.1), default=4.0, metavar="T",
                       help="what divides both networks' outputs in that comparison (default: %(default)s)")
    group.add_argument("--accumulate", type=whole(1), default=1, metavar="N",
                       help="batches whose gradients make one step (default: %(default)s)")
    group.add_argument("--kvstore", default="none", metavar="NAME",
                       help="dist_sync: one of the workers of train_distributed.py, which share every batch (default: "
                            "%(default)s)")


def _add_run(parser):
    group = parser.add_argument_group("the run")
    group.add_argument("--output", metavar="DIR", help="folder of checkpoints, log, plots and results")
    group.add_argument("--resume", action="store_true",
                       help="go on from the last checkpoint in --output, where there is one")
    group.add_argument("--best-by", choices=("top1",) + METRICS, default="top1",
                       help="what the best epoch has most of (default: %(default)s)")
    group.add_argument("--check-every", type=whole(1), default=1, metavar="N",
                       help="look for numbers that are not finite after each N steps (default: %(default)s)")
    group.add_argument("--no-plots", action="store_true", help="draw no plots")
    group.add_argument("--csv", action="store_true", help="write epochs.csv too: a line for each epoch")
    add_report(group)
    add_device(group)
    add_seed(group)
    add_verbose(group)


def wanted(parser: Parser, args: argparse.Namespace) -> Wanted:
    """What the options ask for; options that need or exclude each other end the process with one line."""
    if args.output is None:
        parser.error("--output DIR is needed")
    try:
        request = _request(args)
        _check(request)
    except ConfigError as error:
        parser.error(str(error))
    return Wanted(request, args.print_model, not args.no_plots, args.verbose, args.csv, args.report)


def _check(request: TrainRequest):
    from gluon_quantize.training.rules import check_method  # MXNet takes seconds to load
    check_method(request)


def _request(args) -> TrainRequest:
    return TrainRequest(
        network=network_request(args, not args.from_scratch), output=args.output, images=images_request(args),
        training=TrainingImagesRequest(args.augment, args.pad, args.hold_out, args.num_train_images),
        formats=_formats(args),
        start=StartRequest(args.from_scratch, args.weights, args.clamp_only, args.calib_mode, args.calib_images),
        optimizer=OptimizerRequest(args.optimizer, args.lr, args.float_lr, args.momentum, args.wd,
                                   args.quantizer_optimizer, args.quantizer_lr, args.quantizer_wd),
        schedule=_schedule(args), distillation=DistillationRequest(args.distill, args.temperature),
        run=run_request(args), resume=args.resume, best_by=args.best_by, kvstore=args.kvstore,
        keep_formats=bool(args.checkpoint) and not args.formats_given and args.wino_quantize == NONE,
        options={name: value for name, value in settings(args).items() if name != "formats_given"})


def _formats(args):
    return FormatsRequest(method=args.method, weight_bits=args.weight_bits, input_bits=args.input_bits,
                          first_last_bits=args.first_last_bits, granularity=args.quant_type, ranges=args.ranges,
                          winograd=winograd_format(args), config=args.config, fake_bn=args.fake_bn,
                          target=_target(args))


def _target(args):
    return None if args.target is None else told_target(args, args.target)


def _schedule(args):
    return ScheduleRequest(epochs=args.epochs, float_epochs=args.float_epochs, quant_start_step=args.quant_start_step,
                           shape=args.schedule, warm_up=args.warm_up, drops=tuple(args.lr_drops), decay=args.lr_decay,
                           accumulate=args.accumulate, freeze_bn_epoch=args.freeze_bn_epoch,
                           reestimate_bn=args.reestimate_bn, check_every=args.check_every)
