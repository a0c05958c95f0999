# SPDX-License-Identifier: MIT
"""The command `simulate`: what a CNN loses when it is quantized."""

import argparse
from typing import List, NamedTuple, Optional

from deploy.target import TARGETS
from gluon_quantize.commands import options, reporting, running
from gluon_quantize.commands.parser import Asking, Parser, shard, whole
from gluon_quantize.commands.terminal import Terminal, say
from gluon_quantize.report.settings import settings_text
from gluon_quantize.runs.requests import (
    AUTO,
    BACKENDS,
    FLOATS,
    CalibrationFiles,
    CalibrationRequest,
    QuantizationRequest,
    SensitivityRequest,
)
from quantize.errors import ConfigError

PROG = "simulate_quantization.py"
DESCRIPTION = """Simulate the quantization of a CNN and say what it loses against the float network.

Without further options as the measurements recommend: batch norm merged, one weight scale per channel, fixed input
ranges from a calibration by sqnr, biases corrected. --predecessor: as Quantization.MXNet did."""


class Defaults(NamedTuple):
    """What holds where nothing is said."""

    granularity: str
    offline: bool
    method: str
    correction: str
    exclude_first: Optional[str]


RECOMMENDED = Defaults("channel", True, CalibrationRequest.method, CalibrationRequest.bias_correction, None)
PREDECESSOR = Defaults("layer", False, "naive", "none", "true")


def build_parser(prog: str = PROG, predecessor: Optional[bool] = None) -> Parser:
    """The parser: every option of Quantization.MXNet, and ours.

    Parameters
    ----------
    predecessor : bool, optional
        With its defaults; None: for the script that has its name.
    """
    predecessor = prog == PROG if predecessor is None else predecessor
    usual = PREDECESSOR if predecessor else RECOMMENDED
    parser = Parser(prog=prog, description=DESCRIPTION)
    options.add_model(parser)
    options.add_data(parser)
    _add_quantization(parser, usual)
    _add_calibration(parser, usual)
    options.add_repair(parser)
    _add_sensitivity(parser)
    _add_run(parser)
    _add_predecessor(parser, predecessor)
    return parser


def _add_predecessor(parser, default):
    parser.add_argument("--predecessor", action="store_true", default=default,
                        help="the defaults of Quantization.MXNet: --quant-type layer --online --calib-mode naive "
                             f"--bias-correction none (default: no; always in {PROG})")


def asks_for_predecessor(prog: str, argv: Optional[List[str]]) -> bool:
    """Whether a command line wants the predecessor's defaults: they are in the help, so it is read before."""
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    _add_predecessor(parser, prog == PROG)
    return parser.parse_known_args(argv)[0].predecessor


def _add_quantization(parser, usual):
    group = parser.add_argument_group("quantization")
    group.add_argument("--merge-bn", action="store_true", default=None,
                       help="merge batch norm into the weights before quantizing (default: where each channel has a "
                            "scale of its own, but not with --predecessor)")
    group.add_argument("--no-merge-bn", action="store_false", dest="merge_bn",
                       help="leave batch norm as it is (default: see --merge-bn)")
    group.add_argument("--weight-bits", "--weight-bits-width", type=whole(1, 16),
                       default=QuantizationRequest.weight_bits, metavar="N",
                       help="bits of the weights, 1 to 16 (default: %(default)s)")
    group.add_argument("--input-bits", "--input-bits-width", type=whole(1, 16),
                       default=QuantizationRequest.input_bits, metavar="N",
                       help="bits of the layers' inputs, 1 to 16 (default: %(default)s)")
    group.add_argument("--input-signed", choices=("auto", "true", "false"), default="auto",
                       help="inputs as int (true) or uint (false); auto: uint where the graph proves that the input "
                            "cannot be negative (default: %(default)s)")
    group.add_argument("--quant-type", choices=("layer", "group", "channel"), default=usual.granularity,
                       help="one weight scale per layer, group or channel (default: %(default)s)")
    group.add_argument("--target", metavar="NAME",
                       help=f"quantize as this engine computes, one of {', '.join(TARGETS.names())}, instead of by the "
                            "four options above, with batch norm merged; see the command deploy")
    options.add_first(group, usual.exclude_first, usual.exclude_first or "true; with --target false, as deploy has it")
    options.add_winograd(group)
    options.add_rules(group)


def _add_calibration(parser, usual):
    group = parser.add_argument_group("calibration")
    group.add_argument("--quantize-input-offline", action=Asking, switch=True, default=usual.offline,
                       help="fixed input ranges from a calibration; all options of the calibration imply it (default: "
                            f"{'yes' if usual.offline else 'no'})")
    group.add_argument("--online", action="store_true",
                       help="each batch's own input ranges instead of fixed ones (default: "
                            f"{'no' if usual.offline else 'yes'})")
    options.add_method(group, usual.method)
    options.add_correction(group, usual.correction)
    group.add_argument("--eval-per-calib", action=Asking, switch=True, help="evaluate after every calibration pass")
    group.add_argument("--compare-calibrators", action=Asking, switch=True,
                       help="one pass over the images, then accuracy and thresholds of every method, sorted; the run "
                            "ends with the best, or with --calib-mode where that is given")
    _add_files(parser.add_argument_group("calibration files"))


def _add_sensitivity(parser):
    group = parser.add_argument_group("what each layer costs")
    options.add_sensitivity(group)
    group.add_argument("--sensitivity-images", type=whole(1), default=SensitivityRequest.images, metavar="N",
                       help="on at most so many of the calibration images; layers near the input on fewer, for half of "
                            "the forward passes that each layer at each of the bits would take (default: %(default)s)")


