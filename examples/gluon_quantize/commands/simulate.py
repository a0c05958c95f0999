# SPDX-License-Identifier: MIT
"""The command `simulate`: what does a CNN lose when it is quantized?"""

import argparse
from typing import Any, Dict, List, Optional

from deploy.target import TARGETS
from gluon_quantize.commands import options, running
from gluon_quantize.commands.parser import Parser, shard, whole
from gluon_quantize.commands.terminal import Terminal
from gluon_quantize.report.settings import settings_text
from gluon_quantize.runs.requests import CalibrationFiles, CalibrationRequest, QuantizationRequest
from quantize.errors import ConfigError

PROG = "simulate_quantization.py"
DESCRIPTION = "Simulate the quantization of a CNN and say what it loses against the float network."
# options that only make sense with fixed input ranges, and so imply these
IMPLY_RANGES = ("load_table", "merge_states", "calib_shard", "save_table", "save_state", "compare_calibrators",
                "equalize")


def build_parser(prog: str = PROG) -> Parser:
    """The parser; every option of Quantization.MXNet with its default, and ours."""
    parser = Parser(prog=prog, description=DESCRIPTION)
    for add in (options.add_model, options.add_data, _add_quantization, _add_calibration, options.add_repair, _add_run):
        add(parser)
    return parser


def _add_quantization(parser):
    group = parser.add_argument_group("quantization")
    group.add_argument("--merge-bn", action="store_true",
                       help="merge batch norm into the weights before quantizing (default: no)")
    group.add_argument("--weight-bits-width", type=whole(1, 16), default=QuantizationRequest.weight_bits, metavar="N",
                       help="bits of the weights, 1 to 16 (default: %(default)s)")
    group.add_argument("--input-bits-width", type=whole(1, 16), default=QuantizationRequest.input_bits, metavar="N",
                       help="bits of the layers' inputs, 1 to 16 (default: %(default)s)")
    group.add_argument("--input-signed", choices=("auto", "true", "false"), default="auto",
                       help="inputs as int (true) or uint (false); auto: uint where the graph proves that the input "
                            "cannot be negative (default: %(default)s)")
    group.add_argument("--quant-type", choices=("layer", "group", "channel"), default=QuantizationRequest.granularity,
                       help="one weight scale per layer, group or channel (default: %(default)s)")
    group.add_argument("--target", metavar="NAME",
                       help="quantize as this engine computes, one of {}, instead of by the four options above; "
                            "see the command deploy".format(", ".join(TARGETS.names())))
    options.add_first(group, "true")
    options.add_winograd(group)
    options.add_rules(group)


def _add_calibration(parser):
    group = parser.add_argument_group("calibration")
    group.add_argument("--quantize-input-offline", action="store_true",
                       help="fixed input ranges from a calibration (default: each batch's own range); the options for "
                            "tables, states and comparison imply it")
    options.add_method(group, CalibrationRequest.method)
    options.add_correction(group)
    group.add_argument("--eval-per-calib", action="store_true", help="evaluate after every calibration pass")
    group.add_argument("--compare-calibrators", action="store_true",
                       help="one pass over the images, then accuracy and thresholds of every method")
    _add_files(parser.add_argument_group("calibration files"))


def _add_files(group):
    group.add_argument("--save-table", metavar="FILE", help="write the calibrated ranges as a text table")
    options.add_load_table(group)
    group.add_argument("--calib-shard", type=shard, metavar="I/N",
                       help="observe only part I of N of the calibration images, write --save-state and stop")
    group.add_argument("--save-state", metavar="FILE", help="write what was observed, to be merged with other shards")
    group.add_argument("--merge-states", nargs="+", metavar="FILE",
                       help="take what was observed from the states of all shards instead of observing")


def _add_run(parser):
    group = parser.add_argument_group("the run")
    group.add_argument("--output", metavar="DIR", help="write result.json and plan.txt there")
    options.add_device(group)
    options.add_seed(group)


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Options that need or exclude each other; some imply fixed input ranges."""
    chosen = args.bias_correction != "none" or args.learn_rounding != "none"
    if chosen or any(getattr(args, name) for name in IMPLY_RANGES):
        args.quantize_input_offline = True
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
    return options.calibration_request(args, files, evaluate_passes=args.eval_per_calib,
                                       compare=args.compare_calibrators)


def quantization(args: argparse.Namespace) -> QuantizationRequest:
    """The formats that are asked for."""
    signed = {"auto": None, "true": True, "false": False}[args.input_signed]
    return QuantizationRequest(
        weight_bits=args.weight_bits_width, input_bits=args.input_bits_width, input_signed=signed,
        granularity=args.quant_type, winograd=options.winograd_format(args), target=args.target,
        merge_bn=args.merge_bn, exclude_first=args.exclude_first_conv == "true", config=args.config)


def settings(args: argparse.Namespace) -> Dict[str, Any]:
    """The options and their values, in alphabetical order."""
    return {name: value for name, value in sorted(vars(args).items()) if name != "list_models"}


def work(args: argparse.Namespace) -> None:
    """Simulate as the options say, print and write what comes of it."""
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.report import accuracy, simulation, steps
    from gluon_quantize.runs import outputs
    from gluon_quantize.runs.simulate import SimulateRequest, simulate
    print(settings_text(settings(args)), flush=True)
    request = SimulateRequest(options.network_request(args), options.images_request(args), quantization(args),
                              calibration(args), options.run_request(args), options.repair_request(args))
    if args.output and not args.calib_shard:
        outputs.check_folder(args.output)
    result = simulate(request, Terminal(lambda step: steps.step_text(step, args.print_model)))
    if args.calib_shard:
        return
    print("\n" + accuracy.summary_text(result.float, result.quantized))
    if args.output:
        simulation.write_result(args.output, settings(args), result)
        print(f"written to {args.output}")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run_if_asked(build_parser(prog), argv, check, work)
