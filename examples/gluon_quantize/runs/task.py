# SPDX-License-Identifier: MIT
"""What a run after training works on: the network with its images, converted, and computing as it is asked to."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from calib.bias_correction import correct_biases
from calib.rounding.learn import Learned, learn_rounding
from calib.table import data_fingerprint
from calib.tiles import calibrate_tiles
from gluon_quantize.data.batches import Batches, requested
from gluon_quantize.data.datasets import balanced_indices, open_calibration, open_images
from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.request import TOP1
from gluon_quantize.data.steps import check_size, steps_for
from gluon_quantize.models.device import start
from gluon_quantize.models.evaluation import Answers, Predictions, evaluate
from gluon_quantize.models.inputs import inputs_of, pack
from gluon_quantize.models.loading import LoadedModel, open_model
from gluon_quantize.progress import Silent
from gluon_quantize.runs.methods import named_method
from gluon_quantize.runs.requests import AUTO, CalibrationRequest, PostTrainingRequest, QuantizationRequest
from quantize.config import Format, Rule, load_config
from quantize.convert import convert_model, merge_bn, trace
from quantize.convert.layers import WEIGHTED
from quantize.convert.targets import find_target
from quantize.errors import CalibrationError
from quantize.modes import fix_params, quantize_input, quantized_layers
from quantize.winograd import NONE, parse_winograd

FLOAT = "float"
UNLABELLED = 100  # classes that unlabelled images count as


@dataclass(frozen=True)
class NearChance:
    """Told when the float network does hardly better than guessing: something about the images is not as it was."""

    predictions: Predictions


@dataclass(frozen=True)
class Task:
    """A network with the images to evaluate it on, those to calibrate it on, and the rules of a file.

    Attributes
    ----------
    calibration : Batches or None
        For one shard of several its images alone.
    calibration_set : str
        Fingerprint of the images of all shards.
    evaluated : int
        How many of the images are evaluated.
    """

    model: LoadedModel
    dataset: str
    images: ImageSet
    calibration: Optional[Batches]
    calibration_set: str
    rules: Sequence[Rule]
    preprocessing: Preprocessing
    ctx: mx.Context
    evaluated: int
    metric: str = AUTO

    @property
    def net(self) -> mx.gluon.HybridBlock:
        """The network, in its present state."""
        return self.model.net

    @property
    def image_shape(self) -> Tuple[int, ...]:
        """(channels, height, width) of a preprocessed image; (values,) where there are several inputs."""
        return self.images.prepared(0, self.preprocessing).shape

    @property
    def classifies(self) -> bool:
        """Whether answers are compared with labels, and not with the float network's."""
        if self.metric != AUTO:
            return self.metric == TOP1
        return self.model.classifies and self.images.labelled

    def example(self) -> mx.nd.NDArray:
        """A black image, as a batch of one."""
        return mx.nd.zeros((1,) + self.image_shape, ctx=self.ctx)


def open_task(request: PostTrainingRequest, wants_ranges: bool = False) -> Task:
    """Everything that can be wrong with names and files is found here, before work begins.

    With `wants_ranges` there are calibration images whatever the request says.
    """
    find_target(request.quantization.target)
    rules = load_config(request.quantization.config) if request.quantization.config else ()
    ctx = start(request.run)
    model = open_model(request.network, ctx)
    dataset = request.images.dataset_for(model.dataset_hint)
    steps = steps_for(request.images, dataset, model.preprocessing, model.channels)
    calibration, calibration_set = None, "-"
    seen = not model.converted or request.sensitivity is not None
    if wants_ranges or _needs_images(request) and seen:
        calibration, calibration_set = _calibration_batches(request, dataset, steps)
    images = open_images(request.images, dataset, "test", labels=_needs_labels(request, model))
    task = Task(model, dataset, images, calibration, calibration_set, rules, steps, ctx,
                min(len(images), request.images.count or len(images)), request.images.metric)
    pack(task.net, images.shapes(0, steps), images.origin(0))
    if not inputs_of(task.net):
        check_size(steps, task.image_shape, model.input_shape if model.declares_size else None, images.origin(0))
    return task


def _needs_labels(request: PostTrainingRequest, model: LoadedModel) -> bool:
    metric = request.images.metric
    return metric == TOP1 or metric == AUTO and model.classifies


def _needs_images(request: PostTrainingRequest) -> bool:
    """Whether calibration images are read: not for ranges from a table or from states, if nothing else wants them."""
    asked = request.calibration
    if asked is None:
        return False
    searches = asked.compare or named_method(asked.method).searches
    observes = not asked.files.load_table and (searches or not asked.files.merge_states)
    return (observes or request.quantization.rounds_tiles or correction_of(request) != "none"
            or request.repair.wants_images or request.sensitivity is not None)


