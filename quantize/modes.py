# SPDX-License-Identifier: MIT
"""Switch a converted network between float, observe, online and offline, and freeze its weights.

Every function takes the *root* network: a hybridized parent keeps a cached graph of its children, so the switch must
drop the caches from the root down.
"""

import contextlib
import logging
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from mxnet import nd
from mxnet.gluon import Block, HybridBlock, Parameter

from quantize.errors import CalibrationError
from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.layer import QuantizedBlock, plain_layout
from quantize.tree import walk

logger = logging.getLogger(__name__)


def collect_quantized_blocks(net: Block) -> List[Block]:
    """The layers that hold quantizers, in the order of the network's structure, each once."""
    return [block for _, block in quantized_layers(net)]


def quantized_layers(net: Block) -> Iterator[Tuple[str, Block]]:
    """(structural path, layer) of every layer that holds quantizers; a shared layer comes once."""
    for path, block in walk(net):
        if isinstance(block, QuantizedBlock):
            yield path, block


def quantizers(net: Block, kind: str = "all") -> Iterator[Tuple[str, FakeQuantize]]:
    """(structural path, quantizer) of every quantizer; one that layers share comes once, under its first layer.

    Parameters
    ----------
    kind : {"all", "weight", "activation"}
    """
    seen = set()
    for path, layer in quantized_layers(net):
        for name, quantizer in layer.quantizers():
            # layers that read one tensor share a quantizer: switched twice it would be, counted twice it must not
            if id(quantizer) in seen:
                continue
            seen.add(id(quantizer))
            is_weight = name == "weight_quantizer"
            if kind == "all" or is_weight == (kind == "weight"):
                yield (path + "." if path else "") + name, quantizer


def tile_quantizers(net: Block) -> Iterator[Tuple[str, FakeQuantize]]:
    """(structural path, quantizer) of Winograd tiles, which follow the mode of their layer's input quantizer."""
    for path, layer in quantized_layers(net):
        if layer.tile_quantizer is not None:
            yield (path + "." if path else "") + "tile_quantizer", layer.tile_quantizer


def added_parameters(net: Block) -> List[Parameter]:
    """Every parameter that conversion added to a network; float checkpoints hold none of them."""
    found = {}
    for _, layer in quantized_layers(net):
        for block in layer.added():
            found.update({id(parameter): parameter for parameter in block.collect_params().values()})
    return list(found.values())


def is_converted(net: Block) -> bool:
    """Whether anything in a network holds quantizers."""
    return next(quantized_layers(net), None) is not None


def thresholds(net: Block) -> Dict[str, float]:
    """Calibrated threshold, in real units, of every layer's activation; layers that share a quantizer each have it.

    Activations in float mode are left out.
    """
    found = {}
    for path, layer in quantized_layers(net):
        for name, quantizer in layer.quantizers():
            if name != "weight_quantizer" and quantizer.mode != "float" and quantizer.calibrated:
                found[(path + "." if path else "") + name] = float(quantizer.threshold.max())
    return found


def set_mode(net: Block, mode: str, kind: str = "all") -> None:
    """Put quantizers of one kind into a mode and drop cached graphs.

    Raises CalibrationError, naming the quantizers, when `offline` is asked for and there is no calibrated range.
    """
    chosen = list(quantizers(net, kind))
    if mode == "offline":
        missing = [path for path, quantizer in chosen if not quantizer.calibrated]
        if missing:
            raise CalibrationError(f"no calibrated range for {len(missing)} of {len(chosen)} quantizers (first: "
                                   f"{missing[0]}); calibrate first, or use online ranges")
    for _, quantizer in chosen:
        quantizer.mode = mode
    clear_cached_graphs(net)


@contextlib.contextmanager
def mode(net: Block, name: str, kind: str = "all") -> Iterator[Block]:
    """Context in which the quantizers of one kind are in a mode; every quantizer's own mode comes back afterwards."""
    before = [(quantizer, quantizer.mode) for _, quantizer in quantizers(net, kind)]
    set_mode(net, name, kind)
    try:
        yield net
    finally:
        for quantizer, old in before:
            quantizer.mode = old
        clear_cached_graphs(net)


def enable_quantize(net: Block) -> None:
    """Quantize weights by their method, activations offline where calibrated, else online."""
    for _, quantizer in quantizers(net, "weight"):
        # a method that trains its step has one from its start; before that the step of each batch serves
        quantizer.mode = quantizer.training_mode if quantizer.calibrated else "online"
    for _, quantizer in quantizers(net, "activation"):
        quantizer.mode = "offline" if quantizer.calibrated else "online"
    clear_cached_graphs(net)


def disable_quantize(net: Block) -> None:
    """Compute in float; frozen weights get their float values back."""
    unfix_params(net)
    set_mode(net, "float")


