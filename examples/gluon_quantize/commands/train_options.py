# SPDX-License-Identifier: MIT
"""The command line of `train_qat.py`."""

import argparse
import math

from gluon_quantize.commands.options import (
    MODES,
    add_data,
    add_device,
    add_model,
    add_seed,
    add_winograd,
    whole,
)
from gluon_quantize.commands.running import Parser, spelled
from gluon_quantize.report.metrics import NAMES as METRICS
from gluon_quantize.training.augmentation import AUGMENTATIONS
from gluon_quantize.training.rates import SCHEDULES

PROG = "train_qat.py"
DESCRIPTION = "Retrain a CNN with fake quantization, so that it gets back what rounding costs."
STARTS = tuple(mode for mode in MODES if mode != "easyquant") + ("none",)
METHODS = ("ste", "lsq", "lsq+", "pact", "cgpact", "dorefa", "sat", "bnn")
EPILOG = """examples:
  {prog} --model digits_lenet --method lsq --weight-bits 4 --input-bits 4 --epochs 3 --output out
  {prog} --onnx model.onnx --data-dir data --method lsq --weight-bits 4 --input-bits 4 --output out
  {prog} --model mnist_lenet --data-dir data --method sat --clamp-only --epochs 10 --output clamped
  {prog} --model mnist_lenet --data-dir data --method sat -w clamped/final.params --output out

A run that was killed goes on with the same command and --resume.
"""


def number(low=0.0, high=math.inf):
    """Argument type: a finite number in [low, high]."""
    def parse(text):
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (low <= value <= high and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text} is not allowed, it must be a number from {low} to {high}")
        return value
    return parse


def build_parser(prog: str = PROG) -> Parser:
    """The parser; networks and images are named as in `simulate_quantization.py`."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(prog=spelled(prog)),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--from-scratch", action="store_true",
                        help="random weights at the start, whatever the network brings along")
    add_data(parser, calibration=False)
    for add in (_add_images, _add_quantization, _add_start, _add_batchnorm, _add_optimizer, _add_run):
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
    group.add_argument("--num-train-images", type=whole(1), metavar="N", help="train on the first N images only")


def _add_quantization(parser):
    group = parser.add_argument_group("quantization")
    group.add_argument("--method", choices=METHODS + ("float",), default="lsq",
                       help="how layers are rounded and trained; float: not at all (default: %(default)s)")
    group.add_argument("--weight-bits", type=whole(1, 8), default=8, metavar="N",
                       help="bits of the weights, 1 to 8 (default: %(default)s)")
    group.add_argument("--input-bits", type=whole(1, 8), default=8, metavar="N",
                       help="bits of the layers' inputs, 1 to 8 (default: %(default)s)")
    group.add_argument("--first-last-bits", type=whole(0, 8), default=8, metavar="N",
                       help="bits of the first and the last layer, 0: float (default: %(default)s)")
    group.add_argument("--quant-type", choices=("layer", "group", "channel"),
                       help="one weight scale per layer, group or channel (default: channel for ste, lsq and lsq+; "
                            "the other methods have one per layer)")
    group.add_argument("--ranges", choices=("ema", "online", "offline"), default="ema",
                       help="inputs of methods that train no ranges (ste): moving averages, each batch's range, or the "
                            "calibrated one (default: %(default)s)")
    add_winograd(group)
    group.add_argument("--config", metavar="FILE",
                       help="JSON list of rules for single layers, applied after the options above (see README)")


def _add_start(parser):
    group = parser.add_argument_group("the start")
    group.add_argument("--float-epochs", type=whole(0), default=0, metavar="N",
                       help="train in float for N epochs first (default: %(default)s)")
    group.add_argument("--quant-start-step", type=whole(0), default=0, metavar="N",
                       help="quantize after N steps of the epochs that follow (default: %(default)s)")
    group.add_argument("-w", "--weights", metavar="FILE",
                       help="start from the final.params of another run, of its clamped stage for example")
    group.add_argument("--clamp-only", action="store_true",
                       help="first stage of SAT: weights are clamped and nothing is rounded; the second stage takes "
                            "the result with -w")
    group.add_argument("--calib-mode", choices=STARTS,
                       metavar="MODE",
                       help="ranges of inputs at the start: a calibration method of simulate_quantization.py, or none: "
                            "the method's own start, or what --weights holds (default: mse, for bnn naive; none for "
                            "random weights)")
    group.add_argument("--calib-images", type=whole(1), default=512, metavar="N",
                       help="training images of that calibration (default: %(default)s)")


def _add_batchnorm(parser):
    group = parser.add_argument_group("batch norm")
    group.add_argument("--fake-bn", choices=("none", "batch", "corrected", "running"), default="none",
                       help="round weights as they will be once batch norm is merged into them, with these statistics "
                            "in training (default: %(default)s)")
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
                       help="epochs after which schedule step multiplies the rates by --lr-decay")
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
    add_device(group)
    add_seed(group)


def check(parser, args):
    """Options that need or exclude each other."""
    if args.output is None:
        parser.error("--output DIR is needed")
    if args.clamp_only and args.method != "sat":
        parser.error("--clamp-only is the first stage of --method sat")
    if args.clamp_only and (args.float_epochs or args.quant_start_step):
        parser.error("--clamp-only rounds nothing: leave out --float-epochs and --quant-start-step")
    if args.lr_drops and args.schedule != "step":
        parser.error("--lr-drops belongs to --schedule step")
    if args.fake_bn != "none" and args.method == "float":
        parser.error("--fake-bn needs quantized weights, not --method float")
    if args.method in ("pact", "cgpact", "dorefa", "sat", "bnn") and args.quant_type not in (None, "layer"):
        parser.error(f"--method {args.method} has one weight scale per layer; leave out --quant-type {args.quant_type}")
    if args.method == "bnn" and (args.weight_bits, args.input_bits) != (1, 1):
        parser.error("--method bnn is binary: give --weight-bits 1 --input-bits 1")
