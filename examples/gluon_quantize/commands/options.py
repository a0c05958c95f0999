# SPDX-License-Identifier: MIT
"""The groups of options that commands share, and the parts of requests that they stand for.

Defaults are those of the requests' fields, so that the command line and Python agree.
"""

import argparse
from typing import Any, Dict, Optional, Tuple

from calib.rounding import ROUNDINGS
from deploy.target import TARGETS, Target, find
from gluon_quantize.commands.image_options import add_loader, add_preprocessing, preprocessing_fields
from gluon_quantize.commands.parser import EASYQUANT, MODES, Asking, calibration_method, number, whole
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.models.request import NetworkRequest, RunRequest
from gluon_quantize.runs.requests import (
    AUTO,
    CalibrationFiles,
    CalibrationRequest,
    GoalRequest,
    RepairRequest,
    SensitivityRequest,
)
from quantize.errors import ConfigError
from quantize.winograd import GRANULARITIES, NONE, POINTS

UNWRITTEN = ("max_memory", "asking", "list_models", "verbose")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Where the network comes from."""
    group = parser.add_argument_group("the network")
    group.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT",
                       help="a network that another command has written: its .qnet file, or its --output folder")
    group.add_argument("--model", help="digits_lenet, or a network of gluoncv (see --list-models)")
    group.add_argument("--onnx", metavar="FILE", help="ONNX file of the network")
    group.add_argument("--symbol", metavar="FILE", help="NAME-symbol.json of an exported network")
    group.add_argument("--params", metavar="FILE", help="weights, instead of the pretrained or embedded ones")
    group.add_argument("--list-models", action="store_true", help="list all networks that --model knows, and exit")
    group.add_argument("--print-model", action="store_true", help="print the network before and after conversion")
    group.add_argument("--use-gn", action="store_true", help="group norm instead of batch norm (gluoncv resnets)")
    group.add_argument("--batch-norm", action="store_true", help="batch norm in vgg")
    group.add_argument("--use-se", action="store_true", help="squeeze-and-excitation layers in resnext")
    group.add_argument("--last-gamma", action="store_true",
                       help="gamma of the last BN of each bottleneck starts at 0 (gluoncv resnets)")


def network_request(args: argparse.Namespace, pretrained: bool = True) -> NetworkRequest:
    """What the options of `add_model` ask for; ConfigError where that is not one network."""
    switches = ("use_gn", "batch_norm", "use_se", "last_gamma")
    return NetworkRequest(model=args.model or "", onnx=args.onnx or "", symbol=args.symbol or "",
                          params=args.params or "", checkpoint=args.checkpoint or "",
                          pretrained=pretrained and not args.params,
                          options={name: True for name in switches if getattr(args, name)})


def add_target_options(group: argparse._ActionsContainer, target: Target) -> None:
    """What a target's class is told."""
    for option in target.options:
        if option.words:
            group.add_argument(option.flag, nargs="+", default=(), metavar=option.words, help=option.help)
        else:
            group.add_argument(option.flag, action="store_true", help=option.help)


def told_target(args: argparse.Namespace, name: str) -> Target:
    """The target, told what the options of `add_target_options` say."""
    kind: Any = TARGETS.get(name)
    values = {option.name: given(args, option.flag) for option in kind.options}
    target: Target = find(name, **{word: value for word, value in values.items() if value is not None})
    return target


def given(args: argparse.Namespace, flag: str) -> Any:
    """What a flag has got; None where the command has none such."""
    return getattr(args, flag.lstrip("-").replace("-", "_"), None)


