# SPDX-License-Identifier: MIT
"""The calibration of a run: ranges from a table, from states or from images; how far they can be trusted; files."""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np
from mxnet.gluon import Block

from calib.apply import apply_table, table_of
from calib.bias_correction import restore_biases
from calib.rounding.learn import Learned, restore_rounding
from calib.stability import Movement, never_active, silent_channels, zero_channels
from calib.state import write_state
from calib.table import read_table, write_table
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.progress import Silent
from gluon_quantize.runs.methods import named_method
from gluon_quantize.runs.observation import Observation, Outcome
from gluon_quantize.runs.requests import PostTrainingRequest
from gluon_quantize.runs.task import Task, correction_of, evaluation, switch_to_quantized
from quantize.errors import CalibrationError
from quantize.files import PathLike
from quantize.modes import quantized_layers, thresholds

# ---- what a calibration tells, each when it is known


@dataclass(frozen=True)
class PassEvaluated:
    """The quantized network after a pass over the calibration images."""

    number: int
    predictions: Answers


@dataclass(frozen=True)
class StateWritten:
    """A file of what was observed."""

    path: str
    samples: int
    data: str


@dataclass(frozen=True)
class TableWritten:
    """A file of ranges."""

    path: str


@dataclass(frozen=True)
class Trust:
    """How far the thresholds can be trusted: their stability, and what never was active.

    Attributes
    ----------
    moved : list of Movement
        Of each threshold between the parts.
    parts : int
        2 halves of the images, or so many shards.
    never_active : list of str
        Quantizers whose input is 0 for all images.
    silent_channels : dict
        Quantizer -> channels that are 0 for all images.
    dead_channels : dict
        Layer -> output channels all of whose weights are 0.
    """

    method: str
    samples: int
    data: str
    moved: List[Movement]
    parts: int
    never_active: List[str]
    silent_channels: Dict[str, int]
    dead_channels: Dict[str, int]


@dataclass(frozen=True)
class Compared:
    """One method of a comparison.

    Attributes
    ----------
    thresholds : dict
        Quantizer -> threshold in real units.
    ratio : float
        Mean over the quantizers of threshold / largest magnitude.
    """

    predictions: Answers
    thresholds: Dict[str, float]
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """Every method by its name, and the float network; `chosen` is the method that was asked for."""

    rows: Dict[str, Compared]
    before: Answers
    chosen: str = ""

    @property
    def ranking(self) -> List[str]:
        """Names from the worst to the best: by images with the float network's class, then by Top-1.

        Of equals the chosen one is the best, then the first in the alphabet.
        """
        def worth(name: str) -> Tuple[int, int, bool]:
            found = self.rows[name].predictions
            return found.agreement_count(self.before), found.top1_count, name == self.chosen
        return sorted(sorted(self.rows, reverse=True), key=worth)

    @property
    def best(self) -> str:
        """The method that changes fewest of the float network's answers."""
        return self.ranking[-1]


@dataclass(frozen=True)
class Quantized:
    """The network computes as it was asked to.

    Attributes
    ----------
    outcome : Outcome or None
        None: each batch's own range.
    correction : {'none', 'parallel', 'sequential'}
    corrections : dict
        Layer -> what was added to its bias, (channels,).
    rounding : str
        The method by which rounding was learned, or 'none'.
    learned : list of Learned
    """

    net: Block
    outcome: Optional[Outcome]
    correction: str = "none"
    corrections: Dict[str, np.ndarray] = field(default_factory=dict)
    rounding: str = "none"
    learned: List[Learned] = field(default_factory=list)


# ---- the work


