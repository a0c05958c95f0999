# SPDX-License-Identifier: MIT
"""Deploy a network: quantize it for an engine, write the engine's files, and prove that they compute the same.

>>> from gluon_quantize.runs.deploy import DeployRequest, ImagesRequest, NetworkRequest, deploy
>>> result = deploy(DeployRequest(NetworkRequest(model="digits_lenet"), ImagesRequest(count=50), output=folder))
>>> result.accuracy["ncnn int8"].top1, result.certificate["sides"]["ncnn exact"]["codes"]["share"]
(1.0, 1.0)
"""

import json
import pathlib
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
from mxnet.gluon import Block

from deploy.proof.certificate import write_certificate
from deploy.target import Problem, Target, find, raise_problems
from gluon_quantize.data.batches import Batches, requested, verification_batches
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.models.checkpoint import Known, step_of
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs import checkpoint, proof
from gluon_quantize.runs.calibration import Calibration, Trust
from gluon_quantize.runs.deployment import Deployment, check_form, deployment, lowered, write_files, write_table
from gluon_quantize.runs.goal import Reached, reach
from gluon_quantize.runs.outputs import PLAN, reserved, staged
from gluon_quantize.runs.repair import repair
from gluon_quantize.runs.requests import (
    CalibrationFiles,
    CalibrationRequest,
    GoalRequest,
    ImagesRequest,
    NetworkRequest,
    PostTrainingRequest,
    QuantizationRequest,
    RepairRequest,
    RunRequest,
)
from gluon_quantize.runs.task import Task, convert, evaluation, open_task
from quantize.convert.rules import Plan
from quantize.errors import ConfigError, DeployError
from quantize.files import write_whole

__all__ = ["CalibrationFiles", "CalibrationRequest", "DeployRequest", "DeployResult", "GoalRequest", "ImagesRequest",
           "NetworkRequest", "QuantizationRequest", "RepairRequest", "RunRequest", "deploy"]


@dataclass(frozen=True)
class DeployRequest(PostTrainingRequest):
    """What to deploy, for which engine (`quantization.target`), and where to.

    Parameters
    ----------
    output : str or path
        Folder of the results, which appears whole or not at all.
    force : bool
        Replace the folder if it is there and holds nothing but an earlier deployment.
    bgr : bool
        The engine will be given BGR images: the first layer's weights are reordered.
    use_engine : bool
        False: write the files without running them.
    verify_images : int
        Compare every blob on so many images, 0: on all that are evaluated.
    latency_runs : int
        Timed runs of the float and the int8 files.
    wanted : tuple of str
        Flags of what else the target offers: `deploy.target.Extra` and `deploy.target.Report`.
    goal : GoalRequest, optional
        Try methods until the network keeps it; the best that was found is deployed, whether it does or not.
    """

    quantization: QuantizationRequest = QuantizationRequest(target="ncnn", merge_bn=True, exclude_first=False)
    calibration: CalibrationRequest = CalibrationRequest()
    output: str = "deployed"
    force: bool = False
    bgr: bool = False
    use_engine: bool = True
    verify_images: int = 50
    latency_runs: int = 20
    wanted: Tuple[str, ...] = ()
    goal: Optional[GoalRequest] = None

    def __post_init__(self) -> None:
        if not self.quantization.target or self.calibration is None:
            raise ConfigError("a deployment needs a target and a calibration")
        super().__post_init__()


@dataclass(frozen=True)
class DeployResult:
    """What a deployment has come to.

    Attributes
    ----------
    net : Block
        The network, quantized.
    plan : Plan
    preprocessing : Preprocessing
        Of the Gluon network.
    float : Answers
        Of the network before.
    accuracy : dict
        "simulated" and the engine's name -> Predictions.
    certificate : dict or None
        See `deploy.proof.certificate`; None where a target has neither an engine nor an exact simulation.
    sizes : dict
        Bytes of the weights: float, int8, ratio.
    latency : dict or None
        Milliseconds of one image: float, int8, ratio, runs, threads; None without the engine.
    trust : Trust
        How far the ranges can be trusted.
    reached : Reached or None
        What was tried for a goal.
    """

    net: Block
    plan: Plan
    preprocessing: Preprocessing
    float: Answers
    accuracy: Dict[str, Answers]
    certificate: Optional[Dict[str, Any]]
    sizes: Dict[str, Any]
    latency: Optional[Dict[str, Any]]
    trust: Trust
    reached: Optional[Reached] = None


