# SPDX-License-Identifier: MIT
"""Changes to a float network before conversion: merge or bypass BatchNorm, ReLU to ReLU6, faster pooling."""

import logging
from typing import Iterable, List, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, nn

from quantize.convert.graph import batchnorm_partners, trace
from quantize.convert.layers import weighted
from quantize.convert.subclasses import settle_subclasses
from quantize.errors import ConversionError
from quantize.modes import clear_cached_graphs, is_converted
from quantize.nn import BypassBatchNorm, MeanGlobalAvgPool2D, ReLU6
from quantize.nn.batchnorm import is_batchnorm
from quantize.nn.layer import make_writable
from quantize.tree import replace_blocks, walk

logger = logging.getLogger(__name__)


def bypass_bn(layer: nn.BatchNorm) -> BypassBatchNorm:
    """An identity that keeps the BatchNorm's name and parameters; fits `convert_fn[nn.BatchNorm]`."""
    return BypassBatchNorm.from_float(layer)


def _check_initialized(net: Block) -> None:
    for name, parameter in net._collect_params_with_prefix().items():
        if parameter._data is None:
            raise ConversionError(f"{name}: the parameter has no values yet, so nothing can be merged into it; call "
                                  "net.initialize() or load parameters, and run the network once")


def merge_bn(net: Block, exclude: Iterable[Block] = ()) -> List[Tuple[str, str]]:
    """Fold every BatchNorm that follows a convolution or Dense into that layer; the network computes the same.

    w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta, with each layer's own eps and,
    where it has `scale=False`, gamma = 1. Partners are found in the traced graph. A BatchNorm that follows something
    else (pre-activation networks) stays as it is. The network is changed in place.

    Returns
    -------
    list of (str, str)
        Structural paths of the merged (layer, BatchNorm) pairs.
    """
    if is_converted(net):
        raise ConversionError(f"{net.name}: merge BatchNorm before converting the network")
    try:
        _check_initialized(net)
    except ConversionError:
        trace(net)  # a network that cannot be traced is told that: values would not help it
        raise
    settle_subclasses(net, merging=True)
    blocks = dict(walk(net))
    excluded = {id(block) for root in exclude for _, block in walk(root)}
    replacements, merged = {}, []
    for layer_path, norm_path in batchnorm_partners(trace(net)).items():
        layer, norm = blocks[layer_path], blocks[norm_path]
        if not is_batchnorm(norm) or norm._kwargs["axis"] != 1 or layer.act is not None:
            continue
        if id(layer) in excluded or id(norm) in excluded:
            continue
        fold_batchnorm(layer, norm)
        rest(norm)
        replacements[id(norm)] = bypass_bn(norm)
        merged.append((layer_path, norm_path))
    replace_blocks(net, replacements)
    clear_cached_graphs(net)
    logger.info("%s: %d BatchNorms merged", net.name, len(merged))
    return merged


def rest(norm: nn.BatchNorm) -> None:
    """Let a BatchNorm that is merged for good ask for no gradient: a Trainer would miss the one it never gets."""
    norm.gamma.grad_req = norm.beta.grad_req = "null"


def fold_batchnorm(layer: Block, norm: nn.BatchNorm) -> None:
    """Write a BatchNorm's inference into the weight and bias of the layer before it."""
    row = weighted(layer)
    if row is None:
        raise ConversionError(f"{layer.name}: BatchNorm cannot be merged into a {type(layer).__name__}; exclude it")
    channels = row.channel_axis
    if channels != 0 and layer._kwargs["num_group"] != 1:
        raise ConversionError(f"{layer.name}: merging BatchNorm into a grouped transposed convolution is not supported")
    factor, shift = batchnorm_affine(norm)
    weight = layer.weight.data().asnumpy().astype(np.float64)
    axes = [1] * weight.ndim
    axes[channels] = -1
    make_writable(layer.weight)
    layer.weight.set_data(mx.nd.array(weight * factor.reshape(axes)))
    bias = 0.0 if layer.bias is None else layer.bias.data().asnumpy().astype(np.float64)
    _set_bias(layer, bias * factor + shift)


def batchnorm_affine(norm: nn.BatchNorm) -> Tuple[np.ndarray, np.ndarray]:
    """(factor, shift), float64 (channels,): in inference the BatchNorm computes ``x * factor + shift``."""
    mean, var, gamma, beta = (parameter.data().asnumpy().astype(np.float64) for parameter in (
        norm.running_mean, norm.running_var, norm.gamma, norm.beta))
    if norm._kwargs["fix_gamma"]:
        gamma = np.ones_like(gamma)
    factor = gamma / np.sqrt(var + norm._kwargs["eps"])
    return factor, beta - mean * factor


def _set_bias(layer: Block, values: np.ndarray) -> None:
    if layer.bias is None:
        layer.bias = layer.params.get("bias", shape=values.shape, init="zeros")
        layer.bias.initialize(ctx=layer.weight.list_ctx())
        if not isinstance(layer, nn.Dense):  # convolutions keep it among their operator's options as well
            layer._kwargs["no_bias"] = False
    layer.bias.set_data(mx.nd.array(values))


def convert_to_relu6(net: Block, exclude: Iterable[Block] = ()) -> Block:
    """Replace every `nn.Activation('relu')` by ReLU6, in place; returns the network.

    A ReLU that is called as a function inside a block (F.relu) has no block to replace: it stays, and is logged.
    """
    kept = {id(block) for root in exclude for _, block in walk(root)}
    replacements = {id(block): ReLU6(prefix=block.prefix, params=block.params) for _, block in walk(net)
                    if type(block) is nn.Activation and block._act_type == "relu" and id(block) not in kept}
    replace_blocks(net, replacements)
    clear_cached_graphs(net)
    functional = [node.name for node in trace(net).nodes
                  if node.op == "relu" or (node.op == "Activation" and node.attrs.get("act_type") == "relu")]
    if functional:
        logger.warning("%s: %d ReLUs stay (excluded, or called as functions): %s", net.name, len(functional),
                       ", ".join(functional[:5]))
    return net


def mean_global_pooling(net: Block) -> int:
    """Let every `nn.GlobalAvgPool2D` compute a mean, in place; returns how many there were.

    Outputs stay the same up to rounding; hybridized training gets faster (see `MeanGlobalAvgPool2D`).
    """
    pools = [block for _, block in walk(net) if type(block) is nn.GlobalAvgPool2D]
    replace_blocks(net, {id(block): MeanGlobalAvgPool2D.from_float(block) for block in pools})
    clear_cached_graphs(net)
    return len(pools)
