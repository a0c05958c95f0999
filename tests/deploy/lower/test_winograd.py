# SPDX-License-Identifier: MIT
"""Weights that are rounded in the Winograd domain lie on no grid that an integer layer could hold."""

import mxnet as mx
import pytest
from mxnet.gluon import nn

from deploy.lower import lower
from quantize.convert import convert_model
from quantize.errors import DeployError
from quantize.modes import fix_params, quantize_input, set_mode


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("winograd", ["F43", "F23/position/inputs"])
def test_such_layers_are_refused(winograd, fixed):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3))
    net.initialize()
    convert_model(net, config_list=[{"winograd": winograd}])
    set_mode(net, "ema", "activation")
    net(mx.nd.random.normal(shape=(2, 3, 8, 8)))
    net.update_ema()
    quantize_input(net, online=False)
    if fixed:
        fix_params(net)
    with pytest.raises(DeployError, match=r"its weight is quantized in the Winograd domain .F.*without Winograd \(0\)"):
        lower(net, (3, 8, 8))
