# SPDX-License-Identifier: MIT
"""Train and test what an INI file of N2D2 describes: a request goes in, N2D2's closing figures come out.

It is used so::

    result = run_ini(IniRequest("LeNet.ini", "out", learn_epochs=10, data_dir="data"))
    result.scores["top1"], result.network.net
"""

import dataclasses
import hashlib
import logging
import pathlib
import shutil
from typing import Any, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np

from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.models.device import start
from gluon_quantize.models.metrics import NAMES
from gluon_quantize.models.params import save_params
from gluon_quantize.models.request import RunRequest
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.fusion import Fused, compare_fused
from gluon_quantize.runs.n2d2_digits import register
from gluon_quantize.runs.outputs import claimed
from gluon_quantize.runs.ownership import TRAINING
from gluon_quantize.runs.train import scores
from gluon_quantize.training import loop
from gluon_quantize.training.checkpoints import Checkpoints
from gluon_quantize.training.optimizers import Optimizers
from gluon_quantize.training.provided import ProvidedBatches, ProvidedTraining
from quantize import save_quantized
from quantize.errors import ConfigError, ConversionError, ModelFileError
from quantize.files import read_bytes
from quantize.interfaces.n2d2 import transform
from quantize.interfaces.n2d2.ini.environment import database
from quantize.interfaces.n2d2.ini.model import Model, read_model
from quantize.interfaces.n2d2.maps import draw_feature_maps
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.parameters import export_numbers, export_parameters, import_parameters
from quantize.interfaces.n2d2.pictures import draw_distributions, draw_dot, draw_network
from quantize.interfaces.n2d2.provider import DataProvider
from quantize.interfaces.n2d2.stats import write_stats
from quantize.params_file import check_params
from quantize.storage import Facts
from quantize.train import CheckNumbers, Hooks

logger = logging.getLogger(__name__)

WEIGHTS, QUANTIZED, BEST, CHECKPOINTS = "weights", "weights_quantized", "best.params", "checkpoints"
KEPT = "FLOAT_MULT"  # the scaling in which no code changes: what is written of a fused network
METRICS = {"Sensitivity": "sensitivity", "Specificity": "specificity", "Precision": "precision", "Accuracy": "accuracy",
           "F1Score": "f1", "Informedness": "informedness", "RecognitionRate": "top1"}
assert set(NAMES) < set(METRICS.values())
register()


@dataclasses.dataclass(frozen=True)
class IniRequest:
    """What to do with an INI file.

    Parameters
    ----------
    ini, output : path
        `output` gets the weights and figures.
    learn_epochs : int
        0: test only.
    data_dir : path, optional
        Folder of the images; None: as the file says.
    weights : path, optional
        Folder of an earlier training's numbers to start from.
    valid_metric : str, optional
        Of `METRICS`: what the best epoch has most of; with the file's validation images, else with the test images.
        None: recognition rate, where the file keeps validation images; else the last epoch counts.
    qat_sat : bool
        Fuse the network, and compare every code (`runs.fusion`).
    pictures : bool
        Draw the network and the distributions of its weights.
    """

    ini: str
    output: str = "."
    learn_epochs: int = 0
    data_dir: Optional[str] = None
    weights: Optional[str] = None
    valid_metric: Optional[str] = None
    qat_sat: bool = False
    pictures: bool = True
    run: RunRequest = RunRequest(seed=1)

    def __post_init__(self) -> None:
        if self.learn_epochs < 0:
            raise ConfigError(f"-learn-epoch {self.learn_epochs}: from 0 on, please")


@dataclasses.dataclass(frozen=True)
class IniOpened:
    """Told before the first epoch; `read` are the cells whose numbers came from the request's folder."""

    model: Model
    database: Any
    validated_on: Optional[str]
    epochs_done: int
    read: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class IniEpoch:
    """Told after each epoch."""

    record: Dict[str, Any]
    metric: str


