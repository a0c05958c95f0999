# SPDX-License-Identifier: MIT
"""Retrain a network with fake quantization: a request goes in, the trained network and its scores come out.

It is used so::

    request = TrainRequest(NetworkRequest("digits_lenet"), "out", formats=FormatsRequest(weight_bits=4, input_bits=4))
    result = train(request)
    result.final["top1"], result.net
"""

import pathlib
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, cast

import numpy as np
from mxnet.gluon import Block

from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.models import checkpoint
from gluon_quantize.models.evaluation import Predictions, evaluate
from gluon_quantize.models.metrics import confusion_matrix, mean_metrics
from gluon_quantize.models.params import holds_quantizers, save_params
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.outputs import claimed
from gluon_quantize.runs.ownership import TRAINING
from gluon_quantize.training import loop
from gluon_quantize.training.checkpoints import Checkpoints
from gluon_quantize.training.optimizers import Optimizers, choices
from gluon_quantize.training.rates import rates_of
from gluon_quantize.training.request import TrainRequest
from gluon_quantize.training.rules import check_method
from gluon_quantize.training.stages import convert, enter_training, hooks_of, quantizes, start_quantization
from gluon_quantize.training.task import Task, loss_of, open_task, starts_random
from gluon_quantize.training.workers import Workers
from quantize.errors import ConfigError, DataError
from quantize.modes import quantizers
from quantize.train import reestimate_bn

BEST, FINAL, CHECKPOINTS = "best.params", "final.params", "checkpoints"


@dataclass(frozen=True)
class Begun:
    """Told first: nothing is opened yet."""

    request: TrainRequest


@dataclass(frozen=True)
class Opened:
    """Told before the first epoch: the network in training, and on what.

    Attributes
    ----------
    plan : quantize.convert plan or None
        None for a training in float.
    preprocessing : Preprocessing
        Of test images; training images are augmented, too.
    before : dict
        Scores of the validation images before the first epoch: "float", and "calibrated", as the quantized network
        starts; None for random weights, and for layers that are not quantized yet.
    """

    net: Block
    name: str
    dataset: str
    images: int
    steps_per_epoch: int
    plan: Any
    preprocessing: Optional[Preprocessing] = None
    before: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochDone:
    """Told after each epoch, when its checkpoint is written: its record, and those of all epochs so far.

    `before` are the scores before the first one, see `Opened`.
    """

    record: Dict[str, Any]
    history: List[Dict[str, Any]]
    before: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """What a training has come to.

    Attributes
    ----------
    net : Block
        With the parameters of the best epoch where there is one, else of the last.
    final, best : dict
        Metrics on the test images after the last and with the best epoch's parameters, see `scores`; `best` is None
        where no epoch was quantized.
    best_epoch : int or None
        Counted from 0.
    history : list of dict
        A record for each epoch.
    predictions : Predictions
        Of the network after the last epoch, for the test images.
    plan, rules
        How layers are quantized, and the config list that says so; None and empty for a training in float.
    before : dict
        Scores before the first epoch, see `Opened`.
    """

    net: Block
    classes: int
    final: Dict[str, Any]
    best: Optional[Dict[str, Any]]
    best_epoch: Optional[int]
    history: List[Dict[str, Any]]
    predictions: Predictions
    plan: Any = None
    rules: List[Dict[str, Any]] = field(default_factory=list)
    before: Dict[str, Any] = field(default_factory=dict)


def train(request: TrainRequest, progress: Silent = SILENT) -> Optional[TrainResult]:
    """Train as asked for; checkpoints, best and final network (.qnet, .params) go to the output folder.

    Parameters
    ----------
    progress : Silent
        Told `Begun`, `Opened` and an `EpochDone` for each epoch.

    Returns
    -------
    TrainResult or None
        None for all workers but the first.

    Raises
    ------
    ConfigError, DataError, ModelFileError
        For what is wrong with the request, its files or the output folder, before work begins.
    TrainingError
        When numbers are no longer finite; the last checkpoint is kept.
    """
    check_method(request)
    request = _with_trained_network(request)
    with Workers.connect(request.kvstore) as workers:
        if workers.rank:
            _Training(request, workers, SILENT).fit()
            return None
        with claimed(request.output, TRAINING):
            progress.tell(Begun(request))
            training = _Training(request, workers, progress)
            progress.tell(training.opened())
            training.fit()
            return training.finish()


