# SPDX-License-Identifier: MIT
"""The command line of `simulate_quantization.py`, and the groups of options that other commands share with it."""

from gluon_quantize.commands.parser import EASYQUANT, MODES, Parser, calibration_method, shard, whole
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.models.request import NetworkRequest, RunRequest
from quantize.errors import ConfigError
from quantize.winograd import GRANULARITIES, NONE, POINTS

PROG = "simulate_quantization.py"
DESCRIPTION = "Simulate the quantization of a CNN and say what it loses against the float network."


def build_parser(prog: str = PROG) -> Parser:
    """The parser; every option of Quantization.MXNet with its default, and ours."""
    parser = Parser(prog=prog, description=DESCRIPTION)
    for add in (add_model, add_data, _add_quantization, _add_calibration, _add_run):
        add(parser)
    return parser


def add_model(parser):
    """Where the network comes from."""
    group = parser.add_argument_group("the network")
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


def network_request(args, pretrained: bool = True) -> NetworkRequest:
    """What the options of `add_model` ask for; ConfigError where that is not one network."""
    switches = ("use_gn", "batch_norm", "use_se", "last_gamma")
    return NetworkRequest(model=args.model or "", onnx=args.onnx or "", symbol=args.symbol or "",
                          params=args.params or "", pretrained=pretrained and not args.params,
                          options={name: True for name in switches if getattr(args, name)})


def add_data(parser, calibration=True):
    """Where the images come from; `calibration`: those for calibration may lie elsewhere."""
    group = parser.add_argument_group("the images")
    group.add_argument("--dataset", choices=("imagenet", "cifar10", "mnist", "digits"),
                       help="default: the one the network was made for; imagenet where that is unknown")
    group.add_argument("--data-dir", metavar="DIR",
                       help="imagenet: a folder of val/ (and train/) folders per class, or images with labels.txt or "
                            "synset.txt; cifar10, mnist: npz files (default: download)")
    if calibration:
        group.add_argument("--calib-data-dir", metavar="DIR",
                           help="calibration images, where they lie elsewhere (default: the training part of "
                                "--data-dir)")
    group.add_argument("--resize", type=whole(0), metavar="N",
                       help="short side in pixels before the crop, 0: do not resize (default: as the model says)")
    group.add_argument("--crop", type=whole(0), metavar="N",
                       help="side of the centre crop in pixels, 0: no crop (default: as the model says)")
    group.add_argument("--num-images", type=whole(1), metavar="N", help="evaluate only the first N images")
    group.add_argument("--batch-size", type=whole(1), default=128, metavar="N",
                       help="images per batch (default: %(default)s)")
    group.add_argument("-j", "--num-data-workers", dest="num_workers", type=whole(1), default=4, metavar="N",
                       help="threads that decode images (default: %(default)s)")


def images_request(args) -> ImagesRequest:
    """What the options of `add_data` ask for, but for the calibration images."""
    return ImagesRequest(dataset=args.dataset, folder=args.data_dir, resize=args.resize, crop=args.crop,
                         count=args.num_images, batch_size=args.batch_size, workers=args.num_workers)


def _add_quantization(parser):
    group = parser.add_argument_group("quantization")
    group.add_argument("--merge-bn", action="store_true",
                       help="merge batch norm into the weights before quantizing (default: no)")
    group.add_argument("--weight-bits-width", type=whole(1, 16), default=8, metavar="N",
                       help="bits of the weights, 1 to 16 (default: %(default)s)")
    group.add_argument("--input-bits-width", type=whole(1, 16), default=8, metavar="N",
                       help="bits of the layers' inputs, 1 to 16 (default: %(default)s)")
    group.add_argument("--input-signed", choices=("auto", "true", "false"), default="auto",
                       help="inputs as int (true) or uint (false); auto: uint where the graph proves that the input "
                            "cannot be negative (default: %(default)s)")
    group.add_argument("--quant-type", choices=("layer", "group", "channel"), default="layer",
                       help="one weight scale per layer, group or channel (default: %(default)s)")
    group.add_argument("--target", metavar="NAME",
                       help="quantize as this engine computes (ncnn), instead of by the four options above; see "
                            "deploy_ncnn.py")
    _add_first(group, "true")
    add_winograd(group)
    _add_rules(group)