def sensitivity(args: argparse.Namespace) -> Optional[SensitivityRequest]:
    """The sensitivities that are asked for; None without --sensitivity."""
    bits = options.sensitivity_bits(args)
    return None if bits is None else SensitivityRequest(bits, args.sensitivity_images)


def _add_files(group):
    group.add_argument("--save-table", metavar="FILE", action=Asking,
                       help="write the calibrated ranges as a text table")
    options.add_load_table(group)
    group.add_argument("--calib-shard", type=shard, metavar="I/N", action=Asking,
                       help="observe only part I of N of the calibration images, write --save-state and stop")
    group.add_argument("--save-state", metavar="FILE", action=Asking,
                       help="write what was observed, to be merged with other shards")
    group.add_argument("--merge-states", nargs="+", metavar="FILE", action=Asking,
                       help="take what was observed from the states of all shards instead of observing")


def _add_run(parser):
    group = parser.add_argument_group("the run")
    group.add_argument("--output", metavar="DIR",
                       help="write the quantized network (network.qnet), result.json and plan.txt there")
    reporting.add_report(group)
    group.add_argument("--backend", choices=tuple(BACKENDS), default=FLOATS,
                       help="what evaluates the quantized network: float operators, which is what training sees; "
                            "MXNet's own int8 operators with the formats of --target mxnet, which is faster than the "
                            "float network and rounds at a few places more; or exactly, code by code what the engine "
                            "of --target computes, without the engine (default: %(default)s)")
    options.add_device(group)
    options.add_seed(group)
    options.add_verbose(group)


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Options that need or exclude each other; those of the calibration imply fixed input ranges."""
    asking = getattr(args, "asking", ())
    if args.bias_correction not in ("none", AUTO):
        asking += ("--bias-correction",)
    if args.learn_rounding != "none":
        asking += ("--learn-rounding",)
    if args.sensitivity is not None:
        asking += ("--sensitivity",)
    if args.checkpoint and "--quantize-input-offline" in asking:
        parser.error(f"{args.checkpoint}: is quantized already, with ranges of its own; leave out "
                     "--quantize-input-offline")
    if args.online and asking:
        parser.error(f"{asking[0]} is about fixed input ranges; leave out --online")
    args.quantize_input_offline = not args.online and (args.quantize_input_offline or bool(asking))
    if args.backend != FLOATS and not args.checkpoint:
        args.target = args.target or BACKENDS[args.backend] or None
    if not args.exclude_first_conv:
        # the same network that deploy would make
        args.exclude_first_conv = "false" if args.target else "true"
        args.merge_bn = True if args.target else args.merge_bn
    if args.merge_bn is None:
        # one scale per layer and merged norms together cost most of the accuracy where channels differ much
        args.merge_bn = not args.predecessor and args.quant_type == "channel"
    if args.report and not args.output:
        parser.error("--report writes into --output DIR, which is not given")
    try:
        options.repair_request(args).check(calibration(args))
    except ConfigError as error:
        parser.error(str(error))


def calibration(args: argparse.Namespace) -> Optional[CalibrationRequest]:
    """The calibration that is asked for; None without fixed input ranges."""
    if not args.quantize_input_offline:
        return None
    files = CalibrationFiles(load_table=args.load_table, save_table=args.save_table, shard=args.calib_shard,
                             save_state=args.save_state, merge_states=tuple(args.merge_states or ()))
    best = args.compare_calibrators and "--calib-mode" not in getattr(args, "asking", ())
    return options.calibration_request(args, files, evaluate_passes=args.eval_per_calib,
                                       compare=args.compare_calibrators, best=best)


def quantization(args: argparse.Namespace) -> QuantizationRequest:
    """The formats that are asked for."""
    usual = PREDECESSOR if args.predecessor else RECOMMENDED
    # not said: the engine, the checkpoint or the file decides; with none of them a scale for each channel
    decided = args.target or args.checkpoint or args.onnx and not args.predecessor
    free = decided and args.quant_type == usual.granularity
    signed = {"auto": None, "true": True, "false": False}[args.input_signed]
    return QuantizationRequest(
        weight_bits=args.weight_bits, input_bits=args.input_bits, input_signed=signed,
        granularity=None if free else args.quant_type, winograd=options.winograd_format(args), target=args.target,
        merge_bn=args.merge_bn, exclude_first=args.exclude_first_conv == "true", config=args.config)


def work(args: argparse.Namespace) -> None:
    """Simulate as the options say, print and write what comes of it."""
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.report import accuracy, simulation, steps
    from gluon_quantize.runs import outputs
    from gluon_quantize.runs.ownership import SIMULATION
    from gluon_quantize.runs.simulate import SimulateRequest, simulate
    settings = options.settings(args)
    if args.verbose:
        say(settings_text(settings))
    request = SimulateRequest(options.network_request(args), options.images_request(args), quantization(args),
                              calibration(args), options.run_request(args), options.repair_request(args),
                              sensitivity(args), backend=args.backend)
    output = None if args.calib_shard else args.output
    if args.report:
        reporting.require()
    with outputs.claimed(output, SIMULATION):
        result = simulate(request, Terminal(lambda step: steps.step_text(step, args.print_model)))
        if args.calib_shard:
            return
        say("\n" + accuracy.summary_text(result.float, result.quantized, result.plan))
        if output:
            simulation.write_result(output, settings, result)
            say(f"written to {output}")
    if output and args.report:
        say("\n".join(reporting.beside(output, request.images)))


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run_if_asked(build_parser(prog, asks_for_predecessor(prog, argv)), argv, check, work)