def correction_of(request: PostTrainingRequest) -> str:
    """How biases are corrected: 'none', 'parallel' or 'sequential'."""
    asked, repair = request.calibration, request.repair
    if asked is None or (asked.bias_correction == AUTO and repair.rounding != "none"):
        return "none"  # learned rounding gives biases the float network's mean already
    return asked.correction(request.quantization.merge_bn or repair.changes_float)


def _calibration_batches(request, dataset, steps):
    """(Batches of a class-balanced part of the calibration images, or of one shard of it; fingerprint of all of it)."""
    asked: CalibrationRequest = request.calibration
    folder = asked.folder or request.images.folder
    loader = request.images.loader if asked.folder is None else None
    images = open_images(request.images, dataset, "train") if loader else open_calibration(
        "imagenet" if request.images.loader else dataset, folder)
    # without labels there are no classes to balance: as many as there would be of a hundred of them
    per_class = asked.per_class if images.labelled else asked.per_class * UNLABELLED
    indices = balanced_indices(images.labels, per_class, request.run.seed, warn=images.labelled)
    if asked.max_batches is not None:
        indices = indices[:asked.max_batches * request.images.batch_size]
    if asked.max_images is not None:
        indices = indices[:asked.max_images]
    if not len(indices):
        raise CalibrationError(f"the calibration set {folder or dataset} is empty")
    everything = data_fingerprint(images.identity(index) for index in indices)
    if asked.files.shard:
        shard, shards = asked.files.shard
        indices = indices[shard - 1::shards]
        if not len(indices):
            raise CalibrationError(f"--calib-shard {shard}/{shards}: no image is left for this shard; use fewer shards")
    return requested(request.images, images, steps, indices), everything


def convert(request: QuantizationRequest, task: Task) -> mx.gluon.HybridBlock:
    """The network quantized as asked; its BatchNorms merged first where that is asked, too."""
    net = task.net
    net(task.example())  # parameters of unknown shape get theirs
    if request.merge_bn:
        merge_bn(net)
    rules = [] if request.target else _formats(request)
    if request.exclude_first:
        rules.append(Rule(op_names=tuple(trace(net).first_layers()), exclude=True, reason="first convolution"))
    rules += [*task.rules, *request.rules]
    net.hybridize(static_alloc=True, static_shape=True)
    return convert_model(net, config_list=rules, target=request.target, example_input=task.example())


def _formats(request) -> List[Rule]:
    rules = [Rule(op_types=WEIGHTED, weight=Format(request.weight_bits, True, request.usual_granularity),
                  input=Format(request.input_bits, request.input_signed), reason="command line")]
    winograd = parse_winograd(request.winograd)
    if winograd != NONE:
        rules.append(Rule(op_types=("Conv2D",), winograd=winograd, reason="command line"))
    return rules


def evaluation(request: PostTrainingRequest, task: Task, description: str, progress: Silent) -> Answers:
    """Answers of the task's network in its present state."""
    images = requested(request.images, task.images, task.preprocessing)
    found = evaluate(task.net, images, task.ctx, description, progress, task.classifies)
    if description == FLOAT and isinstance(found, Predictions) and found.near_chance:
        progress.tell(NearChance(found))
    return found


def _has_biases(net) -> bool:
    """Whether a quantized layer has one that can be corrected; `correct_biases` refuses a network without."""
    return any(getattr(layer, "bias", None) is not None and layer.norm is None for _, layer in quantized_layers(net))


def switch_to_quantized(request: PostTrainingRequest, task: Task,
                        progress: Silent) -> Tuple[Dict[str, np.ndarray], List[Learned]]:
    """Weights quantized once, inputs with calibrated or with each batch's range; a table has set the modes already.

    Returns what was added to the biases, {layer: array (channels,)}, and what became of the layers whose rounding was
    learned; both are empty where that is not asked for.
    """
    net, asked = task.net, request.calibration
    images: Any = task.calibration  # there are some for whatever reads them
    corrections, learned = {}, []
    if asked is None or not asked.files.load_table:
        quantize_input(net, enable=True, online=asked is None)
    if asked is not None and request.quantization.rounds_tiles:
        calibrate_tiles(net, images, task.ctx)
    method = correction_of(request)
    if method != "none" and asked is not None and (asked.bias_correction != AUTO or _has_biases(net)):
        for _ in progress.bar([method], "bias correction", "pass"):
            corrections = correct_biases(net, images, method, ctx=task.ctx)
    if request.repair.rounding != "none":
        learned = learn_rounding(net, images, request.repair.rounding, folder=request.repair.folder,
                                 seed=request.run.seed, ctx=task.ctx,
                                 progress=lambda items: progress.bar(items, "rounding", "layer"))
    fix_params(net)
    return corrections, learned
