# SPDX-License-Identifier: MIT
"""Runs that start from a quantized checkpoint: the network computes as it was left, and nothing is decided again."""

import contextlib
import dataclasses
import logging
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mxnet.gluon import Block

from deploy.target import Target
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.progress import Silent
from gluon_quantize.runs.observation import Outcome
from gluon_quantize.runs.requests import PostTrainingRequest
from gluon_quantize.runs.task import Task, evaluation
from gluon_quantize.training.loop import fixed_ranges
from quantize.config import Rule
from quantize.convert.targets import check_plan
from quantize.errors import CalibrationError, ConfigError, DeployError
from quantize.modes import (
    clear_cached_graphs,
    fix_params,
    float_parameters,
    mode,
    quantized_layers,
    quantizers,
    thresholds,
    unfix_params,
)
from quantize.modes import update_ema as store_averages
from quantize.nn import QPlace
from quantize.spec import QuantSpec

logger = logging.getLogger(__name__)

# what a request says of these decides nothing that a checkpoint has not decided
FREE = {"quantization": ("target", "merge_bn", "exclude_first", "rules"), "calibration": ("folder",), "repair": ()}


def refuse_formats(request: PostTrainingRequest) -> None:
    """ConfigError where a request asks for formats, ranges or repairs: the checkpoint has its own."""
    usual = {field.name: field.default for field in dataclasses.fields(request)}
    for part, free in FREE.items():
        given, plain = getattr(request, part), usual[part]
        if given == plain:
            continue
        changed: Optional[str] = "calibration"
        if plain is not None and given is not None:
            changed = next((field.name for field in dataclasses.fields(given) if field.name not in free
                            and getattr(given, field.name) != getattr(plain, field.name)), None)
        if changed is not None:
            name = request.network.checkpoint or request.network.onnx
            raise ConfigError(f"{name}: is quantized already, with formats and ranges of its own: leave out what "
                              f"asks for another {changed.replace('_', ' ')} (train can convert it anew)")
    if not all(is_exclusion(rule) for rule in request.quantization.rules):
        raise ConfigError(f"{request.network.checkpoint}: is quantized already: rules can leave layers of it float, "
                          "and do nothing else")


def is_exclusion(rule: Rule) -> bool:
    """Whether a rule names layers, and does nothing with them but leave them float."""
    return rule == Rule(op_names=rule.op_names, exclude=True, reason=rule.reason)


@contextlib.contextmanager
def as_float(net: Block) -> Iterator[None]:
    """Context in which a network computes in float, on its float weights; its modes come back afterwards."""
    with float_parameters(net), mode(net, "float"):
        yield


@contextlib.contextmanager
def some_float(net: Block, chosen: Sequence[Any]) -> Iterator[None]:
    """Context in which some of a network's quantizers are switched off; weights that were fixed are float ones."""
    fixed = any(layer.weight_quantizer is not None and layer.weight_quantizer.frozen
                for _, layer in quantized_layers(net))
    before = [quantizer.mode for quantizer in chosen]
    unfix_params(net)
    try:
        for quantizer in chosen:
            quantizer.mode = "float"
        clear_cached_graphs(net)
        yield
    finally:
        for quantizer, name in zip(chosen, before):
            quantizer.mode = name
        if fixed:
            fix_params(net)
        clear_cached_graphs(net)


def answers(request: PostTrainingRequest, task: Task, progress: Silent) -> Tuple[Answers, Answers]:
    """What a quantized checkpoint says: in float, and as it is."""
    with as_float(task.net):
        before = evaluation(request, task, "float", progress)
    with fixed_ranges(task.net):
        return before, evaluation(request, task, "quantized", progress)


def outcome_of(net: Block) -> Outcome:
    """The ranges that a network has, as those of a calibration."""
    return Outcome("checkpoint", thresholds(net))


def settle(net: Block) -> None:
    """Moving averages become ranges for good; CalibrationError for inputs that have none."""
    moving = [quantizer for _, quantizer in quantizers(net, "activation") if quantizer.mode == "ema"]
    if moving:
        store_averages(net)
    for quantizer in moving:
        quantizer.mode = "offline"
    clear_cached_graphs(net)
    free = [path for path, quantizer in quantizers(net, "activation") if quantizer.mode in ("online", "observe")]
    if free:
        raise CalibrationError(f"{len(free)} inputs have each batch's own range (first: {free[0]}), which no engine's "
                               "files can hold; train with other --ranges, or calibrate")


