# SPDX-License-Identifier: MIT
"""Initialization of what conversion adds to a network."""

from mxnet.gluon import Block

from quantize.modes import added_parameters, quantized_layers


def qparams_init(net: Block, conv_name: str = "conv", bn_name: str = "batchnorm") -> Block:
    """Give the quantizers' statistics their start values (0: nothing calibrated yet) on the weights' devices.

    Statistics that hold values already are left alone. Trained steps of weights start from the weights. `convert_model`
    calls it for networks whose parameters are initialized; a script may call it again without harm. Returns the
    network. `conv_name` and `bn_name`, by which Quantization.MXNet found the BatchNorm of a convolution, are not
    needed: the traced graph says which belong together.
    """
    initialized = [p for p in net.collect_params().values() if p._data is not None]
    if not initialized:
        return net
    ctx = initialized[0].list_ctx()
    for parameter in added_parameters(net):
        if parameter._data is None:
            parameter.initialize(ctx=ctx)
    for _, layer in quantized_layers(net):
        if layer.weight_quantizer is not None and not layer.weight_quantizer.calibrated:
            start_weight(layer)
    return net


def start_weight(layer: Block) -> None:
    """Let the trained step of a layer's weight start from the weight as it is now, and be used.

    Nothing happens where there is no such step.
    """
    quantizer = layer.weight_quantizer
    if quantizer is None or quantizer.start is None:
        return
    quantizer.start(layer.effective_weight().asnumpy())
    quantizer.mode = quantizer.training_mode
