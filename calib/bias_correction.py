# SPDX-License-Identifier: MIT
"""Biases that take back what quantization shifts the mean of each layer's output channels by."""

import contextlib
import logging
from typing import Callable, Dict, Iterable, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from calib.feed import checked_batches
from quantize.errors import CalibrationError, ConfigError, DataError
from quantize.modes import eager, fix_params, mode, quantized_layers, unfix_params

logger = logging.getLogger(__name__)

IMAGES = 64
Layers = List[Tuple[str, Block]]
Corrections = Dict[str, mx.nd.NDArray]


def correct_biases(net: Block, batches: Iterable, method: str = "parallel", images: int = IMAGES,
                   ctx: Optional[mx.Context] = None) -> Dict[str, np.ndarray]:
    """Add to the bias of each quantized layer what its output has lost in the mean; returns {layer: what was added}.

    Rounding errors of the weights do not average out over a channel: a depthwise convolution sums nine of them, so the
    channel's mean moves, and all images' with it. The difference to the float layer, per output channel and before any
    activation, is a number that the bias can take back. The network computes otherwise as it did: the modes of its
    quantizers, hybridization, and whether weights are fixed stay as they are.

    * ``parallel``: each layer by itself, on the inputs that the *float* network gives it:
      correction = E[layer(x)] - E[layer_fq(x)]. Costs a float and a quantized forward pass.
    * ``sequential``: on the inputs that it gets in the quantized network, where all layers before it are corrected
      already: correction = E[layer(x)] - E[layer_fq(x_fq)]. Afterwards every channel has the float network's mean on
      these images. Costs the same two passes, because a shift of the bias is a shift of the output: the outputs of all
      images are shifted on their way.

    A layer, or a bias, that is used several times is corrected by its first use. Layers without a bias are left alone
    with a warning: merge BatchNorm first. A second call replaces the corrections of the first.

    Parameters
    ----------
    net : converted network
        With calibrated ranges, in the modes it is to compute in.
    batches : iterable
        As for `calib.collect.collect`; only the first `images` are used, all at once.
    method : {"parallel", "sequential"}
    images : int
        Memory grows with it: the pass holds feature maps of so many images.

    Returns
    -------
    dict
        Structural path of the layer -> float32 (channels,). Undo with `restore_biases`.

    Raises
    ------
    CalibrationError
        For a network without a quantized layer that has a bias, and for no images.
    DataError
        For batches that cannot be used, and NaN or infinity in a layer's output; no bias is then corrected.

    References
    ----------
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721,
    section 4.2 and appendix D.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    layers = _layers_with_bias(net)
    x = _first_images(batches, images, ctx)
    # a second call must not correct the first one's corrections
    restore_biases(net)
    # hooks are not called in hybridized networks
    with _unfixed(net), eager(net):
        found = METHODS[method](net, layers, x)
        corrections = {path: correction.asnumpy() for path, correction in found.items()}
    for path, correction in corrections.items():
        if not np.isfinite(correction).all():
            raise DataError(f"{path}: the output holds NaN or infinity for the calibration images")
    for path, layer in layers:
        if path in found:
            # kept as it was: subtracting the correction again would not give the same bits
            layer.float_bias = layer.bias.data(x.context).copy()
            layer.bias.set_data(layer.float_bias + found.pop(path))
    return corrections


def restore_biases(net: Block) -> None:
    """Undo `correct_biases`: the biases are again, exactly, what they were before."""
    for _, layer in quantized_layers(net):
        if layer.float_bias is not None:
            layer.bias.set_data(layer.float_bias)
            layer.float_bias = None


def _layers_with_bias(net) -> Layers:
    """(path, layer) of what can be corrected; layers that share a bias have the path of the first of them."""
    quantized = [(path, layer) for path, layer in quantized_layers(net) if _is_quantized(layer)]
    # the bias of a layer that normalizes by a folded BatchNorm lies before that
    with_bias = [(path, layer) for path, layer in quantized if layer.bias is not None and layer.norm is None]
    if not with_bias:
        raise CalibrationError("no quantized layer has a bias to correct; merge BatchNorm before the conversion")
    if len(with_bias) < len(quantized):
        logger.warning("%d of %d quantized layers have no bias, so nothing of theirs is corrected; merge BatchNorm "
                       "before the conversion", len(quantized) - len(with_bias), len(quantized))
    first: Dict[int, str] = {}
    return [(first.setdefault(id(layer.bias), path), layer) for path, layer in with_bias]


def _is_quantized(layer):
    modes = [quantizer.mode for name, quantizer in layer.quantizers() if name != "output_quantizer"]
    return any(name != "float" for name in modes)


def _first_images(batches, count, ctx):
    parts = []
    for batch in checked_batches(batches, ctx):
        parts.append(batch[:count])
        count -= len(parts[-1])
        if count <= 0:
            return mx.nd.concat(*parts, dim=0)
    if not parts:
        raise CalibrationError("the calibration set is empty: no batch came")
    return mx.nd.concat(*parts, dim=0)


@contextlib.contextmanager
def _unfixed(net):
    """Float weights for the time, so that both networks can be computed."""
    was_fixed = any(layer.weight_quantizer.frozen for _, layer in quantized_layers(net)
                    if layer.weight_quantizer is not None)
    unfix_params(net)
    try:
        yield
    finally:
        if was_fixed:
            fix_params(net)


# --- the two methods ----------------------------------------------------------------------------------------------

def _parallel(net, layers, x) -> Corrections:
    wanted: Corrections = {}
    got: Corrections = {}
    modes = {quantizer: quantizer.mode for _, layer in layers for _, quantizer in layer.quantizers()}

    def quantized_first(layer, inputs):
        """Before a layer computes in float it computes on the same input as it will when quantized."""
        if any(quantizer.mode != "float" for _, quantizer in layer.quantizers()):
            return  # this is that call
        for _, quantizer in layer.quantizers():
            quantizer.mode = modes[quantizer]
        layer(*inputs)
        for _, quantizer in layer.quantizers():
            quantizer.mode = "float"

    def see(path, layer, output):
        is_float = all(quantizer.mode == "float" for _, quantizer in layer.quantizers())
        # the first use alone: a layer that is called twice has one bias
        (wanted if is_float else got).setdefault(path, _channel_means(layer, output))

    with mode(net, "float"), _seen(layers, see), contextlib.ExitStack() as hooks:
        for _, layer in layers:
            hooks.callback(layer.register_forward_pre_hook(quantized_first).detach)
        _run(net, x)
    return {path: wanted[path] - got[path] for path in wanted}


def _sequential(net, layers, x) -> Corrections:
    wanted: Corrections = {}
    corrections: Corrections = {}

    def see(path, layer, output):
        wanted.setdefault(path, _channel_means(layer, output))

    def correct(path, layer, output):
        if path not in corrections:
            corrections[path] = wanted[path] - _channel_means(layer, output)
        shift = corrections[path].reshape(_channels_shape(layer, output))
        # in place, so that no hook has to return another array, which Gluon's hooks cannot
        mx.nd.broadcast_add(output, shift, out=output)  # what the layers after it get

    with mode(net, "float"), _seen(layers, see):
        _run(net, x)
    with _seen(layers, correct):
        _run(net, x)
    return corrections


METHODS: Dict[str, Callable] = {"parallel": _parallel, "sequential": _sequential}


def _run(net, x):
    net(x)
    mx.nd.waitall()


@contextlib.contextmanager
def _seen(layers, see):
    """Meanwhile ``see(path, layer, output)`` is called with each layer's output before its activation."""
    with contextlib.ExitStack() as hooks:
        for path, layer in layers:
            hooks.callback(_on_output(path, layer, see).detach)
        yield


def _on_output(path, layer, see):
    # the layer's own activation is the last thing it calls: what goes into it is the sum with the bias
    if layer.act is not None:
        return layer.act.register_forward_pre_hook(lambda _, inputs: see(path, layer, inputs[0]))
    return layer.register_forward_hook(lambda _, inputs, output: see(path, layer, output))


def _channel_axis(layer, output):
    return layer.output_axis % output.ndim


def _channel_means(layer, output):
    return output.mean(axis=_channel_axis(layer, output), exclude=True)


def _channels_shape(layer, output):
    shape = [1] * output.ndim
    shape[_channel_axis(layer, output)] = -1
    return tuple(shape)