class Calibration:
    """The calibration of one run: what is asked for is in the request, what came of it in the attributes.

    Parameters
    ----------
    request : PostTrainingRequest
        Its calibration may be None: then there are no ranges to find.
    task : Task
        With a converted network.
    before : Answers, optional
        Of the float network; a comparison wants them.

    Attributes
    ----------
    outcome : Outcome or None
    history : list of int
        Top-1 counts after earlier passes.
    comparison : Comparison or None
    corrections : dict
        Layer -> what was added to its bias.
    learned : list of Learned
        What became of each layer whose rounding was learned.
    """

    def __init__(self, request: PostTrainingRequest, task: Task, before: Optional[Answers], progress: Silent):
        self.request, self.task, self.before, self.progress = request, task, before, progress
        self.outcome: Optional[Outcome] = None
        self.history: List[int] = []
        self.comparison: Optional[Comparison] = None
        self.corrections: Dict[str, np.ndarray] = {}
        self.learned: List[Learned] = []

    @property
    def decided(self) -> Outcome:
        """The outcome, of a request that has a calibration."""
        assert self.outcome is not None
        return self.outcome

    def calibrate(self) -> None:
        """Get the ranges as they are asked for: from a table, from states, or from the images; write the files."""
        asked, net = self.request.calibration, self.task.net
        if asked is None:
            return
        files = asked.files
        if files.load_table:
            self.outcome = load_table(files.load_table, net)
            return
        observation = Observation(self.request, self.task, self.progress)
        if files.merge_states:
            state, self.outcome = observation.merged()
        else:
            self._observe(observation)
            assert self.outcome is not None  # there is one pass at least
            state = observation.state(self.outcome)
        if files.save_state:
            write_state(files.save_state, state)
            self.progress.tell(StateWritten(files.save_state, state.samples, state.data))
        if files.shard:
            return
        self.progress.tell(trust(net, self.outcome))
        if asked.compare:
            self._compare(observation)
        if files.save_table:
            save_table(files.save_table, net, self.outcome)
            self.progress.tell(TableWritten(files.save_table))

    def _observe(self, observation):
        for number, is_last, outcome in observation.passes():
            self.outcome = outcome
            if observation.asked.evaluate_passes and not is_last:
                after = self._evaluation()
                self.history.append(after.top1_count)
                self.progress.tell(PassEvaluated(number, after))

    def switch_to_quantized(self) -> Quantized:
        """From now on the network computes as it is asked to."""
        self.corrections, self.learned = switch_to_quantized(self.request, self.task, self.progress)
        return Quantized(self.task.net, self.outcome, correction_of(self.request), self.corrections,
                         self.request.repair.rounding, self.learned)

    def _evaluation(self):
        self.switch_to_quantized()
        after = evaluation(self.request, self.task, "quantized", self.progress)
        restore_rounding(self.task.net)
        restore_biases(self.task.net)
        return after

    def _compare(self, observation):
        chosen = self.outcome
        largest, rows = observation.decided(chosen, named_method("minmax")).thresholds, {}
        for method in self.progress.bar(observation.methods, "comparison", "method"):
            outcome = observation.decided(chosen, method)
            rows[method.name] = Compared(self._evaluation(), outcome.thresholds,
                                         mean_ratio(outcome.thresholds, largest))
        self.comparison = Comparison(rows, self.before, observation.method.name)
        self.progress.tell(self.comparison)
        taken = self.comparison.best if observation.asked.best else observation.method.name
        self.outcome = observation.decided(
            chosen, next(method for method in observation.methods if method.name == taken))

    def evaluated(self) -> Answers:
        """Predictions of the quantized network; a comparison has them already."""
        if self.comparison is not None and self.outcome is not None and self.outcome.method in self.comparison.rows:
            return self.comparison.rows[self.outcome.method].predictions
        return evaluation(self.request, self.task, "quantized", self.progress)

    def trust(self) -> Optional[Trust]:
        """How far the ranges can be trusted; None where there are none."""
        return None if self.outcome is None else trust(self.task.net, self.outcome)


def mean_ratio(found: Dict[str, float], largest: Dict[str, float]) -> float:
    """Mean over the layers of threshold / largest magnitude."""
    return float(np.mean([found[path] / largest[path] for path in largest])) if largest else 1.0


# ---- tables


def save_table(path: PathLike, net: Block, outcome: Outcome) -> None:
    """Write the table of a calibrated network."""
    write_table(path, table_of(net, outcome.method, (outcome.samples, outcome.data)))


def load_table(path: str, net: Block) -> Outcome:
    """Ranges and modes from a table."""
    table = read_table(path)
    try:
        apply_table(net, table)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    methods = list(dict.fromkeys(row.method for row in table.rows))
    return Outcome(f"table {path} ({', '.join(methods)})", thresholds(net),
                   samples=max((row.samples for row in table.rows), default=0))


# ---- judgement


def trust(net: Block, outcome: Outcome) -> Trust:
    """How far an outcome can be trusted."""
    return Trust(outcome.method, outcome.samples, outcome.data, outcome.moved, len(outcome.parts),
                 list(never_active(outcome.observers)), dict(silent_channels(outcome.observers)), dead_weights(net))


def dead_weights(net: Block) -> Dict[str, int]:
    """Layer -> output channels without a weight other than 0."""
    layers = {path: layer for path, layer in quantized_layers(net) if hasattr(layer, "channel_axis")}
    return zero_channels({path: layer.weight.data().asnumpy() for path, layer in layers.items()},
                         {path: layer.channel_axis for path, layer in layers.items()})