def add_data(parser: argparse.ArgumentParser, calibration: bool = True) -> None:
    """Where the images come from; `calibration`: those for calibration may lie elsewhere."""
    group = parser.add_argument_group("the images")
    group.add_argument("--dataset", choices=("imagenet", "cifar10", "mnist", "digits"),
                       help="default: the one the network was made for; imagenet where that is unknown, and where "
                            "--data-dir is a folder of images")
    group.add_argument("--data-dir", metavar="DIR",
                       help="imagenet: a folder of val/ (and train/) folders per class, or images with labels.txt or "
                            "synset.txt; cifar10, mnist: npz files (default: download)")
    if calibration:
        group.add_argument("--calib-data-dir", metavar="DIR",
                           help="calibration images, where they lie elsewhere (default: the training part of "
                                "--data-dir)")
    add_loader(group)
    add_max_memory(group)
    add_preprocessing(group)
    group.add_argument("--num-images", type=whole(1), metavar="N",
                       help="evaluate only the first N images (default: all)")
    group.add_argument("--batch-size", type=whole(1), default=ImagesRequest.batch_size, metavar="N",
                       help="images per batch (default: %(default)s)")
    group.add_argument("-j", "--num-data-workers", dest="num_workers", type=whole(1), default=ImagesRequest.workers,
                       metavar="N",
                       help="threads that decode images (default: %(default)s)")


def add_max_memory(group: argparse._ActionsContainer) -> None:
    """How much the contents of a file may want."""
    group.add_argument("--max-memory", type=number(0.001), metavar="GB",
                       help="refuse files (images, weights, networks) whose contents would take more memory (default: "
                            "8, or half of the machine's)")


def images_request(args: argparse.Namespace) -> ImagesRequest:
    """What the options of `add_data` ask for, but for the calibration images."""
    return ImagesRequest(dataset=args.dataset, folder=args.data_dir, count=args.num_images,
                         batch_size=args.batch_size, workers=args.num_workers, **preprocessing_fields(args))


def add_winograd(group: argparse._ArgumentGroup) -> None:
    """What is quantized in the Winograd domain."""
    group.add_argument("--wino-quantize", "--wino_quantize", choices=(NONE,) + tuple(POINTS), default=NONE,
                       help="quantize the weights of 3x3 convolutions with stride 1 in the Winograd domain, with tiles "
                            "of 2, 4 or 6 outputs a side (default: %(default)s)")
    group.add_argument("--wino-granularity", "--wino_granularity", choices=GRANULARITIES, default="channel",
                       help="scales there: one, one for each output channel, or one for each channel and position in "
                            "the tile (default: %(default)s)")
    group.add_argument("--wino-inputs", "--wino_inputs", action="store_true",
                       help="round the transformed input tiles too, with the bits of the inputs")


def winograd_format(args: argparse.Namespace) -> str:
    """The three options as `quantize.config` writes them; ConfigError for one that is given in vain."""
    if args.wino_quantize == NONE:
        if args.wino_inputs or args.wino_granularity != "channel":
            raise ConfigError(f"--wino-granularity and --wino-inputs need --wino-quantize {' or '.join(POINTS)}")
        return NONE
    return f"{args.wino_quantize}/{args.wino_granularity}{'/inputs' if args.wino_inputs else ''}"


def add_choice_of_layers(parser: argparse.ArgumentParser) -> None:
    """Which layers are quantized, where formats are not free to choose."""
    group = parser.add_argument_group("quantization")
    add_first(group, "false")
    add_rules(group)


def add_first(group: argparse._ArgumentGroup, default: Optional[str], said: str = "%(default)s") -> None:
    """Whether the first convolution stays float."""
    group.add_argument("--exclude-first-conv", choices=("false", "true"), default=default,
                       help=f"leave the first convolution float (default: {said})")


def add_rules(group: argparse._ArgumentGroup) -> None:
    """Rules for single layers."""
    group.add_argument("--config", metavar="FILE",
                       help="JSON list of rules for single layers, applied after the options above")


MODES_HELP = ("naive: moving average of the ranges; minmax: the whole range; percentile: 99.99 %% of the values; mse, "
              "sqnr: least error (sqnr counts clipping three times); aciq: fit of a Gaussian or Laplace distribution "
              "(aciq-gauss, aciq-laplace: always that one; aciq-ncnn: as ncnn2table); kl: kl-ncnn, the divergence as "
              "ncnn2table computes it; kl-mxnet, kl-tensorrt, kl-predecessor: as those do; easyquant: kl, then a "
              "search for the best cosine of each layer's output (default: %(default)s)")


def add_fixed_calibration(parser: argparse.ArgumentParser) -> None:
    """How ranges are decided, for commands that always calibrate."""
    group = parser.add_argument_group("calibration")
    add_method(group)
    add_correction(group)
    add_load_table(group)