def quantize_input(net: Block, enable: bool = True, online: bool = True) -> None:
    """Quantize activations with the range of each batch (online) or the calibrated one, or not at all."""
    set_mode(net, ("online" if online else "offline") if enable else "float", "activation")


def update_ema(net: Block) -> None:
    """After a forward pass in training: activations in `ema` mode store the range their moving average has reached.

    Waits for the pass to end: a static graph does not tell MXNet's engine that an operator of ours changes its state,
    so reading the state alone would not wait for it. `quantize.convert.moving` takes in batches of other modes.
    """
    nd.waitall()
    for _, quantizer in quantizers(net, "activation"):
        if quantizer.mode == "ema":
            quantizer.update_ema()


def fix_params(net: Block) -> None:
    """Quantize the weights once, now, instead of at every batch; `unfix_params` gives the float weights back.

    The scale used is stored in the weight quantizer. Weights are replaced in place, so parameters saved
    afterwards are the quantized ones; loaded into a converted network, they want its weight quantizers in `offline`
    mode. Layers whose weight quantizer is in float mode stay float. A folded BatchNorm's factor is taken out again of
    the quantized weight, since the BatchNorm still computes with it. Weights rounded in the Winograd domain are fixed
    as what is nearest to them there, which lies on no grid: in a network that loads them, switch the weights to
    `float`. Layers that also round input tiles there have no such weight, and are left as they are.
    """
    for _, layer in quantized_layers(net):
        quantizer = layer.weight_quantizer
        if quantizer is None or quantizer.frozen or quantizer.mode == "float" or not layer.fixes_weight:
            continue
        quantizer.float_weight = plain_layout(layer.weight.data())
        layer.weight.set_data(layer.fixed_weight())
        quantizer.frozen = True
        _set_reorder_first(layer, False)
    clear_cached_graphs(net)


def unfix_params(net: Block) -> None:
    """Undo `fix_params`: float weights back, quantized at every batch again."""
    for _, layer in quantized_layers(net):
        quantizer = layer.weight_quantizer
        if quantizer is not None and quantizer.frozen:
            layer.weight.set_data(quantizer.float_weight)
            quantizer.float_weight = None
            quantizer.frozen = False
            _set_reorder_first(layer, True)
    clear_cached_graphs(net)


class Unrounded(NamedTuple):
    """A layer's weight, bias and the mode of its weight quantizer before learned rounding."""

    weight: nd.NDArray
    bias: Optional[nd.NDArray]
    mode: str
    scale: nd.NDArray

    @classmethod
    def of(cls, layer: Block) -> "Unrounded":
        """As the layer is now."""
        quantizer = layer.weight_quantizer
        return cls(layer.weight.data().copy(), None if layer.bias is None else layer.bias.data().copy(),
                   quantizer.mode, quantizer.scale.data().copy())

    def restore(self, layer: Block) -> None:
        """Give the layer all of it back."""
        layer.weight.set_data(self.weight)
        if layer.bias is not None:
            layer.bias.set_data(self.bias)
        layer.weight_quantizer.scale.set_data(self.scale)
        layer.weight_quantizer.mode = self.mode
        layer.unrounded = None


@contextlib.contextmanager
def float_parameters(net: Block) -> Iterator[Block]:
    """Context in which layers have the weights and biases from before these were fixed, corrected or learned to round.

    Modes stay as they are: see `mode`.
    """
    fixed = any(quantizer.frozen for _, quantizer in quantizers(net, "weight"))
    unfix_params(net)
    kept: List[Tuple[Parameter, nd.NDArray, nd.NDArray]] = []
    for _, layer in quantized_layers(net):
        weight, bias = None if layer.unrounded is None else layer.unrounded.weight, layer.float_bias
        if bias is None and layer.unrounded is not None:
            bias = layer.unrounded.bias
        kept += [(getattr(layer, name), getattr(layer, name).data().copy(), value)
                 for name, value in (("weight", weight), ("bias", bias)) if value is not None]
    try:
        for parameter, _, value in kept:
            parameter.set_data(value)
        yield net
    finally:
        for parameter, value, _ in kept:
            parameter.set_data(value)
        if fixed:
            fix_params(net)


def _set_reorder_first(layer: Block, value: bool) -> None:
    if layer.input_quantizer is not None:
        layer.input_quantizer.reorder_first = value


@contextlib.contextmanager
def eager(net: Block) -> Iterator[None]:
    """Context in which no part of a network is hybridized; each block's own setting comes back afterwards."""
    active = [(block, block._active) for _, block in walk(net) if isinstance(block, HybridBlock)]
    for block, _ in active:
        block._active = False
    try:
        yield
    finally:
        for block, was_active in active:
            block._active = was_active
        clear_cached_graphs(net)


def clear_cached_graphs(net: Block) -> None:
    """Drop the cached graphs of the network and everything in it; hybridization itself stays on."""
    for _, block in walk(net):
        if isinstance(block, HybridBlock):
            block._clear_cached_op()