@dataclasses.dataclass(frozen=True)
class IniResult:
    """What came of it.

    Attributes
    ----------
    network : CellNetwork
        With the numbers of the best epoch where there were validations, else of the last.
    scores : dict
        On the test images, see `gluon_quantize.runs.train.scores`.
    history : list of dict
        A record for each epoch.
    fused : list of Fused
        A record for each scaling; empty where it was not asked for.
    """

    model: Model
    network: CellNetwork
    scores: Dict[str, Any]
    history: List[Dict[str, Any]]
    best_epoch: Optional[int] = None
    fused: Sequence[Fused] = ()


def run_ini(request: IniRequest, progress: Silent = SILENT) -> IniResult:
    """Do what is asked for; ``weights`` in the output folder holds every cell's numbers, float and quantized.

    A training that was killed goes on from its last epoch when the same is asked for again.

    Raises
    ------
    ConfigError, DataError, ModelFileError
        For what is wrong with the file, its images or the folders, before work begins.
    """
    with claimed(request.output, TRAINING):
        return _IniRun(request, progress).run()


def preprocessing_of(model: Model) -> Optional[Dict[str, Any]]:
    """What other commands must do to images, where they can: a square size, a range, an order of colours; else None."""
    size, scale, order = 0, 1 / 255, "L" if model.size[2] == 1 else "BGR"
    for step in model.transformations:
        if not step.applies("Test"):
            continue
        if isinstance(step, transform.Rescale) and step.width == step.height and not step.keep_aspect_ratio:
            size = step.width
        elif isinstance(step, transform.RangeAffine) and step.divisor:
            scale = 1 / step.divisor
        elif isinstance(step, transform.ColorSpace) and step.color_space in ("RGB", "BGR"):
            order = step.color_space
        else:
            return None
    channels = model.size[2]
    return Preprocessing(order, scale, (0.0,) * channels, (1.0,) * channels, size).to_dict()


