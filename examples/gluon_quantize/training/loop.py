# SPDX-License-Identifier: MIT
"""The training loop: steps, epochs, optimizers. A run is a function of its settings and the number of the epoch."""

import contextlib
import itertools
import math
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Protocol, Tuple, cast

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from gluon_quantize.models.evaluation import Predictions, evaluate
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.training.distillation import LabelLoss
from gluon_quantize.training.optimizers import Optimizers
from gluon_quantize.training.workers import Workers
from quantize.errors import ConfigError, TrainingError
from quantize.modes import clear_cached_graphs, eager, quantizers, update_ema
from quantize.train import GradientSum, Hook
from quantize.tree import walk

NOT_FINITE = "NaN or infinity in the tensor"  # what the native operators say
PENDING = 100  # errors that may wait to be raised


class Epochs(Protocol):
    """Images to train on: `TrainingImages`, or what comes from elsewhere."""

    batch_size: int

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        """(Images, labels) of the batches of an epoch."""


@dataclass
class Progress:
    """How far a training has come; all of it is saved with a checkpoint.

    Attributes
    ----------
    epoch, step : int
        Epochs and updates done.
    best, best_epoch
        Largest value of the metric that decides, and the epoch (from 0) that reached it; None before the first.
    history : list of dict
        One record for each epoch.
    before : dict
        Scores before the first epoch: "float" and "calibrated", each a dict, or None where there are none.
    """

    epoch: int = 0
    step: int = 0
    best: Optional[float] = None
    best_epoch: Optional[int] = None
    history: List[Dict[str, Any]] = field(default_factory=list)
    before: Dict[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """A network in training, with everything that a step needs.

    Attributes
    ----------
    rates : callable
        Step -> share of the learning rates (`Rates.share`).
    accumulate : int
        Batches whose gradients make one step.
    start : int
        The step from which on layers are quantized.
    workers : Workers
        Those that train together.
    loss : callable
        (images, outputs, labels) -> losses of the images.
    """

    net: gluon.Block
    images: Epochs
    optimizers: Optimizers
    hooks: Hook
    rates: Callable[[int], float]
    ctx: mx.Context
    seed: int = 0
    accumulate: int = 1
    start: int = 0
    workers: Workers = field(default_factory=Workers)
    progress: Progress = field(default_factory=Progress)
    loss: Callable[..., mx.nd.NDArray] = field(default_factory=LabelLoss)

    def __post_init__(self) -> None:
        self.gradients = GradientSum(self.optimizers.parameters)
        if self.steps_per_epoch < 1:
            raise ConfigError(f"--accumulate {self.accumulate}: an epoch has only {len(self.images)} batches")

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch; batches that make no whole update are left out."""
        return len(self.images) // self.accumulate


def train_epoch(run: Run, progress: Silent = SILENT) -> Dict[str, float]:
    """Train one epoch; returns {"loss", "seconds", "images_per_second", "lr_share"}. `run.progress` moves on."""
    seed_epoch(run.seed, run.progress.epoch)
    run.optimizers.begin_epoch()
    losses, start = [], time.perf_counter()
    stream: Any = run.images.epoch(run.progress.epoch)
    # closed at once when training stops: the thread that makes the next batch must not outlive it
    with contextlib.closing(stream), progress.counter(run.steps_per_epoch, f"epoch {run.progress.epoch}",
                                                      "step") as count:
        for _ in range(run.steps_per_epoch):
            losses.append(train_step(run, itertools.islice(stream, run.accumulate)))
            count(1, loss=f"{np.mean(losses[-50:]):.4f}")
    run.workers.average_statistics(run.net)
    run.progress.epoch += 1
    seconds = time.perf_counter() - start
    trained = run.steps_per_epoch * run.accumulate * run.images.batch_size * run.workers.count
    return {"loss": float(np.mean(losses)), "seconds": seconds, "images_per_second": trained / seconds,
            "lr_share": run.rates(run.progress.step - 1)}


def seed_epoch(seed: int, epoch: int) -> None:
    """Random numbers of an epoch depend on nothing that came before, so that a resumed run draws the same ones."""
    # MXNet takes one number: two of NumPy's make seeds that do not overlap from epoch to epoch
    drawn = np.random.RandomState((seed, epoch)).randint(0, 2 ** 31 - 1, 2)
    np.random.seed(drawn[0])
    mx.random.seed(int(drawn[1]))


def train_step(run: Run, batches: Iterable) -> float:
    """One update from a few batches; returns their mean loss. TrainingError when it is not finite."""
    step, total, images = run.progress.step, 0.0, 0
    run.hooks.before_step(step)
    run.optimizers.set_share(run.rates(step))
    for x, y in batches:
        x, y = x.as_in_context(run.ctx), y.as_in_context(run.ctx)
        total, images = total + _loss(run, x, y), images + len(x)
        if not math.isfinite(total):
            raise TrainingError(f"the loss is {total} at step {step}; {where_not_finite(run.net, x)}. Take a lower "
                                "learning rate (the last checkpoint is kept)")
    if run.accumulate > 1:
        run.gradients.put()
    run.workers.sum_gradients(run.optimizers.parameters)
    run.optimizers.step(images * run.workers.count)
    run.hooks.after_step(step)
    run.progress.step += 1
    return total / images


def _loss(run: Run, x: mx.nd.NDArray, y: mx.nd.NDArray) -> float:
    """Sum of a batch's loss, once its gradients are there; NaN where a native operator has met what is not finite."""
    try:
        with autograd.record():
            loss = run.loss(x, run.net(x), y)
        loss.backward()
        if run.accumulate > 1:
            run.gradients.add()
        # reading the loss waits for the step; without it MXNet would queue steps until memory ends
        return float(loss.sum().asscalar())
    except mx.MXNetError as error:
        if NOT_FINITE not in str(error):
            raise
        return math.nan


def where_not_finite(net: gluon.Block, x: mx.nd.NDArray) -> str:
    """Which layer's output is the first that holds NaN or infinity, in words."""
    found: List[str] = []

    def watch(path):
        def look(block, inputs, output):
            if not found and isinstance(output, mx.nd.NDArray) and not np.isfinite(output.asnumpy()).all():
                found.append(path)
        return look
    # hooks see arrays in eager networks only, which is why the step is repeated
    handles = [block.register_forward_hook(watch(path or "(net)")) for path, block in walk(net)]
    try:
        with eager(net), autograd.train_mode():
            net(x)
    except mx.MXNetError:
        pass  # an operator that refuses such values itself; what came before was looked at
    finally:
        for handle in handles:
            handle.detach()
        _forget_errors()
    return f"the first output that is not finite is that of {found[0]}" if found else "all outputs are finite"


def _forget_errors() -> None:
    """Let operators that failed end: MXNet would raise their errors again, at the latest when the process ends."""
    for _ in range(PENDING):
        with contextlib.suppress(mx.MXNetError):
            mx.nd.waitall()
            return


@contextlib.contextmanager
def fixed_ranges(net: gluon.Block) -> Iterator[None]:
    """Context for inference: activations with moving averages compute with the ranges these have reached."""
    moving = [quantizer for _, quantizer in quantizers(net, "activation") if quantizer.mode == "ema"]
    if not moving:
        yield
        return
    update_ema(net)
    for quantizer in moving:
        # what inference uses: moving averages would go on moving with the validation images
        quantizer.mode = "offline"
    clear_cached_graphs(net)
    try:
        yield
    finally:
        for quantizer in moving:
            quantizer.mode = "ema"
        clear_cached_graphs(net)


def validate(net: gluon.Block, batches: Iterable, ctx: mx.Context, description: str = "validation",
             progress: Silent = SILENT) -> Predictions:
    """Predictions as the network would give them in inference."""
    with fixed_ranges(net):
        return cast(Predictions, evaluate(net, batches, ctx, description, progress))  # what is trained classifies