# ---- what a deployment tells, beside what a calibration tells


@dataclass(frozen=True)
class Warned:
    """The target's owner should know this about the network."""

    problem: Problem


@dataclass(frozen=True)
class Verified:
    """Every blob is compared: the contents of the certificate (None: nothing could be), and the engine's name."""

    certificate: Optional[Dict[str, Any]]
    engine: str


@dataclass(frozen=True)
class Reported:
    """What the target was asked about the network, in its own words."""

    text: str


def deploy(request: DeployRequest, progress: Silent = SILENT,
           also_write: Optional[Callable[[pathlib.Path, DeployResult], None]] = None) -> DeployResult:
    """The files of the network in `request.output`, their proof, and what they are worth.

    Parameters
    ----------
    progress : Silent
        Is told each step when it is done: Task, Plan, what `runs.calibration` tells, Warned, Verified, Reported.
    also_write : function, optional
        Called with the folder, before it appears, and the result: writes files of the caller's own into it.

    Raises
    ------
    QuantizeError
        For what cannot be had, read, quantized, held by the engine or written.
    """
    with reserved(request.output, request.force):
        return _deployed(request, progress, also_write)


def _deployed(request, progress, also_write):
    target = request.quantization.target
    target = find(target) if isinstance(target, str) else target
    _require_engine(request, target)
    reached, task = None, open_task(request, wants_ranges=target.rounds_between)
    check_form(target, task)
    if request.goal is not None:
        reached = reach(request.goal, request, target if _runs(request, target) else None, progress)
        request = reached.best.request
        task = open_task(request, wants_ranges=target.rounds_between)
    progress.tell(task)
    task.net.hybridize(static_alloc=True, static_shape=True)
    work = _from_checkpoint if task.model.converted else _from_float
    before, scores, deployed, calibration = work(request, target, task, progress)
    images = verification_batches(request.images, request.verify_images, task.images, task.preprocessing)
    with staged(request.output, request.force) as folder:
        made = _Folder(request, folder, task, deployed, images, progress)
        made.write(calibration)
        result = replace(made.result(before, scores, calibration.trust()), reached=reached)
        if also_write is not None:
            also_write(folder, result)
    return result


def _check_asked(request, target: Target, task: Task) -> None:
    """Refuse before calibration what an option, or an extra that is asked for, could not hold."""
    asked = [option.flag for option in target.options if option.words and getattr(target, option.name)]
    checks = [(extra.check, extra.flag) for extra in target.extras()
              if extra.check is not None and extra.flag in request.wanted]
    if not asked and not checks:
        return
    model = lowered(target, task, integers=False)
    raise_problems(target.check_options(model), f"{target.name} with {' '.join(asked)}")
    for check, flag in checks:
        raise_problems(check(model), f"{target.name} with {flag}")


Lowered = Tuple[Answers, Optional[List[np.ndarray]], Deployment, Calibration]


def _from_float(request: DeployRequest, target: Target, task: Task, progress: Silent) -> Lowered:
    """(Float predictions, float scores, the lowered network, its calibration) of a network that is quantized here."""
    before = evaluation(request, task, "float", progress)
    repair(request, task, progress)  # the files hold the changed network, so its float answers are judged by
    scores = _float_scores(request, target, task, progress)
    net = convert(request.quantization, task)
    progress.tell(net.plan)
    _check_asked(request, target, task)
    calibration = Calibration(request, task, before, progress)
    calibration.calibrate()
    floating = lowered(target, task, integers=False)
    progress.tell(calibration.switch_to_quantized())
    return before, scores, deployment(target, calibration, floating, request.bgr), calibration


