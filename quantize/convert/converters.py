# SPDX-License-Identifier: MIT
"""What `convert_fn` and `custom_fn` may hold: the predecessor's converters, which are rules here, and functions."""

from dataclasses import replace
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from mxnet.gluon import Block, nn

from quantize.config import FLOAT, Format, Rule
from quantize.convert.layers import QUANTIZABLE, quantizable
from quantize.errors import ConfigError
from quantize.onednn import float_type
from quantize.tree import paths, replace_blocks, walk
from quantize.winograd import NONE, parse_winograd

_SIGNED = {"auto": None, None: None, "true": True, "false": False, True: True, False: False}


def gen_conv2d_converter(weight_width: int = 8, quant_type: str = "layer", quantize_input: bool = True,
                         input_signed: Union[None, bool, str] = "auto", input_width: int = 8, fake_bn: bool = False,
                         wino_quantize: str = NONE) -> Rule:
    """What `convert_fn` may hold for a layer type with a weight; arguments in Quantization.MXNet's order.

    Parameters
    ----------
    weight_width, input_width : int
        Bits, 1 to 16.
    quant_type : {"layer", "group", "channel"}
    quantize_input : bool
    input_signed : {"auto", True, False}
        auto: unsigned where the graph proves that the input cannot be negative.
    fake_bn : bool
        Fold BatchNorms into the weights in training (`quantize.convert.fake_bn`). The predecessor asked for
        ``nn.BatchNorm: bypass_bn`` beside it, which may stand in the table or not.
    wino_quantize : str
        "F23", "F43" or "F63", perhaps with "/layer" or "/position" and "/inputs": quantize 3x3 convolutions in the
        Winograd domain (`quantize.winograd`).
    """
    if isinstance(quantize_input, str) or input_signed not in _SIGNED:
        # the two once stood the other way round here
        name, given = ("quantize_input", quantize_input) if isinstance(quantize_input, str) else (
            "input_signed", input_signed)
        raise ConfigError(f"{name} must be {'true or false' if name == 'quantize_input' else 'auto, true or false'}, "
                          f"got {given!r}")
    return Rule(weight=Format(weight_width, True, quant_type), fold_bn=fake_bn or None,
                input=Format(input_width, _SIGNED[input_signed]) if quantize_input else FLOAT,
                winograd=None if wino_quantize == NONE else parse_winograd(wino_quantize, "wino_quantize"))


def gen_dense_converter(weight_width: int = 8, input_signed: Union[None, bool, str] = "auto", input_width: int = 8,
                        quantize_input: bool = True, quant_type: str = "layer", fake_bn: bool = False) -> Rule:
    """`gen_conv2d_converter` for Dense layers, whose order of arguments is another one in Quantization.MXNet."""
    return gen_conv2d_converter(weight_width, quant_type, quantize_input, input_signed, input_width, fake_bn)


def gen_act_converter(width: int = 8, quantize_act: bool = True) -> Rule:
    """What `convert_fn[nn.Activation]` may hold: its output is quantized to `width` bits, or stays float."""
    return Rule(output=Format(width, None) if quantize_act else FLOAT)


class ConverterTable(Dict[type, Any]):
    """A table of converters; called, it gives a copy that can be changed."""

    def __call__(self) -> Dict[type, Any]:
        """See the class."""
        return dict(self)


#: what `convert_model` does where no table is given: the predecessor has a dictionary of this name
default_convert_fn = ConverterTable({
    **{row.gluon: gen_conv2d_converter() for row in QUANTIZABLE.values() if row.by_default}, nn.Activation: None,
    nn.BatchNorm: None})


class Customs(NamedTuple):
    """What is done to single blocks and to all blocks of a type, beside the rules.

    Attributes
    ----------
    rules : list of Rule
        Of the tables, those for single blocks last.
    functions : dict
        id of a block -> the function it is given to.
    by_type : dict
        Type -> the function its blocks are given to; those in `kept` are not.
    kept : collection of int
        ids of blocks that no function of a type sees.
    """

    rules: List[Rule]
    functions: Dict[int, Callable[[Block], Optional[Block]]]
    by_type: Dict[type, Callable[[Block], Optional[Block]]]
    kept: Collection[int]

    @property
    def any(self) -> bool:
        """Whether there are functions at all."""
        return bool(self.functions or self.by_type)

    def apply(self, net: Block, folds: bool) -> None:
        """Give each block to its function, and put in its place what the function returns, if that is a block.

        Parameters
        ----------
        folds : bool
            Folding replaces the BatchNorms that it takes: no function for all of them is called.
        """
        replacements = {}
        for _, block in list(walk(net)):
            by_type = None if id(block) in self.kept or (folds and float_type(block) is nn.BatchNorm) else (
                self.by_type.get(float_type(block)))
            function = self.functions.get(id(block), by_type)
            new = None if function is None else function(block)
            if new is not None and new is not block:
                replacements[id(block)] = new
        replace_blocks(net, replacements)


def customs_of(net: Block, convert_fn: Mapping[type, Any], custom_fn: Mapping[Block, Any],
               excluded: Collection[int]) -> Customs:
    """The tables of `convert_model`, checked.

    Parameters
    ----------
    excluded : collection of int
        ids of blocks that `exclude` names.
    """
    rules, by_type = _of_types(convert_fn)
    known, functions = paths(net), {}
    for block, action in custom_fn.items():
        if not isinstance(block, Block) or id(block) not in known:
            raise ConfigError(f"custom_fn: {getattr(block, 'name', block)!r} is no block of this network")
        where = f"custom_fn[{block.name}]"
        _check(action, where)
        if id(block) in excluded:
            continue
        if not isinstance(action, Rule) and action is not None:
            functions[id(block)] = action
        if quantizable(block):
            # a function, or nothing, in the place of what the rules for the type say
            rules.append(replace(action, op_types=(), op_names=(known[id(block)],), reason="custom_fn")
                         if isinstance(action, Rule) else
                         Rule(op_names=(known[id(block)],), exclude=True, reason="custom_fn"))
        elif isinstance(action, Rule):
            raise ConfigError(f"{where}: a {type(block).__name__} cannot be quantized; give a function")
    return Customs(rules, functions, by_type, {*excluded, *(id(block) for block in custom_fn)})


def _of_types(convert_fn: Mapping[type, Any]) -> Tuple[List[Rule], Dict[type, Any]]:
    rules, functions = [], {}
    for layer_type, action in convert_fn.items():
        _check(action, f"convert_fn[{layer_type.__name__}]")
        if isinstance(action, Rule):
            rules.append(replace(action, op_types=(layer_type.__name__,), op_names=(), reason="convert_fn"))
        elif action is not None:
            functions[layer_type] = action
    return rules, functions


def _check(action: Any, where: str) -> None:
    if not isinstance(action, Rule) and action is not None and not callable(action):
        raise ConfigError(f"{where}: expected a converter, a function or None, got {action!r}")
