# SPDX-License-Identifier: MIT
"""Simulate the quantization of a CNN: what Top-1 does it lose against the float network?"""


from gluon_quantize.commands import running as command
from gluon_quantize.commands.options import PROG, build_parser, check
from gluon_quantize.report import text as report


def simulate(args):
    """Evaluate a network in float, quantize it as the options say, evaluate it again; prints and writes the result."""
    from gluon_quantize.runs import (
        calibrating,  # MXNet takes seconds to load, which --help need not wait for
        simulation,
    )
    settings = {name: value for name, value in sorted(vars(args).items()) if name not in ("list_models",)}
    print("Settings\n" + report.settings_text(settings), flush=True)
    for path in (args.save_table, args.save_state):
        report.check_file_writable(path)
    if args.output and not args.calib_shard:
        report.check_writable(args.output)
    task = simulation.open_task(args)
    settings["preprocessing"] = task.preprocessing.to_dict()
    print(f"\n{task.model.name} on {task.dataset} ({len(task.images)} images)", flush=True)
    if args.print_model:
        print(task.model.net)
    task.model.net.hybridize(static_alloc=True, static_shape=True)
    before = None if args.calib_shard else simulation.evaluation(args, task, "float")
    net = simulation.convert(args, task)
    print(f"\nPlan\n{net.plan}", flush=True)
    run = calibrating.Run(args, task, before)
    if args.quantize_input_offline:
        run.calibrate()
    if args.calib_shard:
        return
    run.switch_to_quantized()
    if args.print_model:
        print(net)
    print("\n" + report.thresholds_text(run.outcome), flush=True)
    if run.corrections:
        print(report.corrections_text(args.bias_correction, run.corrections), flush=True)
    after = run.evaluated()
    print("\n" + report.summary_text(before, after))
    if args.output:
        contents = report.result(settings, before, after, **run.results(after))
        report.write_result(args.output, contents, net.plan)
        print(f"written to {args.output}")


def main(argv=None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return command.run_if_asked(build_parser(prog), argv, check, simulate)
