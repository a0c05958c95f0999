# SPDX-License-Identifier: MIT
"""`convert_model`: a float network comes in, a fake-quantized one goes out."""

import logging
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import mxnet as mx
from mxnet.gluon import Block, HybridBlock, nn

from quantize.config import Format, Rule, rules_from_config
from quantize.convert.fake_bn import fake_bn
from quantize.convert.graph import Graph, trace
from quantize.convert.layers import QUANTIZABLE
from quantize.convert.macs import counted
from quantize.convert.net import QuantizedNet, quantized_net_class
from quantize.convert.plan import Plan
from quantize.convert.replace import quantized_layer
from quantize.convert.rules import DEFAULT_RULES, exclusions, resolve
from quantize.convert.shortcuts import share_input_quantizers, skip_relus
from quantize.convert.subclasses import settle_subclasses
from quantize.convert.targets import check_plan, find_target, target_rules
from quantize.errors import ConfigError, ConversionError
from quantize.finite import check_parameters, check_types
from quantize.initialize import qparams_init
from quantize.modes import clear_cached_graphs, is_converted, quantized_layers, quantizers
from quantize.ops import BACKENDS, choose
from quantize.tree import replace_blocks, walk
from quantize.winograd import NONE, parse_winograd

logger = logging.getLogger(__name__)

Inputs = Union[mx.nd.NDArray, Sequence[mx.nd.NDArray]]


def convert_model(net: Block, exclude: Iterable = (), convert_fn: Optional[Dict[type, Any]] = None, *,
                  config_list: Optional[Sequence] = None, target: Any = None, example_input: Optional[Inputs] = None,
                  backend: str = "auto") -> Block:
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
    rules = _rules(net, exclude, convert_fn, target, config_list)
    graph = _trace_or_none(net, example_input)
    plan = resolve(net, rules, graph)
    if graph is not None and example_input is not None:
        plan = counted(plan, graph, net, [part.shape for part in _as_tuple(example_input)])
    check_plan(target, net, plan)
    _apply(net, plan, convert_fn)
    if graph is not None:
        share_input_quantizers(net, plan, graph)
        skip_relus(net, plan, graph)
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


def _rules(net: Block, exclude: Iterable, convert_fn: Optional[Dict[type, Any]], target: Any,
           config_list: Optional[Sequence]) -> List[Rule]:
    if isinstance(exclude, (str, Block)):
        raise ConfigError("exclude takes a list of blocks or patterns, got "
                          f"{exclude if isinstance(exclude, str) else exclude.name!r}")
    rules = list(DEFAULT_RULES) if convert_fn is None else _rules_from_table(convert_fn)
    rules += target_rules(target, net)
    if config_list is not None:
        rules += rules_from_config(config_list)
    return rules + exclusions(net, exclude)


def _rules_from_table(convert_fn: Dict[type, Any]) -> List[Rule]:
    rules = []
    for layer_type, action in convert_fn.items():
        if isinstance(action, Rule):
            rules.append(replace(action, op_types=(layer_type.__name__,), op_names=(), reason="convert_fn"))
        elif action is not None and not callable(action):
            raise ConfigError(f"convert_fn[{layer_type.__name__}]: expected a converter, a function or None, got "
                              f"{action!r}")
    return rules


def _apply(net: Block, plan: Plan, convert_fn: Optional[Dict[type, Any]]) -> None:
    # a block cannot replace itself in a parent that it does not have
    if plan.entries[0].path == "":
        raise ConversionError(f"{net.name}: the network is a single layer; put it into a HybridSequential")
    # activations last: some of them are children of layers that are replaced first
    for last in (False, True):
        blocks = dict(walk(net))
        chosen = [(blocks[entry.path], entry) for entry in plan.entries if entry.quantized]
        replace_blocks(net, {id(block): quantized_layer(block, entry) for block, entry in chosen
                             if type(block) in QUANTIZABLE and QUANTIZABLE[type(block)].has_weight != last})
    for layer_type, action in (convert_fn or {}).items():
        if callable(action) and not (layer_type is nn.BatchNorm and plan.folds):
            chosen = [(block, action(block)) for _, block in walk(net) if type(block) is layer_type]
            replace_blocks(net, {id(old): new for old, new in chosen if new is not None and new is not old})


def _fold(net: Block, plan: Plan) -> None:
    if plan.folds:
        folding = {entry.path for entry in plan.entries if entry.fold_bn}
        fake_bn(net, exclude=[layer for path, layer in quantized_layers(net) if path not in folding])


_SIGNED = {"auto": None, None: None, "true": True, "false": False, True: True, False: False}


def gen_conv2d_converter(weight_width: int = 8, quant_type: str = "layer",
                         input_signed: Union[None, bool, str] = "auto", input_width: int = 8,
                         quantize_input: bool = True, wino_quantize: str = "none", fake_bn: bool = False) -> Rule:
    """What `convert_fn` may hold for a layer type with a weight.

    Parameters
    ----------
    weight_width, input_width : int
        Bits, 1 to 16.
    quant_type : {"layer", "group", "channel"}
    input_signed : {"auto", True, False}
        auto: unsigned where the graph proves that the input cannot be negative.
    wino_quantize : str
        "F23", "F43" or "F63", perhaps with "/layer" or "/position" and "/inputs": quantize 3x3 convolutions in the
        Winograd domain (`quantize.winograd`).
    fake_bn : bool
        Fold BatchNorms into the weights in training (`quantize.convert.fake_bn`). The predecessor asked for
        ``nn.BatchNorm: bypass_bn`` beside it, which may stand in the table or not.
    """
    if input_signed not in _SIGNED:
        raise ConfigError(f"input_signed must be auto, true or false, got {input_signed!r}")
    return Rule(weight=Format(weight_width, True, quant_type), fold_bn=fake_bn or None,
                input=Format(input_width, _SIGNED[input_signed]) if quantize_input else "float",
                winograd=None if wino_quantize == NONE else parse_winograd(wino_quantize, "wino_quantize"))


gen_dense_converter = gen_conv2d_converter


def gen_act_converter(width: int = 8) -> Rule:
    """What `convert_fn[nn.Activation]` may hold: the activation's output is quantized to `width` bits."""
    return Rule(output=Format(width, None))


def default_convert_fn() -> Dict[type, Any]:
    """The table that `convert_model` uses when none is given."""
    return {row.gluon: gen_conv2d_converter() for row in QUANTIZABLE.values() if row.by_default}
