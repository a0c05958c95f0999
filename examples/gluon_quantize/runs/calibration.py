# SPDX-License-Identifier: MIT
"""Calibration in the examples: observe the images or merge states, decide, judge, and read and write the files."""

import hashlib
from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from calib.apply import apply_table, table_of
from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, collect, factories_for
from calib.easyquant import easyquant
from calib.observers import EMAObserver
from calib.stability import (
    ChannelActivity,
    Movement,
    movements,
    never_active,
    silent_channels,
    stability_text,
    zero_channels,
)
from calib.state import CalibrationState, merge_states, read_state
from calib.table import data_fingerprint, read_table, write_table
from quantize.errors import CalibrationError
from quantize.modes import quantized_layers, quantizers, thresholds

EASYQUANT = "easyquant"
EASYQUANT_START = "kl"
Observers = Dict[str, Dict[str, object]]


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


def full_name(mode: str) -> str:
    """The method that a --calib-mode stands for; `kl` is ncnn's."""
    return mode if mode == EASYQUANT else CALIBRATORS.get(mode).name


def method_names() -> List[str]:
    """Every method once, by its full name."""
    return sorted({full_name(mode) for mode in CALIBRATORS.names()}) + [EASYQUANT]


def calibrator_of(method):
    """The calibrator of a method; for easyquant the one it starts from."""
    return CALIBRATORS.get(EASYQUANT_START if method == EASYQUANT else method)()


def methods_needed(args) -> List[str]:
    """What the observers must serve."""
    return method_names() if args.compare_calibrators else [full_name(args.calib_mode)]


def passes(args, task):
    """After each pass over the calibration images yields (number of the pass, whether it is the last, Outcome so far).

    More than one pass changes the moving average of `naive` alone, so the exact methods take one.
    """
    methods = methods_needed(args)
    factories = factories_for([calibrator_of(method) for method in methods], args.calib_values or None)
    count = args.calib_epoch if set(factories) == {EMAObserver.name} else 1
    factories = dict(factories, **{ChannelActivity.name: ChannelActivity})
    parts, observers = _first_pass(args, task, factories, count)
    for number in range(1, count + 1):
        if number > 1:
            bar = _bar(task.calibration, number, count)
            observers = collect(task.model.net, bar, factories, observers, task.ctx)
        yield number, number == count, _outcome(args, task, observers, parts)


def _bar(part, number, count, half=""):
    return tqdm(part, desc=f"calibration {number}/{count}{half}", unit="batch", disable=None)


