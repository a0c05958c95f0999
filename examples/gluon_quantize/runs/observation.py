# SPDX-License-Identifier: MIT
"""What calibration images show: passes over them, and states of several processes merged."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from mxnet.gluon import Block

from calib.collect import calibrate, collect, factories_for
from calib.easyquant import easyquant
from calib.observers import EMAObserver
from calib.stability import ChannelActivity, Movement, movements
from calib.state import CalibrationState, merge_states, read_state
from calib.table import data_fingerprint
from gluon_quantize.data.batches import Batches
from gluon_quantize.progress import Silent
from gluon_quantize.runs.methods import Method, compared_methods, named_method
from gluon_quantize.runs.requests import PostTrainingRequest
from gluon_quantize.runs.task import Task
from quantize.errors import CalibrationError
from quantize.modes import quantizers, thresholds

Observers = Dict[str, Dict[str, Any]]


@dataclass
class Outcome:
    """What a calibration has come to.

    Attributes
    ----------
    method : str
        The full name: `kl-ncnn` for `kl`.
    thresholds : dict
        Path of the quantizer -> threshold in real units.
    samples, data
        Images seen, and their fingerprint.
    parts : list of observers
        What was seen on each half, or by each shard.
    """

    method: str
    thresholds: Dict[str, float]
    observers: Observers = field(default_factory=dict)
    samples: int = 0
    data: str = "-"
    parts: Sequence[Observers] = ()
    moved: List[Movement] = field(default_factory=list)


class Observation:
    """Observes with what a request asks for; the network then holds the ranges of the method that decided last.

    Parameters
    ----------
    request : PostTrainingRequest
        With a calibration.
    task : Task
        With a converted network.
    """

    def __init__(self, request: PostTrainingRequest, task: Task, progress: Silent):
        self.request, self.task, self.progress = request, task, progress
        assert request.calibration is not None  # nothing is observed without
        self.asked = request.calibration
        self.method = named_method(self.asked.method)
        self.methods = compared_methods(self.method) if self.asked.compare else [self.method]
        self.recorded = self._recorded()

    def _recorded(self) -> List[Method]:
        """The methods that can decide from what is observed: for a state all that see exact counts.

        A moving average depends on the batches, so a state has it where it is asked for, and then nothing else.
        """
        if not (self.asked.files.save_state or self.asked.files.merge_states) or self.asked.compare:
            return self.methods
        exact = [method for method in compared_methods(self.method) if method.calibrator.observer != EMAObserver.name]
        return [self.method] if self.method.calibrator.observer == EMAObserver.name else exact

    @property
    def _images(self) -> Batches:
        assert self.task.calibration is not None  # a table or states, which come without, are not observed
        return self.task.calibration

    def passes(self) -> Iterator[Tuple[int, bool, Outcome]]:
        """After each pass over the images yields (its number, whether it is the last, Outcome so far).

        More than one pass changes the moving average of `naive` alone, so the exact methods take one.
        """
        factories = factories_for([method.calibrator for method in self.recorded], self.asked.values or None)
        count = self.asked.passes if set(factories) == {EMAObserver.name} else 1
        factories = dict(factories, **{ChannelActivity.name: ChannelActivity})
        parts, observers = self._first_pass(factories, count)
        chosen = self._images
        for number in range(1, count + 1):
            if number > 1:
                bar = self._bar(chosen, number, count)
                observers = collect(self.task.net, bar, factories, observers, self.task.ctx)
            seen = Outcome(self.method.name, {}, observers, len(chosen.indices), fingerprint(chosen), parts)
            yield number, number == count, self.decided(seen, self.method)

    def decided(self, outcome: Outcome, method: Method) -> Outcome:
        """The outcome with another method's thresholds, which the network then holds."""
        net = self.task.net
        calibrate(net, outcome.observers, method.calibrator, keep_stated=True)
        if method.searches:
            easyquant(net, self._images, ctx=self.task.ctx,
                      progress=lambda items: self.progress.bar(items, "easyquant", "layer"))
        specs = {path: quantizer.spec for path, quantizer in quantizers(net, "activation")}
        moved = movements(outcome.parts, outcome.observers, method.calibrator, specs) if len(outcome.parts) > 1 else []
        return replace(outcome, method=method.name, thresholds=thresholds(net), moved=moved)

    def merged(self) -> Tuple[CalibrationState, Outcome]:
        """What the states of all shards have seen, all together."""
        states = [(path, read_state(path)) for path in self.asked.files.merge_states]
        digest = network_digest(self.task.net)
        for path, state in states:
            if state.network != digest:
                raise CalibrationError(f"{path}: the state is of another network, or made with other weights, rules or "
                                       "options such as --merge-bn")
        state = merge_states(states)
        if not state.complete:
            raise CalibrationError(f"--merge-states: of {state.shards} shards these are missing: "
                                   f"{', '.join(str(shard + 1) for shard in state.missing)}")
        have = set(next(iter(state.observers.values()), {}))
        lacking = self._observer_names(self.methods) - have
        if lacking:
            raise CalibrationError(f"--calib-mode {self.asked.method}: needs the observer {', '.join(sorted(lacking))}"
                                   f", the states hold {', '.join(sorted(have))}; write the states with this "
                                   "--calib-mode")
        self._check_parameters(state)
        parts = [part.observers for _, part in states]
        outcome = Outcome(self.method.name, {}, state.observers, state.samples, state.data, parts)
        return state, self.decided(outcome, self.method)

    def state(self, outcome: Outcome) -> CalibrationState:
        """The state to write."""
        shard, shards = self.asked.files.shard or (1, 1)
        return CalibrationState(outcome.observers, network_digest(self.task.net), self._settings(), outcome.samples,
                                outcome.data, shards, (shard - 1,))

    def _settings(self) -> Dict[str, object]:
        """What must be the same for all shards."""
        settings: Dict[str, Any] = {"dataset": self.task.dataset, "preprocessing": self.task.preprocessing.to_dict(),
                    "calibration set": self.task.calibration_set, "observers": sorted(self._observer_names()),
                    "values per image": self.asked.values or "all"}
        if EMAObserver.name in settings["observers"]:
            settings.update({"batch size": self.request.images.batch_size, "passes": self.asked.passes})
            # states of the usual parameters stay what they were before there were others
            if self.method.calibrator.observer == EMAObserver.name and self.method.name != self.method.calibrator.name:
                settings["method"] = self.method.name
        return settings

    def _check_parameters(self, state):
        """A moving average is made while observing: one of other parameters cannot be decided from it."""
        made, wanted = state.settings.get("method"), self._settings().get("method")
        if EMAObserver.name in self._observer_names(self.methods) and made != wanted:
            raise CalibrationError(f"--calib-mode {self.asked.method}: the states were made with the parameters of "
                                   f"{made or 'the plain method'}; write the states with this --calib-mode")

    def _observer_names(self, methods=None):
        return {method.calibrator.observer for method in methods or self.recorded}

    def _bar(self, part, number, count, half=""):
        return self.progress.bar(part, f"calibration {number}/{count}{half}")

    def _first_pass(self, factories, count):
        """(what was seen on each half, what was seen on everything)."""
        net, ctx, indices = self.task.net, self.task.ctx, self._images.indices
        middle = -(-len(indices) // 2)
        if EMAObserver.name in factories:  # a moving average depends on the batches, so none is cut
            size = self.request.images.batch_size
            middle = -(-middle // size) * size
        halves = [part for part in (indices[:middle], indices[middle:]) if len(part)]
        streams = [self._bar(self._images.of(part), 1, count, f" half {number}")
                   for number, part in enumerate(halves, 1)]
        first = collect(net, streams[0], factories, ctx=ctx)
        if len(streams) == 1:
            return [first], first
        # a moving average goes on from its state after the first half; what is exact starts anew and is merged
        second = _mapped(first, lambda name, o: _copy(o) if name == EMAObserver.name else factories[name]())
        collect(net, streams[1], factories, second, ctx)
        partner = {id(observer): second[path][name]
                   for path, of_path in first.items() for name, observer in of_path.items()}
        return [first, second], _mapped(first, lambda name, o: _joined(name, o, partner[id(o)]))


def _joined(name, first, second):
    """What was seen on both halves; the halves stay as they are."""
    if name == EMAObserver.name:
        return second
    whole = _copy(first)
    whole.merge(second)
    return whole


def _mapped(observers: Observers, function: Callable) -> Observers:
    """The observers with each replaced by what a function makes of it, once for those that layers share."""
    memo = {}

    def of(name, observer):
        if id(observer) not in memo:
            memo[id(observer)] = function(name, observer)
        return memo[id(observer)]
    return {path: {name: of(name, observer) for name, observer in of_path.items()}
            for path, of_path in observers.items()}


def _copy(observer):
    return type(observer).from_state(observer.state())


def fingerprint(chosen: Batches) -> str:
    """The fingerprint of the images of some Batches: by file name or number, and label."""
    return data_fingerprint(chosen.identity(index) for index in chosen.indices)


def network_digest(net: Block) -> str:
    """Identifies a converted network: its layers, formats and weights."""
    digest = hashlib.sha256()
    for path, quantizer in quantizers(net):
        digest.update(f"{path} {quantizer.spec}\n".encode())
    statistics = {parameter for _, quantizer in quantizers(net) for parameter in quantizer.params}
    for name, parameter in sorted(net._collect_params_with_prefix().items()):
        if parameter.name not in statistics:
            digest.update(name.encode() + parameter.data().asnumpy().tobytes())
    return digest.hexdigest()[:32]