def _with_trained_network(request: TrainRequest) -> TrainRequest:
    """The request with parameters of a quantized network in their place: they go in behind the conversion."""
    params = request.network.params
    if not params or request.start.weights or not holds_quantizers(params):
        return request
    return replace(request, network=replace(request.network, params=""), start=replace(request.start, weights=params))


def scores(predictions: Predictions, classes: int) -> Dict[str, Any]:
    """Metrics of predictions: counts, and the means over the classes that N2D2 prints."""
    matrix = confusion_matrix(predictions.labels, predictions.top5[:, 0], classes)
    images = len(predictions.labels)
    return dict(mean_metrics(matrix), images=images, top1_count=predictions.top1_count,
                top1=predictions.top1_count / images, top5=predictions.top5_count / images)


def learned_ranges(net: Block) -> Dict[str, float]:
    """Mean threshold, in real units, of every quantizer that has a stored or trained one."""
    return {path: float(np.mean(quantizer.threshold)) for path, quantizer in quantizers(net)
            if quantizer.mode in ("offline", "ema") and quantizer.calibrated}


class _Training:
    """One training: opened at its start or where the last checkpoint left it."""

    def __init__(self, request: TrainRequest, workers: Workers, progress: Silent):
        self.request, self.progress, self.folder = request, progress, pathlib.Path(request.output)
        self.task: Task = open_task(request)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, request.settings)
        self._check_checkpoints()
        as_float = None if workers.rank else self._float_scores()
        self.net, self.rules = convert(request, self.task)
        if not workers.rank:
            self._known().warn_if_lost(self.net)
        self.run = self._run(workers)
        if request.resume:
            self.run.progress = self.checkpoints.load(self.net, self.run.optimizers)
        self._begin()
        workers.broadcast(self.net)
        if not (workers.rank or self.run.progress.step):
            self.run.progress.before = {"float": as_float, "calibrated": self._calibrated_scores()}

    def _float_scores(self):
        """What the float network does at first; None where its weights are random, it is quantized, and to resume."""
        if self.task.goes_on or starts_random(self.request) or (self.request.resume and self.checkpoints.folders()):
            return None
        net = self.task.model.net
        # the float pass is ordinary inference; training hybridizes in its own way, after the conversion
        net.hybridize(static_alloc=True, static_shape=True)
        predictions = cast(Predictions, evaluate(net, self.task.validation, self.task.ctx, "float", self.progress))
        net.hybridize(active=False)
        return scores(predictions, self.task.classes)

    def _calibrated_scores(self):
        """What the quantized network does before the first step; None where it starts with random weights or later."""
        request = self.request
        if self.plan is None or self.run.start or (starts_random(request) and not request.start.weights):
            return None
        return self._scores("calibrated", self.task.validation)[0]

    def _check_checkpoints(self):
        if self.request.resume:
            self.checkpoints.check()
        elif self.checkpoints.folders():
            raise DataError(f"--output {self.request.output}: holds a training already; go on with --resume, or take "
                            "another folder")

    def _run(self, workers) -> loop.Run:
        request, schedule, task = self.request, self.request.schedule, self.task
        optimizers = Optimizers.of(self.net, *choices(request.optimizer))
        images = task.training.shared_by(workers)
        per_epoch = len(images) // schedule.accumulate
        start = schedule.float_epochs * per_epoch + schedule.quant_start_step
        ratio = request.optimizer.float_lr / request.optimizer.lr if request.optimizer.lr else 1.0
        run = loop.Run(self.net, images, optimizers, hooks_of(request, task, start, per_epoch, workers, self.progress),
                       rates_of(schedule, per_epoch, ratio), task.ctx, request.run.seed, schedule.accumulate, start,
                       workers, loss=loss_of(request, task.ctx))
        if start >= schedule.all_epochs * run.steps_per_epoch:
            raise ConfigError(f"--quant-start-step {schedule.quant_start_step}: the epochs that follow have only "
                              f"{schedule.epochs * run.steps_per_epoch} steps")
        return run

    def _begin(self):
        """Bring quantizers and hooks into the state that belongs to the step."""
        step = self.run.progress.step
        if step > self.run.start:
            enter_training(self.request, self.task)
        elif self.run.start == 0:
            start_quantization(self.request, self.task, self.progress)
        if step:
            self.run.hooks.before_step(step - 1)

    @property
    def plan(self):
        """How layers are quantized; None in float."""
        return self.net.plan if quantizes(self.request, self.task) else None

    def opened(self) -> Opened:
        """What there is to say before the first epoch."""
        task = self.task
        return Opened(self.net, task.model.name, task.dataset, len(task.training.indices), self.run.steps_per_epoch,
                      self.plan, task.preprocessing, self.run.progress.before)

    def fit(self):
        """Train epoch by epoch; after each one validate, keep the best, and write a checkpoint."""
        done = self.run.progress
        while done.epoch < self.request.schedule.all_epochs:
            record: Dict[str, Any] = dict(loop.train_epoch(self.run, self.progress), epoch=done.epoch - 1)
            # worker 0 alone measures and writes; the others have the same network, to the last bit
            if self.run.workers.rank:
                continue
            record.update(self._scores("validation", self.task.validation)[0])
            record["ranges"] = learned_ranges(self.net)
            # an epoch in float is no candidate: its numbers are of another network
            record["is_best"] = done.step > self.run.start and (
                done.best is None or record[self.request.best_by] > done.best)
            if record["is_best"]:
                done.best, done.best_epoch = record[self.request.best_by], record["epoch"]
                save_params(self.net, self.folder / BEST)
            done.history.append(record)
            self.checkpoints.save(self.net, self.run.optimizers, done)
            self.progress.tell(EpochDone(record, done.history, done.before))

    def finish(self) -> TrainResult:
        """After the last epoch: batch norm measured anew where asked, and metrics on the test images."""
        done, count = self.run.progress, self.request.schedule.reestimate_bn
        if count:
            numbers = self.progress.bar(range(count), "batch norm")
            reestimate_bn(self.net, (x for _, (x, _) in zip(numbers, self.run.images.epoch(done.epoch))))
        final, predictions = self._scores("test", self.task.test)
        save_params(self.net, self.folder / FINAL)
        self._save_checkpoint(checkpoint.FINAL)
        best = None
        if done.best_epoch is not None:
            # from the file and not from memory: what is reported of the best epoch is what its file holds
            self.net.load_parameters(str(self.folder / BEST))
            best, _ = self._scores("best", self.task.test)
            self._save_checkpoint(checkpoint.BEST)
        return TrainResult(self.net, self.task.classes, final, best, done.best_epoch, done.history, predictions,
                           self.plan, self.rules, done.before)

    def _save_checkpoint(self, name):
        """The network as it is in inference: moving averages as the ranges they have reached."""
        with loop.fixed_ranges(self.net):
            self._known().save_if_possible(self.net, self.folder / name)

    def _known(self):
        task, request = self.task, self.request
        return checkpoint.Known(task.model, task.preprocessing, task.dataset,
                                checkpoint.step_of("train", request, request.settings), task.class_names)

    def _scores(self, description, batches):
        predictions = loop.validate(self.net, batches, self.task.ctx, description, self.progress)
        return scores(predictions, self.task.classes), predictions
