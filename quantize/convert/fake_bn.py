# SPDX-License-Identifier: MIT
"""Fake BN: a converted network trains on weights rounded as they will be once BatchNorm is merged into them."""

import logging
from typing import Iterable, List, Tuple

from mxnet.gluon import Block, nn

from quantize.convert.net import QuantizedNet
from quantize.convert.passes import bypass_bn, fold_batchnorm, rest
from quantize.convert.subclasses import settle_subclasses
from quantize.errors import ConfigError, ConversionError
from quantize.initialize import start_weight
from quantize.modes import clear_cached_graphs, quantized_layers, unfix_params
from quantize.nn import FoldedBatchNorm, QuantizedLayer
from quantize.nn.batchnorm import is_batchnorm
from quantize.nn.integer_weights import check_integer_weights
from quantize.nn.layer import retyped
from quantize.tree import replace_blocks, walk

logger = logging.getLogger(__name__)


def fake_bn(net: Block, statistics: str = "batch", exclude: Iterable[Block] = ()) -> List[Tuple[str, str]]:
    """Fold each BatchNorm behind a layer with quantized weights into those weights, in the training graph.

    Float weights, names and checkpoints stay as they are; the BatchNorm at its old place passes its input through, and
    the layer before it computes with its parameters (`FoldedBatchNorm`, which gives the formulas and costs). Call it
    after `convert_model` and before training: trained steps of weights start anew, from the folded weights. Afterwards
    `merge_fake_bn` merges for good, `remove_fake_bn` takes everything back.

    Parameters
    ----------
    statistics : {"batch", "corrected", "running"}
    exclude : iterable of Block
        Layers or BatchNorms (or blocks around them) that stay as they are.

    Returns
    -------
    list of (str, str)
        Structural paths of the (layer, BatchNorm) pairs. A layer with an activation of its own, a grouped transposed
        convolution, a layer that rounds input tiles in the Winograd domain, and a BatchNorm over another axis than the
        channels are left alone.

    Raises
    ------
    ConfigError
        When no pair is found, or a layer's weights are whole numbers (`integer_weights`).
    """
    if not isinstance(net, QuantizedNet):
        raise ConversionError(f"{net.name}: fold BatchNorm after convert_model (or merge it before, with merge_bn)")
    assert net.plan is not None  # convert_model sets it
    settle_subclasses(net, merging=True)
    blocks = dict(walk(net))
    excluded = {id(block) for root in exclude for _, block in walk(root)}
    pairs = [(entry.path, entry.norm) for entry in net.plan.entries if entry.norm
             and _can_fold(blocks[entry.path], blocks[entry.norm])
             and not excluded & {id(blocks[entry.path]), id(blocks[entry.norm])}]
    if not pairs:
        raise ConfigError(f"{net.name}: there is no BatchNorm to fold: none follows a layer with quantized weights")
    for path, _ in pairs:
        if blocks[path].integer_weights:
            check_integer_weights(blocks[path].weight_quantizer.spec, False, True)
    for path, norm_path in pairs:
        layer, norm = blocks[path], blocks[norm_path]
        # its place in the network stays: names and structural paths of everything behind it are checkpoints'
        replace_blocks(net, {id(norm): bypass_bn(norm)})
        layer.norm = FoldedBatchNorm(norm, _broadcast_shape(layer), statistics)
        # a layer that is hybridized on its own must find them
        layer.params.update(norm.params)
        start_weight(layer)
    clear_cached_graphs(net)
    logger.info("%s: %d BatchNorms folded, statistics %s", net.name, len(pairs), statistics)
    return pairs


def _can_fold(layer: Block, norm: Block) -> bool:
    return (isinstance(layer, QuantizedLayer) and layer.weight_quantizer is not None and layer.norm is None
            and layer.act is None and layer.folds_norm and is_batchnorm(norm) and norm._kwargs["axis"] == 1)


def _broadcast_shape(layer: Block) -> Tuple[int, ...]:
    return tuple(-1 if axis == layer.channel_axis else 1 for axis in range(len(layer.weight.shape)))


def merge_fake_bn(net: Block) -> List[str]:
    """Merge folded BatchNorms into weights and biases for good: same outputs, and no BatchNorm is left to deploy.

    Quantizers keep their numbers, which were those of the folded weights all along. Returns the layers' paths.
    """
    folded = _folded_layers(net)
    unfix_params(net)
    for _, layer in folded:
        fold_batchnorm(layer, layer.norm.block)
        rest(layer.norm.block)
        layer.norm = None
    clear_cached_graphs(net)
    return [path for path, _ in folded]


def remove_fake_bn(net: Block) -> List[str]:
    """Take `fake_bn` back: BatchNorms compute at their old places again, on the weights as trained.

    Trained steps of weights start anew, from the unfolded weights. Returns the layers' paths.
    """
    folded = _folded_layers(net)
    unfix_params(net)
    # by name, since the block at the old place is a stand-in and not the BatchNorm itself
    norms = {layer.norm.block.name: layer for _, layer in folded}
    for _, block in list(walk(net)):
        layer = norms.get(block.name)
        if layer is None or not isinstance(block, nn.BatchNorm):
            continue
        replace_blocks(net, {id(block): retyped(block, type(layer.norm.block))})
        layer.norm = None
        start_weight(layer)
    clear_cached_graphs(net)
    return [path for path, _ in folded]


def _folded_layers(net: Block) -> List[Tuple[str, Block]]:
    folded = [(path, layer) for path, layer in quantized_layers(net) if layer.norm is not None]
    if not folded:
        raise ConversionError(f"{net.name}: no BatchNorm is folded here; fake_bn was not called, or was taken back")
    return folded
