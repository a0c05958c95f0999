# SPDX-License-Identifier: MIT
"""Simulate the quantization of a network: evaluate it in float, quantize it, evaluate it again.

>>> from gluon_quantize.runs.simulate import ImagesRequest, NetworkRequest, SimulateRequest, simulate
>>> result = simulate(SimulateRequest(NetworkRequest(model="digits_lenet"), ImagesRequest(count=50)))
>>> result.quantized.top1, result.quantized.agreement_count(result.float)
(1.0, 50)
>>> print(result.plan.entries[1].path, result.plan.entries[1].weight)
features.4 int8/channel
"""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np
from mxnet.gluon import Block

from calib.rounding.learn import Learned
from calib.sensitivity import Sensitivities
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.models.checkpoint import Known, step_of
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs import outputs
from gluon_quantize.runs.backend import Nearness, evaluated
from gluon_quantize.runs.calibration import Calibration, Comparison, Quantized, Trust
from gluon_quantize.runs.checkpoint import answers, leave_float, outcome_of, refuse_formats
from gluon_quantize.runs.repair import repair
from gluon_quantize.runs.requests import (
    BACKENDS,
    FLOATS,
    CalibrationFiles,
    CalibrationRequest,
    ImagesRequest,
    NetworkRequest,
    PostTrainingRequest,
    QuantizationRequest,
    RepairRequest,
    RunRequest,
    SensitivityRequest,
)
from gluon_quantize.runs.sensitivity import measure
from gluon_quantize.runs.task import Task, convert, evaluation, open_task
from quantize.convert.rules import Plan
from quantize.errors import ConfigError
from quantize.modes import thresholds

__all__ = ["CalibrationFiles", "CalibrationRequest", "ImagesRequest", "NetworkRequest", "QuantizationRequest",
           "RepairRequest", "RunRequest", "SensitivityRequest", "SimulateRequest", "SimulateResult", "simulate"]


@dataclass(frozen=True)
class SimulateRequest(PostTrainingRequest):
    """What to simulate; with None for the calibration inputs are rounded with each batch's own range.

    Parameters
    ----------
    backend : {'float', 'int8', 'exact'}
        What evaluates the quantized network: float operators; MXNet's own int8, which wants its formats
        (`quantization.target` 'mxnet', or a checkpoint that has them); or the integer engine with the arithmetic of
        the target, code by code what its engine computes.

    Raises
    ------
    ConfigError
        For a back end that is not known, or that does not go with the rest.
    """

    calibration: Optional[CalibrationRequest] = CalibrationRequest()
    backend: str = FLOATS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.backend == FLOATS:
            return
        target, wanted = self.quantization.target, BACKENDS[self.backend]
        if wanted and getattr(target, "name", target) not in (wanted, None):
            raise ConfigError(f"--backend {self.backend} computes as the target {wanted} does, not as "
                              f"{getattr(target, 'name', target)}")
        if not target and not self.network.checkpoint:
            raise ConfigError(f"--backend {self.backend} wants the formats of --target {wanted or 'NAME'}")
        if self.calibration is None or self.calibration.files.shard:
            raise ConfigError(f"--backend {self.backend} needs fixed input ranges: leave out --online and "
                              "--calib-shard")


# the result has a field called float
Thresholds = Dict[str, float]


