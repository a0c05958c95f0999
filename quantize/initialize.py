# SPDX-License-Identifier: MIT
"""Initialization of what conversion adds to a network."""

from mxnet.gluon import Block

from quantize.modes import quantizers


def qparams_init(net: Block) -> Block:
    """Give the quantizers' statistics their start values (0: nothing calibrated yet) on the weights' devices.

    Statistics that hold values already are left alone. `convert_model` calls it for networks whose parameters are
    initialized; a script may call it again without harm. Returns the network.
    """
    initialized = [p for p in net.collect_params().values() if p._data is not None]
    if not initialized:
        return net
    ctx = initialized[0].list_ctx()
    for _, quantizer in quantizers(net):
        for parameter in quantizer.params.values():
            if parameter._data is None:
                parameter.initialize(ctx=ctx)
    return net
