# SPDX-License-Identifier: MIT
"""The moments in which a network in training becomes another one: converted, quantized, with batch norm frozen."""

import contextlib
from typing import Any, Dict, List, Tuple

import mxnet as mx
from mxnet.gluon import Block

from calib.calibrators import named_calibrator
from calib.collect import calibrate, observe
from calib.tiles import calibrate_tiles
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.training.request import FLOAT, FormatsRequest, TrainRequest
from gluon_quantize.training.rules import build_rules, named_rules
from gluon_quantize.training.task import Task, starts_random
from gluon_quantize.training.workers import Workers
from quantize.convert import convert_model, fake_bn, mean_global_pooling
from quantize.convert.net import QuantizedNet
from quantize.errors import ConfigError, ModelFileError
from quantize.modes import quantize_input, set_mode
from quantize.nn import METHODS
from quantize.params_file import check_params
from quantize.train import (
    CheckNumbers,
    FreezeBatchNorm,
    Hook,
    Hooks,
    StartQuantization,
    method_hooks,
    set_clamp_only,
    start_training,
)
from quantize.winograd import WinogradSpec, parse_winograd

FEW_BITS = 4  # of inputs: from here on sqnr's wide ranges cost more than they save


def convert(request: TrainRequest, task: Task) -> Tuple[Block, List[Dict[str, Any]]]:
    """(Network ready for `start_quantization`, its rules): converted, batch norm folded, weights loaded, hybridized."""
    net, rules = task.model.net, []
    example = mx.nd.array(next(iter(task.calibration))[0][:1], ctx=task.ctx)
    net(example)  # parameters of unknown shape get theirs
    if not task.goes_on:
        mean_global_pooling(net)
    if quantizes(request, task) and not task.goes_on:
        formats = request.formats
        rules = build_rules(formats, net)
        convert_model(net, config_list=named_rules(formats, rules), target=formats.target, example_input=example)
        _fold(net, formats)
    if request.start.weights:
        load_weights(net, request.start.weights)
    net.hybridize(static_alloc=True, static_shape=True)
    return net, rules


def quantizes(request: TrainRequest, task: Task) -> bool:
    """Whether layers are rounded, sooner or later."""
    return task.goes_on or request.formats.method != FLOAT


def _fold(net: Block, formats: FormatsRequest) -> None:
    """Fold batch norm as asked; for a target by default, where there is any and the method can."""
    if formats.fake_bn is not None:
        if formats.fake_bn != "none":
            fake_bn(net, formats.fake_bn)
    elif formats.target is not None and METHODS.get(formats.method).weight.keeps_size:
        with contextlib.suppress(ConfigError):  # there is no batch norm
            fake_bn(net, "batch")


def load_weights(net: Block, path: str) -> None:
    """Parameters that another run saved; ModelFileError when they are of another network or method."""
    check_params(path)
    try:
        net.load_parameters(path, **({"modes_follow": True} if isinstance(net, QuantizedNet) else {}))
    except (AssertionError, ValueError, KeyError, mx.MXNetError) as error:
        raise ModelFileError(f"{path}: does not fit the network as it is quantized here: "
                             f"{str(error).splitlines()[0]}") from None


def usual_calibrator(formats: FormatsRequest) -> str:
    """The calibrator that serves best at the start: the method's own, but at few bits least squared error."""
    usual = METHODS.get(formats.method).start_calibrator
    return "mse" if usual == "sqnr" and formats.input_bits <= FEW_BITS else usual


def start_quantization(request: TrainRequest, task: Task, progress: Silent = SILENT) -> None:
    """Ranges of inputs from a calibration, then every quantizer into the mode in which its method trains."""
    net, start = task.model.net, request.start
    if not quantizes(request, task):
        return
    if task.goes_on:  # with the ranges it has
        enter_training(request, task)
        return
    # a calibration runs in inference, where batch norm without statistics leaves ranges that training does not have
    trained = start.weights or request.schedule.float_epochs or not starts_random(request)
    usual = usual_calibrator(request.formats) if trained else "none"
    method = start.calibrator or usual
    if method != "none" and not start.clamp_only:
        calibrator, images = named_calibrator(method), progress.bar(task.calibration, "calibration")
        calibrate(net, observe(net, images, calibrator, ctx=task.ctx), calibrator, keep_stated=True)
        winograd = parse_winograd(request.formats.winograd)
        if isinstance(winograd, WinogradSpec) and winograd.inputs:
            quantize_input(net, enable=True, online=False)
            calibrate_tiles(net, task.calibration, task.ctx)
    enter_training(request, task)


def enter_training(request: TrainRequest, task: Task) -> None:
    """Every quantizer into the mode in which its method trains; in the clamped stage nothing is rounded."""
    net = task.model.net
    if not quantizes(request, task):
        return
    start_training(net, next(iter(task.calibration))[0].as_in_context(task.ctx), request.formats.ranges)
    if request.start.clamp_only:
        set_clamp_only(net)
        set_mode(net, "float", "activation")


def hooks_of(request: TrainRequest, task: Task, start: int, per_epoch: int, workers: Workers,
             progress: Silent = SILENT) -> Hook:
    """What is done before and after steps.

    Parameters
    ----------
    start : int
        The step from which on layers are quantized.
    per_epoch : int
        Steps.
    """
    net = task.model.net
    hooks: List[Any] = []

    def prepare():
        # each worker has BatchNorm statistics of its own until the end of an epoch
        start_quantization(request, task, progress)
        workers.broadcast(net)
    if start and quantizes(request, task):
        hooks.append(StartQuantization(net, start, prepare=prepare))
    if request.schedule.freeze_bn_epoch is not None:
        hooks.append(FreezeBatchNorm(net, request.schedule.freeze_bn_epoch * per_epoch))
    return Hooks(*hooks, *method_hooks(net), CheckNumbers(net, request.schedule.check_every))