def _from_checkpoint(request: DeployRequest, target: Target, task: Task, progress: Silent) -> Lowered:
    """The same of a network that is quantized already: its ranges, steps and weights are what is written."""
    checkpoint.refuse_formats(request)
    target = checkpoint.chosen_target(task, target)
    checkpoint.adopt(task.net, target)
    checkpoint.check_target(task, target)
    checkpoint.leave_float(task.net, request.quantization.rules)
    progress.tell(task.net.plan)
    checkpoint.settle(task.net)
    with checkpoint.as_float(task.net):
        before = evaluation(request, task, "float", progress)
        scores = _float_scores(request, target, task, progress)
    floating, calibration = lowered(target, task, integers=False), Calibration(request, task, before, progress)
    calibration.outcome = checkpoint.outcome_of(task.net)
    return before, scores, deployment(target, calibration, floating, request.bgr), calibration


def _float_scores(request, target, task, progress):
    if not _runs(request, target):
        return None
    images = verification_batches(request.images, request.verify_images, task.images, task.preprocessing)
    return proof.float_scores(task.net, images, progress)


def _runs(request, target: Target) -> bool:
    return request.use_engine and target.engine is not None


def _require_engine(request, target: Target) -> None:
    """Refuse to begin without the engine."""
    try:
        if _runs(request, target) and target.engine is not None:
            target.engine.require()
    except DeployError as error:
        raise DeployError(f"{error}, or write the files without running them: --no-engine") from None


@dataclass(frozen=True)
class _Folder:
    """The folder of a deployment, while it is filled."""

    request: DeployRequest
    folder: pathlib.Path
    task: Task
    deployed: Deployment
    images: Batches
    progress: Silent

    def write(self, calibration: Calibration) -> None:
        """Everything that does not need the engine."""
        for problem in write_files(self.folder, self.deployed, self.request.wanted):
            self.progress.tell(Warned(problem))
        write_table(self.folder, self.task.net, calibration.decided, self.request.calibration.files.load_table)
        write_whole(self.folder / PLAN, str(self.task.net.plan) + "\n")
        task = self.task
        known = Known(task.model, task.preprocessing, task.dataset, step_of("deploy", self.request),
                      task.images.class_names)
        known.save_if_possible(task.net, self.folder / f"{self.deployed.name}.qnet")

    def result(self, before, scores, trust) -> DeployResult:
        """The proof and the reports, and what the network is worth."""
        task, deployed, folder, progress = self.task, self.deployed, self.folder, self.progress
        sides, export, latency = proof.simulated(task.net, deployed), None, None
        runs = _runs(self.request, deployed.target)
        if runs:
            sides.update(proof.in_engine(deployed, folder))
            export = proof.float_export(deployed, folder, self.images, scores, progress)
            latency = proof.latencies(task, deployed, folder, self.request.latency_runs, progress)
        proof.store_samples(self.images, deployed, folder)
        contents = None
        if sides:  # an engine that is not here, and no exact simulation of it: nothing can be compared
            contents = proof.compared(self.images, deployed, folder, sides, progress, export)
            write_certificate(folder, contents)
        progress.tell(Verified(contents, deployed.target.name))
        self._report()
        everything = requested(self.request.images, task.images, task.preprocessing)
        after = proof.accuracies(task, everything, deployed, folder if runs else None, progress)
        return DeployResult(task.net, task.net.plan, task.preprocessing, before, after, contents,
                            proof.sizes(deployed, folder), latency, trust)

    def _report(self):
        """What the target says about the network on the images, where it was asked for: files, and texts."""
        deployed = self.deployed
        for wanted in deployed.target.reports():
            if wanted.flag in self.request.wanted:
                bar = self.progress.bar(self.images, wanted.name)
                text, contents = wanted.make(deployed.quantized, deployed.floating,
                                             ((deployed.ordered(part.asnumpy()), labels) for part, labels in bar))
                write_whole(self.folder / wanted.file, json.dumps(contents, indent=2, sort_keys=True) + "\n")
                self.progress.tell(Reported(text))