def add_method(group: argparse._ArgumentGroup, default: str = CalibrationRequest.method) -> None:
    """How ranges are decided, and from which images."""
    group.add_argument("--calib-mode", type=calibration_method(EASYQUANT), metavar="MODE", default=default,
                       action=Asking,
                       help=f"one of {', '.join(MODES)}, perhaps with parameters, as in percentile:99.9 or "
                            f"naive:momentum=0.95. {MODES_HELP}")
    group.add_argument("--calib-epoch", type=whole(1), default=CalibrationRequest.passes, metavar="N", action=Asking,
                       help="passes over the calibration images; more than one only change naive, so the other modes "
                            "take one (default: %(default)s)")
    group.add_argument("--num-sample", type=whole(1), default=CalibrationRequest.per_class, metavar="N", action=Asking,
                       help="calibration images of each class (default: %(default)s)")
    group.add_argument("--calib-batches", "--num-calib-batches", type=whole(1), metavar="N", action=Asking,
                       help="at most N batches of them (default: all)")
    group.add_argument("--calib-images", "--num-calib-images", type=whole(1), metavar="N", action=Asking,
                       help="at most N images of them (default: all)")
    group.add_argument("--calib-values", type=whole(0), default=CalibrationRequest.values, metavar="N", action=Asking,
                       help="values of each feature map that histograms count, evenly spaced; extremes are always "
                            "exact; 0: all values, which is slower (default: %(default)s)")


def add_correction(group: argparse._ArgumentGroup, default: str = CalibrationRequest.bias_correction) -> None:
    """Whether biases are corrected."""
    group.add_argument("--bias-correction", choices=(AUTO, "none", "parallel", "sequential"), default=default,
                       help="give each layer's bias what quantization takes from its output in the mean over some "
                            "calibration images, for each layer by itself (parallel), or on what the layers before it "
                            "give it, corrected (sequential), with the calibrated ranges; auto: parallel where batch "
                            "norm is merged, else none (default: %(default)s)")


def add_repair(parser: argparse.ArgumentParser) -> None:
    """What is done to the weights so that quantization costs less."""
    group = parser.add_argument_group("repair")
    group.add_argument("--equalize", action=Asking, switch=True,
                       help="scale channels, and take that back in the next layers, so that they share one range well; "
                            "respects ReLU6, merges batch norm, needs calibration images (default: no)")
    group.add_argument("--absorb-biases", action=Asking, switch=True,
                       help="after that, move what a channel never goes below out of its bias into the biases of the "
                            "next layers (default: no)")
    group.add_argument("--split-channels", type=float, default=RepairRequest.split, metavar="SHARE",
                       help="after that, split up to this share of each layer's channels in two, where the next "
                            "layer's largest weights are: 0.02; the network grows by that (default: %(default)g)")
    group.add_argument("--learn-rounding", choices=("none", *ROUNDINGS.names()), default=RepairRequest.rounding,
                       help="round weights so that layers' outputs change least on the calibration images, instead of "
                            "each to the nearest: gptq: in closed form; layer: AdaRound, layer by layer; block: BRECQ "
                            "with QDrop, block by block (default: %(default)s)")
    group.add_argument("--rounding-progress", metavar="DIR",
                       help="keep finished layers there: a run that was killed goes on where it was (default: do not)")


def repair_request(args: argparse.Namespace) -> RepairRequest:
    """What the options of `add_repair` ask for."""
    return RepairRequest(args.equalize, args.absorb_biases, args.split_channels, args.learn_rounding,
                         args.rounding_progress)


def add_goal(parser: argparse.ArgumentParser) -> None:
    """What the network must keep."""
    group = parser.add_argument_group(
        "the goal", "The exit code is 1 where nothing reaches it; the best is deployed all the same.")
    group.add_argument("--accuracy-drop", type=float, metavar="POINTS",
                       help="try calibrations, bias correction, equalization, learned rounding, and layers in float, "
                            "until no more than so many points of Top-1 are lost; say what each costs (default: no "
                            "goal)")
    group.add_argument("--agreement", type=float, metavar="SHARE",
                       help="the same, until so large a share of the images gets the float network's class, without "
                            "labels: 0.98 (default: no goal)")