def add_winograd(group):
    """What is quantized in the Winograd domain."""
    group.add_argument("--wino-quantize", "--wino_quantize", choices=(NONE,) + tuple(POINTS), default=NONE,
                       help="quantize the weights of 3x3 convolutions with stride 1 in the Winograd domain, with tiles "
                            "of 2, 4 or 6 outputs a side (default: %(default)s)")
    group.add_argument("--wino-granularity", "--wino_granularity", choices=GRANULARITIES, default="channel",
                       help="scales there: one, one for each output channel, or one for each channel and position in "
                            "the tile (default: %(default)s)")
    group.add_argument("--wino-inputs", "--wino_inputs", action="store_true",
                       help="round the transformed input tiles too, with the bits of the inputs")


def winograd_format(args) -> str:
    """The three options as `quantize.config` writes them; ConfigError for one that is given in vain."""
    if args.wino_quantize == NONE:
        if args.wino_inputs or args.wino_granularity != "channel":
            raise ConfigError("--wino-granularity and --wino-inputs need --wino-quantize {}".format(
                " or ".join(POINTS)))
        return NONE
    return "{}/{}{}".format(args.wino_quantize, args.wino_granularity, "/inputs" if args.wino_inputs else "")


def add_choice_of_layers(parser):
    """Which layers are quantized, where formats are not free to choose."""
    group = parser.add_argument_group("quantization")
    _add_first(group, "false")
    _add_rules(group)


def _add_first(group, default):
    group.add_argument("--exclude-first-conv", choices=("false", "true"), default=default,
                       help="leave the first convolution float (default: %(default)s)")


def _add_rules(group):
    group.add_argument("--config", metavar="FILE",
                       help="JSON list of rules for single layers, applied after the options above (see README)")


MODES_HELP = ("naive: moving average of the ranges; minmax: the whole range; percentile: 99.99 %% of the values; "
              "mse, sqnr: least error (sqnr counts clipping three times); aciq: fit of a Gaussian or Laplace "
              "distribution (aciq-gauss, aciq-laplace: always that one; aciq-ncnn: as ncnn2table); kl: kl-ncnn, the "
              "divergence as ncnn2table computes it; kl-mxnet, kl-tensorrt, kl-predecessor: as those do; easyquant: "
              "kl, then a search for the best cosine of each layer's output (default: %(default)s)")


def _add_calibration(parser):
    group = parser.add_argument_group("calibration")
    group.add_argument("--quantize-input-offline", action="store_true",
                       help="fixed input ranges from a calibration (default: each batch's own range); the options for "
                            "tables, states and comparison imply it")
    _add_method(group, "naive")
    _add_correction(group)
    group.add_argument("--eval-per-calib", action="store_true", help="evaluate after every calibration pass")
    group.add_argument("--compare-calibrators", action="store_true",
                       help="one pass over the images, then accuracy and thresholds of every method")
    _add_files(parser.add_argument_group("calibration files"))


def add_fixed_calibration(parser, default):
    """How ranges are decided, for commands that always calibrate; `default` is the mode."""
    group = parser.add_argument_group("calibration")
    _add_method(group, default)
    _add_correction(group)
    _add_load_table(group)


