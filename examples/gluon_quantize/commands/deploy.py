# SPDX-License-Identifier: MIT
"""Deploy a CNN to ncnn: quantize it, write the files that ncnn runs in int8, and prove that they compute what was
simulated."""


from gluon_quantize.commands import running as command
from gluon_quantize.commands.deploy_options import PROG, build_parser, check, settings
from gluon_quantize.report import text as report
from gluon_quantize.runs.staging import check_new, staged
from quantize.errors import DeployError


def deploy(args):
    """Everything, as the options say; the results are in the folder of --output."""
    from gluon_quantize.runs import (
        calibrating,  # MXNet takes seconds to load
        simulation,
    )
    from gluon_quantize.runs import checks as deploying_checks
    from gluon_quantize.runs import deployment as deploying
    chosen = settings(args)
    print("Settings\n" + report.settings_text(chosen), flush=True)
    check_new(args.output, args.force)
    args.target = deploying.chosen_target(args)
    if not args.no_engine:
        need_engine(args.target)
    task = simulation.open_task(args)
    chosen["preprocessing"] = task.preprocessing.to_dict()
    print(f"\n{task.model.name} on {task.dataset} ({len(task.images)} images)", flush=True)
    if args.print_model:
        print(task.model.net)
    task.model.net.hybridize(static_alloc=True, static_shape=True)
    before = simulation.evaluation(args, task, "float")
    images = deploying_checks.verification_batches(args, task.images, task.preprocessing)
    scores = None if args.no_engine else deploying_checks.float_scores(task.model.net, images)
    net = simulation.convert(args, task)
    print(f"\nPlan\n{net.plan}", flush=True)
    run = calibrating.Run(args, task, before)
    run.calibrate()
    floating = deploying.lowered(args.target, task, integers=False)
    run.switch_to_quantized()
    if args.print_model:
        print(net)
    deployed = deploying.deployment(args, task, floating, run.outcome)
    with staged(args.output, args.force) as folder:
        _write(args, folder, task, deployed, run, (chosen, before, scores))
    print(f"\nwritten to {args.output}")


def need_engine(target):
    """Refuse to begin without the engine."""
    try:
        if target.engine is not None:
            target.engine.require()
    except DeployError as error:
        raise DeployError(f"{error}, or write the files without running them: --no-engine") from None


def _write(args, folder, task, deployed, run, known):
    """Fill the folder; `known` is (chosen settings, Predictions in float, scores in float of the images to verify)."""
    from deploy.proof.certificate import write_certificate
    from gluon_quantize.report import deployment as deploying_report
    from gluon_quantize.runs import calibration
    from gluon_quantize.runs import checks as deploying_checks
    from gluon_quantize.runs import deployment as deploying
    chosen, before, scores = known
    for problem in deploying.write_files(args, folder, deployed, task.model.net, run.outcome):
        print(f"warning: {problem}")
    images = deploying_checks.verification_batches(args, task.images, task.preprocessing)
    sides, export, latency = deploying_checks.simulated(task.model.net, deployed), None, None
    if not args.no_engine and deployed.target.engine is not None:
        sides.update(deploying_checks.in_engine(deployed, folder))
        export = deploying_checks.float_export(deployed, folder, images, scores)
        latency = deploying_checks.latencies(args, task, deployed, folder)
    contents = deploying_checks.compared(images, deployed, folder, sides, export)
    write_certificate(folder, contents)
    print("\n" + deploying_report.verification_text(contents), flush=True)
    for text in deploying.write_reports(args, folder, deployed, images):
        print("\n" + text, flush=True)
    after = deploying_checks.accuracies(args, task, deployed, folder)
    print("\n" + deploying_report.accuracy_text(before, after))
    sizes = deploying_checks.sizes(deployed, folder)
    print(deploying_report.weight_text(sizes, latency))
    deploying_report.write_result(folder, chosen, before, after, sizes=sizes, latency_ms=latency,
                                  verification=contents["sides"],
                                  calibration=calibration.judgement(run.net, run.outcome))


def recheck(args):
    """Compare the files of an earlier run with the integer engine on this machine."""
    from deploy.proof.certificate import write_certificate
    from gluon_quantize.report import deployment as deploying_report
    from gluon_quantize.runs import checks as deploying_checks
    from gluon_quantize.runs import recheck as deploying_recheck
    if args.output:
        check_new(args.output, args.force)
    folder, deployed, images = deploying_recheck.opened(args)
    contents = deploying_checks.compared(images, deployed, folder, deploying_checks.in_engine(deployed, folder))
    print(deploying_report.verification_text(contents))
    if args.output:
        with staged(args.output, args.force) as output:
            write_certificate(output, contents)
        print(f"\nwritten to {args.output}")


def main(argv=None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    parser = build_parser(prog)

    def work(args):
        if args.recheck:
            recheck(args)
        elif not (args.model or args.onnx or args.symbol):
            print(command.NO_MODEL.format(prog=command.spelled(parser.prog)))
        else:
            check(parser, args)
            deploy(args)
    return command.run(parser, argv, work)
