# SPDX-License-Identifier: MIT
"""Initialization of what conversion adds to a network."""

from mxnet.gluon import Block

from quantize.modes import quantized_layers, quantizers


def qparams_init(net: Block) -> Block:
    """Give the quantizers' statistics their start values (0: nothing calibrated yet) on the weights' devices.

    Statistics that hold values already are left alone. Trained steps of weights start from the weights. `convert_model`
    calls it for networks whose parameters are initialized; a script may call it again without harm. Returns the
    network.
    """
    initialized = [p for p in net.collect_params().values() if p._data is not None]
    if not initialized:
        return net
    ctx = initialized[0].list_ctx()
    blocks = [quantizer for _, quantizer in quantizers(net)]
    for _, layer in quantized_layers(net):
        blocks += [block for name, block in layer._children.items() if name in ("weight_transform", "tile_quantizer")]
    for block in blocks:
        for parameter in block.params.values():
            if parameter._data is None:
                parameter.initialize(ctx=ctx)
    for _, layer in quantized_layers(net):
        quantizer = getattr(layer, "weight_quantizer", None)
        if quantizer is not None and hasattr(quantizer, "start") and not quantizer.calibrated:
            start_weight(layer)
    return net


def start_weight(layer):
    """Let the trained step of a layer's weight start from the weight as it is now, and be used."""
    quantizer = layer.weight_quantizer
    quantizer.start(layer.effective_weight().asnumpy())
    quantizer.mode = quantizer.training_mode
