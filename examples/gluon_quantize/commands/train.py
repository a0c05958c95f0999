# SPDX-License-Identifier: MIT
"""Retrain a CNN with fake quantization, so that it gets back what rounding costs."""

import pathlib

from gluon_quantize.commands import running as command
from gluon_quantize.commands.train_options import PROG, build_parser, check
from gluon_quantize.report import text as report
from quantize.errors import ConfigError, DataError

BEST, FINAL, CHECKPOINTS = "best.params", "final.params", "checkpoints"


def open_run(args, task, workers):
    """(Run at its start or where the last checkpoint left it, checkpoints, rules)."""
    from gluon_quantize.training import loop as training
    from gluon_quantize.training import setup as training_setup
    from gluon_quantize.training.checkpoints import Checkpoints
    checkpoints = Checkpoints(pathlib.Path(args.output) / CHECKPOINTS, vars(args))
    if args.resume:
        checkpoints.check()
    elif checkpoints.folders():
        raise DataError(f"--output {args.output}: holds a training already; go on with --resume, or take another "
                        "folder")
    net, rules = training_setup.convert(args, task)
    optimizers = training.Optimizers(net, *_optimizers(args))
    images = task.training.shared_by(workers)
    per_epoch = len(images) // args.accumulate
    start = args.float_epochs * per_epoch + args.quant_start_step
    hooks = _hooks(args, task, start, per_epoch, workers)
    run = training.Run(net, images, optimizers, hooks, _rates(args, per_epoch), task.ctx, args.fixed_random_seed,
                       args.accumulate, start, workers, loss=training_setup.loss(args, task))
    if start >= (args.float_epochs + args.epochs) * run.steps_per_epoch:
        raise ConfigError(f"--quant-start-step {args.quant_start_step}: the epochs that follow have only "
                          f"{args.epochs * run.steps_per_epoch} steps")
    if args.resume:
        run.progress = checkpoints.load(net, optimizers)
    _begin(args, task, run)
    workers.broadcast(net)
    return run, checkpoints, rules


def _begin(args, task, run):
    """Bring quantizers and hooks into the state that belongs to the step."""
    from gluon_quantize.training.setup import enter_training, start_quantization
    step = run.progress.step
    if step > run.start:
        enter_training(args, task)
    elif run.start == 0:
        start_quantization(args, task)
    if step:
        run.hooks.before_step(step - 1)


def _optimizers(args):
    from gluon_quantize.training.loop import OptimizerChoice

    def choice(name, lr, wd):
        options = {"wd": wd}
        return OptimizerChoice(name, lr, dict(options, momentum=args.momentum) if name in ("sgd", "nag") else options)
    own_lr = args.lr if args.quantizer_lr is None else args.quantizer_lr
    own_wd = args.wd if args.quantizer_wd is None else args.quantizer_wd
    return (choice(args.optimizer, args.lr, args.wd),
            choice(args.quantizer_optimizer or args.optimizer, own_lr, own_wd))


def _rates(args, per_epoch):
    from gluon_quantize.training.loop import restarted
    from gluon_quantize.training.rates import Rates

    def rates(epochs, drops=()):
        return Rates(args.schedule, epochs * per_epoch, int(args.warm_up * per_epoch) if epochs else 0,
                     tuple(drop * per_epoch for drop in drops), args.lr_decay)
    return restarted(rates(args.float_epochs), rates(args.epochs, args.lr_drops),
                     args.float_lr / args.lr if args.lr else 1.0)


def _hooks(args, task, start, per_epoch, workers):
    from gluon_quantize.training.setup import start_quantization
    from quantize.train import CheckNumbers, ClipWeights, FreezeBatchNorm, Hooks, StartQuantization
    net, hooks = task.model.net, []

    def prepare():
        # each worker has BatchNorm statistics of its own until the end of an epoch
        start_quantization(args, task)
        workers.broadcast(net)
    if start and args.method != "float":
        hooks.append(StartQuantization(net, start, prepare=prepare))
    if args.freeze_bn_epoch is not None:
        hooks.append(FreezeBatchNorm(net, args.freeze_bn_epoch * per_epoch))
    if args.method == "bnn":
        hooks.append(ClipWeights(net))
    return Hooks(*hooks, CheckNumbers(net, args.check_every))


