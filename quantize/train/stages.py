# SPDX-License-Identifier: MIT
"""Stages of training: clamped or quantized weights, moving or frozen BatchNorm."""

from mxnet.gluon import Block, nn

from quantize.errors import ConfigError
from quantize.modes import clear_cached_graphs, quantized_layers, quantizers
from quantize.nn import METHODS
from quantize.nn.batchnorm import FrozenBatchNorm
from quantize.onednn import float_type
from quantize.tree import walk


def set_clamp_only(net: Block, clamp_only: bool = True) -> None:
    """First stage of SAT: weights are clamped and not rounded; False: second stage (N2D2: ApplyQuantization).

    Activations keep their mode; `quantize.modes.set_mode` switches them. The stage is no part of a checkpoint: a script
    that resumes sets it again.
    """
    chosen = [quantizer for _, quantizer in quantizers(net, "weight") if quantizer.clamp_stage]
    if not chosen:
        methods = " or ".join(repr(name) for name, method in METHODS.items() if method.clamp_stage)
        raise ConfigError(f"{net.name}: no weights are quantized with method {methods}, so none can be clamped only")
    for quantizer in chosen:
        quantizer.clamp_only = clamp_only
    clear_cached_graphs(net)


def freeze_bn(net: Block, frozen: bool = True) -> None:
    """Let every BatchNorm, folded ones too, compute with its running statistics in training and keep them; or no more.

    A BatchNorm that was made with ``use_global_stats=True`` stays frozen.
    """
    for _, layer in quantized_layers(net):
        if layer.norm is not None:
            layer.norm.frozen = frozen
    for _, block in walk(net):
        if frozen and float_type(block) is nn.BatchNorm and not block._kwargs["use_global_stats"]:
            FrozenBatchNorm.freeze(block)
        elif not frozen and isinstance(block, FrozenBatchNorm):
            block.release()
    clear_cached_graphs(net)