@dataclass(frozen=True)
class SimulateResult:
    """What a simulation has found.

    Attributes
    ----------
    net : Block
        The network, quantized and ready to compute; for a shard converted alone.
    plan : Plan
        Which layers are quantized how, and why.
    preprocessing : Preprocessing
        What was done with the images.
    float, quantized : Answers or None
        Of the network before and after; None for a run that only observes a shard.
    thresholds : dict
        Quantizer -> threshold in real units; empty without a calibration.
    history : list of int
        Top-1 counts after each pass over the calibration images, where these were evaluated; the last is the result's.
    trust : Trust or None
        How far the thresholds can be trusted.
    comparison : Comparison or None
    corrections : dict
        Layer -> what was added to its bias, (channels,).
    learned : list of Learned
        What became of each layer whose rounding was learned.
    sensitivities : Sensitivities or None
        What quantizing each layer costs, where that was asked for.
    nearness : Nearness or None
        How far a back end of integers is from the network as it was converted.
    """

    net: Block
    plan: Plan
    preprocessing: Preprocessing
    float: Optional[Answers] = None
    quantized: Optional[Answers] = None
    thresholds: Thresholds = field(default_factory=dict)
    history: List[int] = field(default_factory=list)
    trust: Optional[Trust] = None
    comparison: Optional[Comparison] = None
    corrections: Dict[str, np.ndarray] = field(default_factory=dict)
    learned: List[Learned] = field(default_factory=list)
    sensitivities: Optional[Sensitivities] = None
    known: Optional[Known] = None
    nearness: Optional[Nearness] = None


def simulate(request: SimulateRequest, progress: Silent = SILENT) -> SimulateResult:
    """The network's answers in float and quantized, and what led to them.

    Parameters
    ----------
    progress : Silent
        Is told each step when it is done: Task, Plan, what `runs.calibration` tells, Quantized.

    Raises
    ------
    QuantizeError
        For networks, images, rules and files that cannot be had or do not fit.
    """
    files = request.calibration.files if request.calibration else CalibrationFiles()
    for path in (files.save_table, files.save_state):
        outputs.check_file(path)
    task = open_task(request, wants_ranges=request.backend != FLOATS)
    progress.tell(task)
    task.net.hybridize(static_alloc=True, static_shape=True)
    if task.model.converted:
        return _as_it_is(request, task, progress)
    before = None if files.shard else evaluation(request, task, "float", progress)
    repair(request, task, progress)
    net = convert(request.quantization, task)
    progress.tell(net.plan)
    calibration = Calibration(request, task, before, progress)
    calibration.calibrate()
    if files.shard:
        return SimulateResult(net, net.plan, task.preprocessing)
    costs = None
    if request.sensitivity is not None:
        costs = measure(request, request.sensitivity, task, calibration.decided, progress)
        progress.tell(costs)
    progress.tell(calibration.switch_to_quantized())
    after, nearness = _evaluated(calibration, request, progress)
    outcome = calibration.outcome
    return SimulateResult(net, net.plan, task.preprocessing, before, after, outcome.thresholds if outcome else {},
                          calibration.history + [after.top1_count], calibration.trust(), calibration.comparison,
                          calibration.corrections, calibration.learned, costs, known_of(request, task), nearness)


def _evaluated(calibration: Calibration, request: SimulateRequest,
               progress: Silent) -> Tuple[Answers, Optional[Nearness]]:
    """Answers of the quantized network, in the back end that was asked for."""
    if request.backend == FLOATS:
        return calibration.evaluated(), None
    answers, nearness = evaluated(calibration, request.backend)
    progress.tell(nearness)
    return answers, nearness


def _as_it_is(request: SimulateRequest, task: Task, progress: Silent) -> SimulateResult:
    """The answers of a checkpoint that is quantized already."""
    refuse_formats(request)
    if request.sensitivity is not None:
        raise ConfigError(f"{request.network.checkpoint}: is quantized already; --sensitivity asks what layers lose at "
                          "other bits: name the float network")
    leave_float(task.net, request.quantization.rules)
    net = task.net
    progress.tell(net.plan)
    progress.tell(Quantized(net, outcome_of(net)))
    before, after = answers(request, task, progress)
    nearness = None
    if request.backend != FLOATS:
        calibration = Calibration(request, task, before, progress)
        calibration.outcome = outcome_of(net)
        after, nearness = _evaluated(calibration, request, progress)
    return SimulateResult(net, net.plan, task.preprocessing, before, after, thresholds(net), [after.top1_count],
                          known=known_of(request, task), nearness=nearness)


def known_of(request: SimulateRequest, task: Task) -> Known:
    """What a checkpoint of the network says beside it."""
    return Known(task.model, task.preprocessing, task.dataset, step_of("simulate", request),
                 task.images.class_names)
