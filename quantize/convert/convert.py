# SPDX-License-Identifier: MIT
"""`convert_model`: a float network comes in, a fake-quantized one goes out."""

import logging
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import mxnet as mx
from mxnet.gluon import Block, HybridBlock, nn

from quantize.config import FLOAT, Rule, rules_from_config
from quantize.convert.converters import customs_of
from quantize.convert.fake_bn import fake_bn
from quantize.convert.graph import Graph, trace
from quantize.convert.layers import QUANTIZABLE
from quantize.convert.macs import counted
from quantize.convert.net import QuantizedNet, quantized_net_class
from quantize.convert.places import place_outputs
from quantize.convert.plan import Plan
from quantize.convert.replace import quantized_layer
from quantize.convert.rules import DEFAULT_RULES, excluded_blocks, exclusions, resolve
from quantize.convert.shortcuts import share_input_quantizers, skip_relus
from quantize.convert.subclasses import settle_relu6, settle_subclasses
from quantize.convert.targets import check_plan, find_target, target_rules
from quantize.errors import ConfigError, ConversionError
from quantize.finite import check_parameters, check_types
from quantize.initialize import qparams_init
from quantize.modes import clear_cached_graphs, is_converted, quantized_layers, quantizers
from quantize.onednn import guard_norms
from quantize.ops import BACKENDS, choose
from quantize.tree import replace_blocks, walk

logger = logging.getLogger(__name__)

Inputs = Union[mx.nd.NDArray, Sequence[mx.nd.NDArray]]


def convert_model(net: Block, exclude: Iterable = (), convert_fn: Optional[Dict[type, Any]] = None,
                  custom_fn: Optional[Dict[Block, Any]] = None, *, config_list: Optional[Sequence] = None,
                  target: Any = None, example_input: Optional[Inputs] = None, backend: str = "auto") -> Block:
    """The network with its convolutions and Dense layers (`quantize.convert.layers`) on fake-quantized operands.

    The network is changed in place and returned. By default weights are int8 with one scale per layer and inputs 8 bit
    with the range of each batch, unsigned where the graph proves that they cannot be negative.

    Parameters
    ----------
    net : HybridBlock
        A float network. Parameters must be initialized, or `example_input` given.
    exclude : iterable of Block or str
        Blocks (with everything in them) or path patterns that stay float.
    convert_fn : dict, optional
        Layer type -> what to do, replacing the default table: a Rule made by `gen_conv2d_converter` and its kin, None
        (leave the type alone), or a function that takes a layer and returns its replacement (None: keep it). Where
        rules fold BatchNorm, a function for ``nn.BatchNorm`` is not called: folding replaces those that it takes.
        A table of functions alone is one, too: nothing is quantized then but what they make.
    custom_fn : dict, optional
        Block of the network -> the same, for this block alone and in the place of what its type's entry says.
    config_list : sequence of dict or Rule, optional
        Further rules; later ones win (`quantize.config`).
    target : str or deploy.target.Target, optional
        The engine that the network is meant for ("ncnn"): its rules come after the defaults and before yours, and rules
        of yours that it cannot follow are refused.
    example_input : NDArray or tuple of NDArray, optional
        Completes parameters of unknown shape, and tells how many inputs the network has.
    backend : {"auto", "native", "composed"}
        The operators this network computes with; auto takes the native ones where they can be had.

    Raises
    ------
    ConversionError
        For a network that was converted before, or whose parameter shapes are unknown.
    ConfigError
        For rules that match nothing, or that the target cannot follow.
    DataError
        For parameters that hold NaN or infinity.
    """
    if isinstance(net, QuantizedNet) or is_converted(net):
        raise ConversionError(f"{net.name}: the network is converted already; start from a float network")
    if backend not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    _complete_shapes(net, example_input)
    check_types(net)
    check_parameters(net)
    target = find_target(target)
    # before rules are resolved: they name layers by type
    settle_subclasses(net, keep=tuple(convert_fn or ()))
    _guard_norms(net, example_input)
    customs = customs_of(net, convert_fn or {}, custom_fn or {}, excluded_blocks(net, exclude))
    rules = ([] if convert_fn is not None else list(DEFAULT_RULES)) + customs.rules + target_rules(target, net)
    rules = _with_outputs(net, rules + rules_from_config(config_list or []) + exclusions(net, exclude))
    graph = _trace_or_none(net, example_input)
    plan = resolve(net, rules, graph, required=not customs.any)
    if graph is not None and example_input is not None:
        plan = counted(plan, graph, net, [part.shape for part in _as_tuple(example_input)])
    check_plan(target, net, plan)
    _apply(net, plan)
    customs.apply(net, plan.folds)
    _shorten(net, plan, graph)
    # the same object, so that whatever in a script refers to the network sees the methods
    net.__class__ = quantized_net_class(type(net))
    net.plan, net.rules, net.target = plan, tuple(rules), target
    devices = {ctx.device_type for p in net.collect_params().values() if p._data is not None for ctx in p.list_ctx()}
    for _, quantizer in quantizers(net):
        quantizer.backend = choose(backend, "gpu" if "gpu" in devices else "cpu")
    # after the back end is chosen, which computes the start of trained steps
    qparams_init(net)
    _fold(net, plan)
    clear_cached_graphs(net)
    _report_slow_pooling(net)
    logger.info("%s: %d of %d layers quantized", net.name, sum(e.quantized for e in plan.entries), len(plan.entries))
    return net