def goal_request(args: argparse.Namespace) -> Optional[GoalRequest]:
    """The goal that is asked for; None without one."""
    if args.accuracy_drop is None and args.agreement is None:
        return None
    return GoalRequest(args.accuracy_drop, args.agreement)


def add_load_table(group: argparse._ArgumentGroup) -> None:
    """A table that holds the ranges already."""
    group.add_argument("--load-table", metavar="FILE", action=Asking,
                       help="take the ranges from such a table instead of calibrating; '#' in front of a line keeps "
                            "its layer float")


def calibration_request(args: argparse.Namespace, files: Optional[CalibrationFiles] = None,
                        **more: Any) -> CalibrationRequest:
    """What the options of `add_method`, `add_correction` and `add_load_table` ask for.

    Parameters
    ----------
    files : CalibrationFiles, optional
        What else than the table the command offers.
    more : the fields of CalibrationRequest that the command offers beside these
    """
    return CalibrationRequest(
        method=args.calib_mode, passes=args.calib_epoch, per_class=args.num_sample, max_batches=args.calib_batches,
        max_images=args.calib_images, values=args.calib_values, folder=args.calib_data_dir,
        bias_correction=args.bias_correction, files=files or CalibrationFiles(load_table=args.load_table), **more)


def add_sensitivity(group: argparse._ArgumentGroup, otherwise: str = "") -> None:
    """At which bits the costs of single layers are measured; `otherwise`: what is shown without."""
    default = f"what the {otherwise}" if otherwise else "do not"
    group.add_argument("--sensitivity", type=whole(2, 8), nargs="*", metavar="BITS",
                       help="measure what quantizing each layer alone, its weight and its input apart, and leaving it "
                            f"alone float does to the outputs, at each of these bits (default: {default}; without "
                            "numbers: 8 4)")


def sensitivity_bits(args: argparse.Namespace) -> Optional[Tuple[int, ...]]:
    """The bits that are asked for; None without --sensitivity."""
    return None if args.sensitivity is None else tuple(args.sensitivity) or SensitivityRequest.bits


def add_device(group: argparse._ArgumentGroup) -> None:
    """What the network runs on."""
    group.add_argument("--use-gpu", type=whole(-1), default=RunRequest.gpu, metavar="N",
                       help="number of the GPU to use, -1: CPU (default: %(default)s)")
    group.add_argument("--disable-cudnn-autotune", action="store_true",
                       help="do not let cuDNN search for the fastest convolution")


def add_seed(group: argparse._ArgumentGroup) -> None:
    """What makes runs repeatable."""
    group.add_argument("--fixed-random-seed", "--seed", type=whole(0, 2**32 - 1), default=RunRequest.seed, metavar="N",
                       help="seed of NumPy and MXNet (default: %(default)s)")


def run_request(args: argparse.Namespace) -> RunRequest:
    """What the options of `add_device`, where there are any, and `add_seed` ask for."""
    return RunRequest(gpu=getattr(args, "use_gpu", -1), seed=args.fixed_random_seed,
                      cudnn_autotune=not getattr(args, "disable_cudnn_autotune", False))


def add_verbose(group: argparse._ArgumentGroup) -> None:
    """Whether the settings are printed, and the log is shown."""
    group.add_argument("-v", "--verbose", action="store_true",
                       help="print all settings first (result.json holds them anyway), and what each phase has done")


def settings(args: argparse.Namespace) -> Dict[str, Any]:
    """The options and their values, in alphabetical order, without those that only say what is shown."""
    return {name: value for name, value in sorted(vars(args).items()) if name not in UNWRITTEN}


def add_output(group: argparse._ArgumentGroup, help: str) -> None:
    """The folder of what a command makes."""
    group.add_argument("--output", metavar="DIR", help=help)
    group.add_argument("--force", action="store_true",
                       help="replace the folder if it is there and holds nothing but results of this program")


def add_verify(group: argparse._ArgumentGroup) -> None:
    """On how many images everything is compared."""
    group.add_argument("--verify-images", type=whole(0), default=50, metavar="N",
                       help="images on which every blob is compared, 0: all that are evaluated (default: %(default)s)")