def _first_pass(args, task, factories, count):
    """(what was seen on each half, what was seen on everything)."""
    net, indices = task.model.net, task.calibration.indices
    middle = -(-len(indices) // 2)
    if EMAObserver.name in factories:  # a moving average depends on the batches, so none is cut
        middle = -(-middle // args.batch_size) * args.batch_size
    halves = [part for part in (indices[:middle], indices[middle:]) if len(part)]
    streams = [_bar(task.calibration.of(part), 1, count, f" half {number}")
               for number, part in enumerate(halves, 1)]
    first = collect(net, streams[0], factories, ctx=task.ctx)
    if len(streams) == 1:
        return [first], first
    # a moving average goes on from its state after the first half; what is exact starts anew and is merged
    second = _mapped(first, lambda name, o: _copy(o) if name == EMAObserver.name else factories[name]())
    collect(net, streams[1], factories, second, task.ctx)
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


def _mapped(observers, function):
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


def _outcome(args, task, observers, parts):
    outcome = Outcome(full_name(args.calib_mode), {}, observers, len(task.calibration.indices),
                      fingerprint(task.calibration), parts)
    return decided(args, task, outcome, outcome.method)


def decided(args, task, outcome: Outcome, method: str) -> Outcome:
    """The outcome with another method's thresholds, which the network then holds."""
    net, calibrator = task.model.net, calibrator_of(method)
    calibrate(net, outcome.observers, calibrator)
    if method == EASYQUANT:
        easyquant(net, task.calibration, ctx=task.ctx,
                  progress=lambda items: tqdm(items, desc="easyquant", unit="layer", disable=None))
    specs = {path: quantizer.spec for path, quantizer in quantizers(net, "activation")}
    moved = movements(outcome.parts, outcome.observers, calibrator, specs) if len(outcome.parts) > 1 else []
    return Outcome(method, thresholds(net), outcome.observers, outcome.samples, outcome.data, outcome.parts, moved)


def fingerprint(chosen) -> str:
    """The fingerprint of the images of some Batches: by file name or number, and label."""
    return data_fingerprint(chosen.identity(index) for index in chosen.indices)


# --- states -------------------------------------------------------------------------------------------------------

def state_of(args, task, outcome: Outcome) -> CalibrationState:
    """The state to write."""
    shard, shards = args.calib_shard or (1, 1)
    return CalibrationState(outcome.observers, network_digest(task.model.net), settings_of(args, task), outcome.samples,
                            outcome.data, shards, (shard - 1,))


def settings_of(args, task) -> Dict[str, object]:
    """What must be the same for all shards."""
    settings = {"dataset": task.dataset, "preprocessing": task.preprocessing.to_dict(),
                "calibration set": task.calibration_set, "observers": sorted(
                    {calibrator_of(method).observer for method in methods_needed(args)}),
                "values per image": args.calib_values or "all"}
    if EMAObserver.name in settings["observers"]:
        settings.update({"batch size": args.batch_size, "passes": args.calib_epoch})
    return settings


def network_digest(net) -> str:
    """Identifies a converted network: its layers, formats and weights."""
    digest = hashlib.sha256()
    for path, quantizer in quantizers(net):
        digest.update(f"{path} {quantizer.spec}\n".encode())
    statistics = {parameter for _, quantizer in quantizers(net) for parameter in quantizer.params}
    for name, parameter in sorted(net._collect_params_with_prefix().items()):
        if parameter.name not in statistics:
            digest.update(name.encode() + parameter.data().asnumpy().tobytes())
    return digest.hexdigest()[:32]


def merged(args, task) -> Tuple[CalibrationState, Outcome]:
    """What the states of --merge-states have seen, all together."""
    states = [(path, read_state(path)) for path in args.merge_states]
    digest = network_digest(task.model.net)
    for path, state in states:
        if state.network != digest:
            raise CalibrationError(f"{path}: the state is of another network, or made with other weights, rules or "
                                   "options "
                                   "such as --merge-bn")
    state = merge_states(states)
    if not state.complete:
        raise CalibrationError("--merge-states: of {} shards these are missing: {}".format(
            state.shards, ", ".join(str(shard + 1) for shard in state.missing)))
    needed = {calibrator_of(method).observer for method in methods_needed(args)}
    have = set(next(iter(state.observers.values()), {}))
    if not needed <= have:
        raise CalibrationError("--calib-mode {}: needs the observer {}, the states hold {}; write the states with this "
                               "--calib-mode".format(args.calib_mode, ", ".join(sorted(needed - have)),
                                                     ", ".join(sorted(have))))
    parts = [part.observers for _, part in states]
    outcome = Outcome(full_name(args.calib_mode), {}, state.observers, state.samples, state.data, parts)
    return state, decided(args, task, outcome, outcome.method)


# --- tables -------------------------------------------------------------------------------------------------------

def save_table(path, net, outcome: Outcome):
    """Write the table of a calibrated network."""
    write_table(path, table_of(net, outcome.method, (outcome.samples, outcome.data)))


def load_table(path, net) -> Outcome:
    """Ranges and modes from a table."""
    table = read_table(path)
    try:
        apply_table(net, table)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    methods = list(dict.fromkeys(row.method for row in table.rows))
    return Outcome("table {} ({})".format(path, ", ".join(methods)), thresholds(net),
                   samples=max((row.samples for row in table.rows), default=0))


# --- judgement ----------------------------------------------------------------------------------------------------

def judgement_text(net, outcome: Outcome) -> str:
    """How far the thresholds can be trusted: their stability, and what never was active."""
    lines = []
    if len(outcome.parts) > 1:
        lines.append(stability_text(outcome.moved, parts="halves" if len(outcome.parts) == 2 else "shards"))
    lines += [f"warning: {path}: 0 for all calibration images; its range is arbitrary"
              for path in never_active(outcome.observers)]
    lines += [f"note: {path}: {count} channels are 0 for all calibration images"
              for path, count in silent_channels(outcome.observers).items()]
    lines += [f"warning: {path}: all weights of {count} output channels are 0"
              for path, count in dead_weights(net).items()]
    return "\n".join(lines)


def dead_weights(net) -> Dict[str, int]:
    """Layer -> output channels without a weight other than 0."""
    layers = {path: layer for path, layer in quantized_layers(net) if hasattr(layer, "channel_axis")}
    return zero_channels({path: layer.weight.data().asnumpy() for path, layer in layers.items()},
                         {path: layer.channel_axis for path, layer in layers.items()})


def judgement(net, outcome: Outcome) -> Dict[str, object]:
    """The same for result.json."""
    return {"method": outcome.method, "samples": outcome.samples, "data": outcome.data,
            "movement": {item.path: round(item.share, 6) for item in outcome.moved},
            "never_active_inputs": never_active(outcome.observers),
            "never_active_channels": silent_channels(outcome.observers), "dead_channels": dead_weights(net)}


def mean_ratio(thresholds, largest) -> float:
    """Mean over the layers of threshold / largest magnitude."""
    return float(np.mean([thresholds[path] / largest[path] for path in largest])) if largest else 1.0
