# SPDX-License-Identifier: MIT
"""Outputs of blocks without quantized weights: of BatchNorm, pools, reshapes, sums, joined blobs, users' blocks."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import contrib, nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import engine, ir
from deploy.lower import lower
from deploy.target import find
from quantize import load_quantized, reference, save_quantized
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.modes import quantize_input, quantized_layers, set_mode
from quantize.train import start_training

SHAPE = (4, 8, 6)


class RELU6(nn.HybridBlock):
    """As gluoncv has it."""

    def hybrid_forward(self, F, x):
        return F.clip(x, 0, 6, name="relu6")


class Residual(nn.HybridSequential):
    """x + body(x)."""

    def hybrid_forward(self, F, x):
        return x + super().hybrid_forward(F, x)


def joined():
    block = contrib.nn.HybridConcurrent(axis=1, prefix="join_")
    block.add(nn.Conv2D(3, 1, in_channels=4), contrib.nn.Identity())
    return block


def residual():
    block = Residual(prefix="res_")
    block.add(nn.Conv2D(4, 3, padding=1, in_channels=4))
    return block


class Padded(nn.HybridBlock):
    def hybrid_forward(self, F, x):
        return F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 0, 1))


class Scaled(nn.HybridBlock):
    def hybrid_forward(self, F, x):
        return x * 1.7


class Resized(nn.HybridBlock):
    def hybrid_forward(self, F, x):
        return F.contrib.BilinearResize2D(x, height=5, width=9)


class Reshaped(nn.HybridBlock):
    def hybrid_forward(self, F, x):
        return F.reshape(x, shape=(0, 2, -1, 6))


class Transposed(nn.HybridBlock):
    def hybrid_forward(self, F, x):
        return F.transpose(x, axes=(0, 2, 3, 1))


# what stands between two convolutions: its maker, its type, whether it is proven to be non-negative behind a ReLU
BLOCKS = {
    "BatchNorm": (lambda: nn.BatchNorm(in_channels=4), "BatchNorm", False),
    "MaxPool2D": (lambda: nn.MaxPool2D(2), "MaxPool2D", True),
    "AvgPool2D": (lambda: nn.AvgPool2D(2), "AvgPool2D", True),
    "GlobalAvgPool2D": (lambda: nn.GlobalAvgPool2D(), "GlobalAvgPool2D", True),
    "Flatten": (nn.Flatten, "Flatten", True),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.1), "LeakyReLU", True), "PReLU": (lambda: nn.PReLU(), "PReLU", True),
    "ELU": (lambda: nn.ELU(), "ELU", True), "Swish": (lambda: nn.Swish(), "Swish", True),
    "add": (residual, "Residual", False), "concat": (joined, "HybridConcurrent", False),
    "ReLU6": (RELU6, "RELU6", True), "padding": (Padded, "Padded", True), "scaling": (Scaled, "Scaled", True),
    "resize": (Resized, "Resized", False), "reshape": (Reshaped, "Reshaped", True),
    "transpose": (Transposed, "Transposed", True),
}
NO_CODE = {"ELU", "Swish", "resize"}  # C source has no such operation


def floating(what):
    mx.random.seed(4)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 1, in_channels=4), nn.Activation("relu"), BLOCKS[what][0]())
        net.add(nn.Dense(3) if what in ("Flatten", "GlobalAvgPool2D") else nn.Conv2D(3, 1))
    net.initialize(mx.init.Uniform(0.8))
    net(mx.nd.zeros((1, *SHAPE)))
    return net


def images(count=6):
    return mx.nd.array(np.random.RandomState(2).randn(count, *SHAPE))


def converted(what, rule, **options):
    rules = [{"op_types": ["Conv2D", "Dense"], "weight": "int8/layer", "input": "auto8"}, rule]
    return convert_model(floating(what), config_list=rules, example_input=images(1), **options)


def calibrated(net):
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [images()], calibrator=calibrator), calibrator)
    quantize_input(net, online=False)
    set_mode(net, "offline", "activation")
    return net


@pytest.mark.parametrize("what", BLOCKS)
@pytest.mark.parametrize("by", ["type", "path"])
def test_an_output_lies_on_its_grid(what, by, tmp_path):
    _, kind, proven = BLOCKS[what]
    rule = {"op_types": [kind]} if by == "type" else {"op_names": ["2"]}
    net = converted(what, {**rule, "output": "auto4"})
    entry = next(entry for entry in net.plan.entries if entry.path == "2.output")
    assert str(entry.output) == ("uint4/layer" if proven else "int4/layer")
    # in float the network is what it was
    x = images()
    set_mode(net, "float")
    np.testing.assert_array_equal(net(x).asnumpy(), floating(what)(x).asnumpy())
    calibrated(net)
    quantizer = net[2]._children["output"].output_quantizer
    plain = floating(what)
    set_mode(net, "float", "weight")
    for _, layer in quantized_layers(net):
        if layer.input_quantizer is not None:
            layer.input_quantizer.mode = "float"
    want = reference.fake_quantize(plain[2](plain[1](plain[0](x))).asnumpy(), quantizer.get_qparams(), quantizer.spec)
    for hybrid in (False, True):
        if hybrid:
            net.hybridize()
            got = net(x).asnumpy()
            np.testing.assert_allclose(got, plain[3](mx.nd.array(want)).asnumpy(), rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(net[2](net[1](net[0](x))).asnumpy(), want)
    assert 2 < len(np.unique(want)) <= 16


@pytest.mark.parametrize("what", BLOCKS)
def test_it_deploys_to_integers(what):
    """The engine's codes behind the block are the quantizer's, and C source takes what it has an operation for."""
    net = calibrated(converted(what, {"op_types": [BLOCKS[what][1]], "output": "auto8"}))
    model = lower(net, SHAPE)
    grids = [node.grid for node in model.nodes if isinstance(node, ir.Rounding)]
    quantizer = net[2]._children["output"].output_quantizer
    scale = float(quantizer.get_qparams().scale[0])
    assert any(grid.scale == np.float32(scale) for grid in grids) or any(
        node.quantization.input.scale == np.float32(scale) for node in ir.quantized(model))
    got, want = engine.run(model, images().asnumpy()).outputs[0], net(images()).asnumpy()
    assert np.abs(got - want).max() <= 0.03 * np.abs(want).max()
    problems = find("c").check(find("c").settled(lower(net, SHAPE, arithmetic=find("c").arithmetic), None))
    assert bool(problems) == (what in NO_CODE), problems


@pytest.mark.parametrize("what", ["BatchNorm", "add", "concat", "ReLU6", "MaxPool2D"])
def test_a_checkpoint_keeps_it(what, tmp_path):
    net = calibrated(converted(what, {"op_types": [BLOCKS[what][1]], "output": "uint4"}))
    save_quantized(net, tmp_path / "a.qnet")
    np.testing.assert_array_equal(load_quantized(tmp_path / "a.qnet")(images()).asnumpy(), net(images()).asnumpy())


@pytest.mark.parametrize("method", ["lsq", "pact", "sat"])
def test_it_trains(method):
    net = converted("add", {"op_types": ["Residual"], "output": "uint4", "output_method": method})

    start_training(net, images())
    net.hybridize()
    with autograd.record():
        loss = (net(images() * 20) ** 2).sum()
    loss.backward()
    quantizer = net[2]._children["output"].output_quantizer
    assert np.abs(getattr(quantizer, quantizer.trained[0]).grad().asnumpy()).max() > 0


def test_patterns_reach_layers_alone():
    net = converted("MaxPool2D", {"op_names": ["*"], "output": "uint8"})
    assert [path for path, _ in quantized_layers(net)] == ["0", "1", "3"]


def test_types_and_layers_in_one_rule():
    net = converted("BatchNorm", {"op_types": ["BatchNorm", "Activation"], "output": "auto8"})
    assert {path for path, layer in quantized_layers(net) if layer.output_quantizer is not None} == {"1", "2.output"}


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="layer type 'MaxPool3D' cannot be quantized"):
        converted("MaxPool2D", {"op_types": ["MaxPool3D"], "output": "uint8"})
    net = floating("ReLU6")
    net[2].output = nn.Activation("relu")
    with pytest.raises(ConfigError, match="2: its output cannot be quantized, since it has a child called 'output'"):
        convert_model(net, config_list=[{"op_types": ["RELU6"], "output": "uint8"}])