def _guard_norms(net: Block, example_input: Optional[Inputs]) -> None:
    if example_input is None:
        guard_norms(net, getattr(net, "input_shape", None))
    else:
        examples = _as_tuple(example_input)
        guard_norms(net, examples[0].shape, len(examples))


def _with_outputs(net: Block, rules: List[Rule]) -> List[Rule]:
    """The rules, with what they need in the network to quantize outputs."""
    if any(rule.output not in (None, FLOAT) for rule in rules):
        rules = place_outputs(net, rules)
        settle_relu6(net)
    return rules


def _report_slow_pooling(net: Block) -> None:
    slow = sum(type(block) is nn.GlobalAvgPool2D for _, block in walk(net))
    if slow:
        logger.info("%s: GlobalAvgPool2D makes hybridized training slow; quantize.convert.mean_global_pooling(net) "
                    "replaces it by a mean", net.name)


def _complete_shapes(net: Block, example_input: Optional[Inputs]) -> None:
    unknown = [p for p in net.collect_params().values() if p.shape is None or 0 in p.shape]
    if not unknown:
        return
    if example_input is None or not isinstance(net, HybridBlock):
        raise ConversionError(f"{len(unknown)} parameters have no shape yet (first: {unknown[0].name}); run the "
                              "network once, or pass example_input")
    net.infer_shape(*_as_tuple(example_input))
    for parameter in unknown:
        if parameter._deferred_init:
            parameter._finish_deferred_init()


def _as_tuple(example_input: Inputs) -> Tuple[mx.nd.NDArray, ...]:
    return tuple(example_input) if isinstance(example_input, (list, tuple)) else (example_input,)


def _trace_or_none(net: Block, example_input: Optional[Inputs]) -> Optional[Graph]:
    try:
        return trace(net, inputs=1 if example_input is None else len(_as_tuple(example_input)))
    except ConversionError as error:
        logger.warning("%s; 'auto' inputs become signed, first layers are not found", error)
        return None


def _shorten(net: Block, plan: Plan, graph: Optional[Graph]) -> None:
    if graph is not None:
        share_input_quantizers(net, plan, graph)
        skip_relus(net, plan, graph)


def _apply(net: Block, plan: Plan) -> None:
    # a block cannot replace itself in a parent that it does not have
    if plan.entries and plan.entries[0].path == "":
        raise ConversionError(f"{net.name}: the network is a single layer; put it into a HybridSequential")
    # activations last: some of them are children of layers that are replaced first
    for last in (False, True):
        blocks = dict(walk(net))
        chosen = [(blocks[entry.path], entry) for entry in plan.entries if entry.quantized]
        replace_blocks(net, {id(block): quantized_layer(block, entry) for block, entry in chosen
                             if type(block) in QUANTIZABLE and QUANTIZABLE[type(block)].has_weight != last})


def _fold(net: Block, plan: Plan) -> None:
    if plan.folds:
        folding = {entry.path for entry in plan.entries if entry.fold_bn}
        fake_bn(net, exclude=[layer for path, layer in quantized_layers(net) if path not in folding])