def _add_method(group, default):
    group.add_argument("--calib-mode", type=calibration_method(EASYQUANT), metavar="MODE", default=default,
                       help="one of {}, perhaps with parameters, as in percentile:99.9 or naive:momentum=0.95. "
                            "{}".format(", ".join(MODES), MODES_HELP))
    group.add_argument("--calib-epoch", type=whole(1), default=3, metavar="N",
                       help="passes over the calibration images; more than one only change naive, so the other modes "
                            "take one (default: %(default)s)")
    group.add_argument("--num-sample", type=whole(1), default=5, metavar="N",
                       help="calibration images of each class (default: %(default)s)")
    group.add_argument("--num-calib-batches", type=whole(1), metavar="N",
                       help="at most N batches of them (default: all)")
    group.add_argument("--num-calib-images", type=whole(1), metavar="N",
                       help="at most N images of them (default: all)")
    group.add_argument("--calib-values", type=whole(0), default=16384, metavar="N",
                       help="values of each feature map that histograms count, evenly spaced; extremes are always "
                            "exact; 0: all values, which is slower (default: %(default)s)")


def _add_correction(group):
    group.add_argument("--bias-correction", choices=("none", "parallel", "sequential"), default="none",
                       help="give each layer's bias what quantization takes from its output in the mean over some "
                            "calibration images, for each layer by itself (parallel), or on what the layers before it "
                            "give it, corrected (sequential), with the calibrated ranges (default: %(default)s)")


def _add_files(group):
    group.add_argument("--save-table", metavar="FILE", help="write the calibrated ranges as a text table")
    _add_load_table(group)
    group.add_argument("--calib-shard", type=shard, metavar="I/N",
                       help="observe only part I of N of the calibration images, write --save-state and stop")
    group.add_argument("--save-state", metavar="FILE", help="write what was observed, to be merged with other shards")
    group.add_argument("--merge-states", nargs="+", metavar="FILE",
                       help="take what was observed from the states of all shards instead of observing")


def _add_load_table(group):
    group.add_argument("--load-table", metavar="FILE",
                       help="take the ranges from such a table instead of calibrating; '#' in front of a line keeps "
                            "its layer float")


def check(parser, args):
    """Options that need or exclude each other."""
    exclusive = [name for name in ("--load-table", "--merge-states", "--calib-shard") if _given(args, name)]
    if len(exclusive) > 1:
        parser.error("{} and {} exclude each other".format(*exclusive[:2]))
    if args.calib_shard and not args.save_state:
        parser.error("--calib-shard needs --save-state FILE")
    correct = args.bias_correction != "none"
    if args.calib_shard and (args.save_table or args.compare_calibrators or correct):
        parser.error("--calib-shard only observes; leave --save-table, --compare-calibrators and --bias-correction to "
                     "the run with --merge-states")
    if args.load_table and (args.save_state or args.save_table or args.compare_calibrators or args.eval_per_calib):
        parser.error("--load-table calibrates nothing; leave out --save-state, --save-table, --compare-calibrators and "
                     "--eval-per-calib")
    if exclusive or args.save_table or args.save_state or args.compare_calibrators or correct:
        args.quantize_input_offline = True


def _given(args, option):
    return bool(getattr(args, option[2:].replace("-", "_")))


def _add_run(parser):
    group = parser.add_argument_group("the run")
    group.add_argument("--output", metavar="DIR", help="write result.json and plan.txt there")
    add_device(group)
    add_seed(group)


def add_device(group):
    """What the network runs on."""
    group.add_argument("--use-gpu", type=whole(-1), default=-1, metavar="N",
                       help="number of the GPU to use, -1: CPU (default: %(default)s)")
    group.add_argument("--disable-cudnn-autotune", action="store_true",
                       help="do not let cuDNN search for the fastest convolution")


def add_seed(group):
    """What makes runs repeatable."""
    group.add_argument("--fixed-random-seed", type=whole(0, 2**32 - 1), default=7, metavar="N",
                       help="seed of NumPy and MXNet (default: %(default)s)")


def run_request(args) -> RunRequest:
    """What the options of `add_device`, where there are any, and `add_seed` ask for."""
    return RunRequest(gpu=getattr(args, "use_gpu", -1), seed=args.fixed_random_seed,
                      cudnn_autotune=not getattr(args, "disable_cudnn_autotune", False))