class _IniRun:
    def __init__(self, request: IniRequest, progress: Silent):
        self.request, self.progress, self.folder = request, progress, pathlib.Path(request.output)
        self.ctx = start(request.run)
        self.model = read_model(request.ini, request.run.seed)
        self.network = self.model.network
        data = database(self.model.database_options(), request.data_dir, request.run.seed)
        self.provider = DataProvider(data, self.model.size, self.model.batch_size, request.run.seed)
        for transformation in self.model.transformations:
            self.provider.add_transformation(transformation)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.settings)
        self.validated_on = "Validation" if data.get_nb_stimuli("Validation") else (
            "Test" if request.valid_metric else None)
        self.metric = METRICS[request.valid_metric or "RecognitionRate"]
        self.read: List[str] = []
        if request.weights:
            self.read = import_parameters(self.network, request.weights, ignore_not_exists=request.learn_epochs > 0)
        self.network.build(self.ctx).hybridize(static_alloc=True, static_shape=True)

    @property
    def settings(self) -> Dict[str, Any]:
        """What decides the training, but for its length."""
        request = self.request
        return {"ini": hashlib.sha256(read_bytes(request.ini)).hexdigest(), "weights": str(request.weights),
                "seed": request.run.seed, "valid-metric": str(request.valid_metric), "data-dir": str(request.data_dir)}

    def run(self) -> IniResult:
        best, history = None, []
        if self.request.learn_epochs:
            done = self._learn()
            best, history = done.best_epoch, done.history
        else:
            self._start()
        predictions = loop.validate(self.network.built, ProvidedBatches(self.provider, "Test"), self.ctx, "test",
                                    self.progress)
        found = scores(predictions, self._classes)
        if self.request.pictures and not self.request.qat_sat:
            draw_network(self.network, self.folder / self.model.name)
        fused = self._fused() if self.request.qat_sat else []
        export_parameters(self.network, self.folder / WEIGHTS)
        self._save()
        write_stats(self.network, self.folder, f"{self.model.name}.stats")
        if self.request.pictures:
            draw_distributions(self.network, self.folder / WEIGHTS)
            image, _ = self.provider.read("Test", np.arange(1), np.random.RandomState(self.request.run.seed))
            draw_feature_maps(self.network, mx.nd.array(image, ctx=self.ctx), self.folder / WEIGHTS)
        shutil.rmtree(str(self.folder / CHECKPOINTS), ignore_errors=True)
        return IniResult(self.model, self.network, found, history, best, fused)

    def _save(self) -> None:
        """The network as a checkpoint, where a file can hold it."""
        facts = Facts(preprocessing=preprocessing_of(self.model), extra={"name": self.model.name})
        try:
            save_quantized(self.network.built, self.folder / f"{self.model.name}.qnet", facts=facts,
                           provenance={"command": "n2d2", "settings": self.settings})
        except ConversionError as error:
            logger.warning("no checkpoint %s.qnet is written: %s", self.model.name, error)

    def _fused(self) -> List[Fused]:
        width, height, channels = self.model.size
        batches = self.progress.bar(ProvidedBatches(self.provider, "Test"), "fused")
        found = compare_fused(self.network.built, (channels, height, width), batches,
                              self.provider.bytes_scale("Test"))
        kept = next(result.network for result in found if result.scaling == KEPT)
        export_numbers(kept.numbers(), self.folder / QUANTIZED)
        if self.request.pictures:
            draw_dot(kept.dot(), self.folder / self.model.name)
        return found

    @property
    def _classes(self) -> int:
        return self.network.shapes[self.network.computed[-1].name][0]

    def _start(self) -> None:
        first = np.arange(min(self.model.batch_size, self.provider.database.get_nb_stimuli("Learn")))
        images, _ = self.provider.read("Learn", first, np.random.RandomState(self.request.run.seed))
        self.network.start(mx.nd.array(images, ctx=self.ctx))

    def _learn(self) -> loop.Progress:
        """Epoch by epoch: validate where there is something to validate on, keep the best, write a checkpoint."""
        self.checkpoints.check()
        self._start()
        net, groups = self.network.built, self.network.groups()
        sizes = {group.every for group in groups.values()}
        accumulate = sizes.pop() if len(sizes) == 1 else 1
        if accumulate > 1:
            groups = {name: dataclasses.replace(group, every=1) for name, group in groups.items()}
        optimizers = Optimizers(groups)
        images = ProvidedTraining(self.provider, self.request.run.seed)
        run = loop.Run(net, images, optimizers, Hooks(CheckNumbers(net, 50)), lambda step: 1.0, self.ctx,
                       self.request.run.seed, accumulate)
        run.progress = done = self.checkpoints.load(net, optimizers)
        optimizers.images = done.step * accumulate * images.batch_size
        self.progress.tell(IniOpened(self.model, self.provider.database, self.validated_on, done.epoch,
                                     self.read))
        while done.epoch < self.request.learn_epochs:
            record: Dict[str, Any] = dict(loop.train_epoch(run, self.progress), epoch=done.epoch - 1)
            self._validate(record, done)
            done.history.append(record)
            self.checkpoints.save(net, optimizers, done)
            self.progress.tell(IniEpoch(record, self.metric))
        if done.best_epoch is not None:
            self._load_best()
        return done

    def _validate(self, record: Dict[str, Any], done: loop.Progress) -> None:
        if self.validated_on is None:
            return
        predictions = loop.validate(self.network.built, ProvidedBatches(self.provider, self.validated_on), self.ctx,
                                    "validation", self.progress)
        record.update(scores(predictions, self._classes))
        record["is_best"] = done.best is None or record[self.metric] > done.best
        if record["is_best"]:
            done.best, done.best_epoch = record[self.metric], record["epoch"]
            path = self.folder / CHECKPOINTS / BEST
            path.parent.mkdir(exist_ok=True)
            save_params(self.network.built, path)

    def _load_best(self):
        path = self.folder / CHECKPOINTS / BEST
        check_params(path)
        try:
            self.network.built.load_parameters(str(path))
        except (OSError, ValueError, AssertionError, mx.MXNetError) as error:
            raise ModelFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
