# SPDX-License-Identifier: MIT
"""What a training works on: a float network, its images, and the loss."""

from dataclasses import dataclass
from typing import Optional, Tuple

import mxnet as mx
import numpy as np

from gluon_quantize.data.batches import Batches, batches
from gluon_quantize.data.datasets import balanced_indices, open_images
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.steps import check_size, steps_for
from gluon_quantize.models.device import start
from gluon_quantize.models.inputs import input_names
from gluon_quantize.models.loading import UNTRAINED, LoadedModel, open_model
from gluon_quantize.training.augmentation import Augmentation
from gluon_quantize.training.distillation import Distillation, LabelLoss
from gluon_quantize.training.images import TrainingImages
from gluon_quantize.training.request import TrainingImagesRequest, TrainRequest
from quantize.errors import ConfigError, DataError


@dataclass(frozen=True)
class Task:
    """A float network and its images.

    Attributes
    ----------
    training : TrainingImages
    calibration, validation, test : Batches
        `validation` are the test images unless some training images are held out.
    goes_on : bool
        The network was quantized before, and is to stay as it is.
    """

    model: LoadedModel
    dataset: str
    classes: int
    preprocessing: Preprocessing
    training: TrainingImages
    calibration: Batches
    validation: Batches
    test: Batches
    ctx: mx.Context
    goes_on: bool = False
    class_names: Optional[Tuple[str, ...]] = None


def open_task(request: TrainRequest) -> Task:
    """Everything that can be wrong with names and files is found here, before work begins."""
    ctx = start(request.run)
    model = open_model(request.network, ctx, as_float=not request.keep_formats)
    if request.start.from_scratch:
        model.net.initialize(mx.init.Xavier(), ctx=ctx, force_reinit=True)
    images = request.images
    dataset = images.dataset_for(model.dataset_hint)
    steps = steps_for(images, dataset, model.preprocessing, model.channels)
    return _with_images(request, model, dataset, steps, ctx)


def _with_images(request: TrainRequest, model, dataset, steps, ctx) -> Task:
    asked, seed, held_out = request.images, request.run.seed, request.training.hold_out
    images, test = (open_images(asked, dataset, split) for split in ("train", "test"))
    if max(len(test.shapes(0, steps)), len(input_names(model.net))) > 1:
        raise ConfigError(f"{model.name}: train takes networks with one input; those with several go through simulate "
                          "and deploy")
    shape = test.prepared(0, steps).shape
    check_size(steps, shape, model.input_shape if model.declares_size else None, test.origin(0))
    order = np.random.RandomState(seed).permutation(len(images)) if held_out else np.arange(len(images))
    if held_out >= len(images):
        raise DataError(f"--hold-out {held_out}: there are only {len(images)} training images")
    held, kept = order[:held_out], order[held_out:][:request.training.count]
    count = request.start.calibration_images
    # balanced over the classes, then cut: a few classes may have one image more than others
    chosen = balanced_indices(images.labels[kept], -(-count // images.num_classes), seed)[:count]
    training = TrainingImages(images, steps, asked.batch_size, augmentation(request.training, dataset), indices=kept,
                              seed=seed, threads=asked.workers)

    def plain(source, indices=None):
        return batches(source, steps, asked.batch_size, indices, asked.workers)
    evaluated = plain(test, None if asked.count is None else np.arange(min(asked.count, len(test))))
    return Task(model, dataset, images.num_classes, steps, training, plain(images, kept[chosen]),
                plain(images, held) if held_out else evaluated, evaluated, ctx, goes_on=model.converted,
                class_names=test.class_names)


def augmentation(request: TrainingImagesRequest, dataset: str) -> Augmentation:
    """The data set's own, with what the request says differently."""
    usual = Augmentation.for_dataset(dataset)
    return Augmentation(request.augment or usual.kind, usual.pad if request.pad is None else request.pad)


def starts_random(request: TrainRequest) -> bool:
    """Whether the float network has random weights at the start."""
    return request.start.from_scratch or (request.network.model in UNTRAINED and not request.network.params)


def loss_of(request: TrainRequest, ctx: mx.Context) -> LabelLoss:
    """The loss that is asked for; ConfigError where there is no trained network to learn from."""
    share = request.distillation.share
    if not share:
        return LabelLoss()
    if starts_random(request) or request.schedule.float_epochs:
        raise ConfigError("--distill: the float network has random weights at the start; train one first (--method "
                          "float) and give it with --params")
    teacher = open_model(request.network, ctx, as_float=True).net
    teacher.hybridize(static_alloc=True, static_shape=True)
    return Distillation(teacher, share, request.distillation.temperature)