def units(net: Block) -> List[Tuple[str, ...]]:
    """Paths of the layers that can be left float, each with those that read the same tensor by the same quantizer."""
    found: Dict[int, List[str]] = {}
    for path, layer in quantized_layers(net):
        if layer.has_weight:
            found.setdefault(id(layer.input_quantizer or layer), []).append(path)
    return [tuple(paths) for paths in found.values()]


def leave_float(net: Block, rules: Sequence[Rule]) -> None:
    """Switch the layers that rules name, and those that share an input with them, to float; the Plan says so."""
    reasons = {path: rule.reason for rule in rules for path in rule.op_names}
    together = [(unit, next((reasons[path] for path in unit if path in reasons), None)) for unit in units(net)]
    paths = {path: reason for unit, reason in together if reason is not None for path in unit}
    if not paths:
        return
    layers = dict(quantized_layers(net))
    fixed = any(layer.weight_quantizer is not None and layer.weight_quantizer.frozen for layer in layers.values())
    unfix_params(net)
    for path, reason in paths.items():
        for _, quantizer in layers[path].quantizers():
            quantizer.mode = "float"
        net.plan = net.plan.left_float({path}, reason)
    if fixed:
        fix_params(net)
    clear_cached_graphs(net)


def chosen_target(task: Task, target: Target) -> Target:
    """The target with the options that the checkpoint was made for, where it was made for this one."""
    own: Any = getattr(task.net, "target", None)
    usual = all(not getattr(target, option.name) for option in target.options)
    return own if own is not None and own.name == target.name and usual else target


def adopt(net: Any, target: Target) -> None:
    """Formats that differ from the engine's in exact halves, or in one code at the lower end, become the engine's.

    Places between layers are rounded only where the engine rounds there.
    """
    changed = set()
    for _, quantizer in quantizers(net):
        spec = _adopted(quantizer.spec, target)
        if spec != quantizer.spec:
            changed.add(f"{quantizer.spec} as {spec}")
            quantizer.spec = spec
    if changed:
        logger.warning("for target %r formats are taken that differ in exact halves or in the lowest code: %s",
                       target.name, ", ".join(sorted(changed)))
    for _, layer in quantized_layers(net):
        if isinstance(layer, QPlace) and layer.output_quantizer is not None and not target.rounds_between:
            layer.output_quantizer.mode = "float"
    layers = dict(quantized_layers(net))
    net.plan = dataclasses.replace(net.plan, entries=tuple(
        entry if entry.path not in layers else dataclasses.replace(entry, **_formats(layers[entry.path]))
        for entry in net.plan.entries))
    clear_cached_graphs(net)


def _adopted(spec: QuantSpec, target: Target) -> QuantSpec:
    if spec.grid != "mid_tread":
        return spec
    spec = spec.with_(rounding=target.arithmetic.rounding)
    low, high = target.arithmetic.codes or (spec.qmin, spec.qmax)
    return spec.with_(narrow=True) if spec.symmetric and (spec.qmin, spec.qmax) == (low - 1, high) else spec


def _formats(layer: Any) -> Dict[str, Any]:
    """What a plan's entry says of a layer's operands: weight, input, output."""
    return {name.split("_")[0]: None if quantizer.mode == "float" and isinstance(layer, QPlace) else quantizer.spec
            for name, quantizer in layer.quantizers()}


def check_target(task: Task, target: Target) -> None:
    """DeployError that names every layer whose format the engine cannot hold, and what to retrain with."""
    offered: Any = target
    try:
        check_plan(offered, task.net, task.net.plan)
    except ConfigError as error:
        raise DeployError(f"{error}. Simulate or retrain for this engine, which takes only what it can hold: "
                          f"gluon-quantize simulate ... --target {target.name}, or gluon-quantize train CHECKPOINT "
                          f"--target {target.name}") from None