def fit(args, task, run, checkpoints):
    """Train epoch by epoch; after each one validate, keep the best, write a checkpoint and the log."""
    from gluon_quantize.models.params import save_params
    from gluon_quantize.report import training as reports
    from gluon_quantize.training.loop import train_epoch, validate
    progress = run.progress
    while progress.epoch < args.float_epochs + args.epochs:
        record = dict(train_epoch(run), epoch=progress.epoch - 1)
        if run.workers.rank:
            continue
        record.update(reports.scores(validate(run.net, task.validation, task.ctx), task.classes))
        record["ranges"] = reports.learned_ranges(run.net)
        record["is_best"] = progress.step > run.start and (
            progress.best is None or record[args.best_by] > progress.best)
        if record["is_best"]:
            progress.best, progress.best_epoch = record[args.best_by], record["epoch"]
            save_params(run.net, pathlib.Path(args.output) / BEST)
        progress.history.append(record)
        checkpoints.save(run.net, run.optimizers, progress)
        reports.write_log(args.output, vars(args), progress)
        print(reports.epoch_text(record), flush=True)


def finish(args, task, run, rules):
    """After the last epoch: batch norm measured anew where asked, metrics on the test images, files and plots."""
    from gluon_quantize.models.params import save_params
    from gluon_quantize.report import training as reports
    from gluon_quantize.training.loop import validate
    from quantize.train import reestimate_bn
    folder, net = pathlib.Path(args.output), run.net
    if args.reestimate_bn:
        batches = (x for _, (x, _) in zip(range(args.reestimate_bn), run.images.epoch(run.progress.epoch)))
        reestimate_bn(net, batches)
    predictions = validate(net, task.test, task.ctx, "test")
    results = {"final": reports.scores(predictions, task.classes), "best_epoch": run.progress.best_epoch}
    save_params(net, folder / FINAL)
    if run.progress.best_epoch is not None:
        net.load_parameters(str(folder / BEST))
        results["best"] = reports.scores(validate(net, task.test, task.ctx, "best"), task.classes)
    reports.write_result(folder, vars(args), results, getattr(net, "plan", None), rules)
    if not args.no_plots:
        reports.plot(folder, run.progress.history)
    print("\n" + reports.classes_text(predictions, task.classes) + "\n")
    for name in ("final", "best"):
        if name in results:
            print(reports.final_text(name, results[name]))
    print(f"written to {folder}")


def train(args):
    """The whole command, as one of the workers."""
    from gluon_quantize.training.workers import Workers  # MXNet takes seconds to load, which --help need not wait for
    with Workers.connect(args.kvstore) as workers:
        train_with(args, workers)


def train_with(args, workers):
    """Train; worker 0 prints and writes."""
    from gluon_quantize.training.setup import open_task
    if workers.rank == 0:
        print("Settings\n" + report.settings_text(dict(sorted(vars(args).items()))), flush=True)
    report.check_writable(args.output)
    task = open_task(args)
    run, checkpoints, rules = open_run(args, task, workers)
    if workers.rank:
        fit(args, task, run, checkpoints)
        return
    print(f"\n{task.model.name} on {task.dataset} ({len(task.training.indices)} training images, {run.steps_per_epoch} "
          "steps an epoch)", flush=True)
    if args.print_model:
        print(run.net)
    if getattr(run.net, "plan", None) is not None:
        print(f"\nPlan\n{run.net.plan}\n", flush=True)
    fit(args, task, run, checkpoints)
    finish(args, task, run, rules)


def main(argv=None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return command.run_if_asked(build_parser(prog), argv, check, train)
