# SPDX-License-Identifier: MIT
"""The Plan names every layer with weights: subclasses, functions, recurrent and embedded networks, and its shares."""

import gluoncv.nn
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import SymbolBlock, nn, rnn
from mxnet.gluon.contrib.nn import SyncBatchNorm

from calib.apply import apply_table, table_of
from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from calib.table import read_table, write_table
from quantize.convert import convert_model, fake_bn, merge_bn
from quantize.convert.subclasses import parent_of
from quantize.modes import quantize_input, quantized_layers
from quantize.nn import QConv2D, QDense
from quantize.train import freeze_bn

SHAPE = (2, 3, 8, 8)


class Renamed(nn.Conv2D):
    """Nothing of its own."""


class Same(nn.Dense):
    def hybrid_forward(self, F, x, weight, bias=None):
        return super().hybrid_forward(F, x, weight, bias)


class Doubling(nn.Conv2D):
    def hybrid_forward(self, F, x, weight, bias=None):
        return 2 * super().hybrid_forward(F, x, weight, bias)


class Widened(nn.BatchNorm):
    def hybrid_forward(self, F, x, **parameters):
        return super().hybrid_forward(F, x, **parameters) + 1


class Functional(nn.HybridBlock):
    """A convolution and a product without layers, and a weight that is computed."""

    def __init__(self, **options):
        super().__init__(**options)
        with self.name_scope():
            self.kernel = self.params.get("kernel", shape=(4, 3, 3, 3))
            self.matrix = self.params.get("matrix", shape=(5, 4))
            self.scale = self.params.get("scale", shape=(4,), init="ones")

    def hybrid_forward(self, F, x, kernel, matrix, scale):
        x = F.Convolution(x, kernel, no_bias=True, kernel=(3, 3), num_filter=4)
        x = F.broadcast_mul(x, F.reshape(scale, shape=(1, 4, 1, 1)))
        return F.FullyConnected(F.mean(x, axis=(2, 3)), matrix, no_bias=True, num_hidden=5)


def made(*layers, shape=SHAPE):
    mx.random.seed(3)
    net = nn.HybridSequential(prefix="made_")
    with net.name_scope():
        net.add(*[layer() for layer in layers])
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros(shape))
    return net


def rows(net):
    return {entry.path: entry for entry in net.plan.entries + net.plan.floats}


def test_subclasses_that_compute_the_same_are_converted():
    net = made(lambda: Renamed(4, 3), lambda: nn.Activation("relu"), lambda: Doubling(4, 3), lambda: Same(5))
    x = mx.nd.random.normal(shape=SHAPE)
    want = net(x).asnumpy()
    convert_model(net)
    assert type(net[0]) is QConv2D and type(net[3]) is QDense and type(net[2]) is Doubling
    found = rows(net)
    assert [path for path, entry in found.items() if entry.quantized] == ["0", "3"]
    assert found["2"].op_type == "Doubling" and "forward of its own, not that of Conv2D" in found["2"].reason
    assert "Doubling" in str(net.plan)
    np.testing.assert_allclose(net(x).asnumpy(), want, atol=0.05 * np.abs(want).max())


def test_rules_of_the_parent_and_own_converters_hold_for_subclasses():
    net = convert_model(made(lambda: Renamed(4, 3), lambda: Same(5)), config_list=[
        {"op_types": ["Conv2D"], "weight": "int4", "input": "auto4"}])
    assert net.plan.entries[0].weight.bits == 4
    net = made(lambda: Renamed(4, 3), lambda: nn.Dense(5))
    convert_model(net, convert_fn={Renamed: lambda layer: None, nn.Dense: convert_rule()})
    assert type(net[0]) is Renamed and type(net[1]) is QDense


def convert_rule():
    from quantize.convert import gen_dense_converter
    return gen_dense_converter()


@pytest.mark.parametrize("norm", [gluoncv.nn.block.BatchNormCudnnOff, lambda **o: SyncBatchNorm(num_devices=1, **o),
                                  lambda **o: SyncBatchNorm(num_devices=4, **o)], ids=["cudnn off", "sync", "sync 4"])
def test_batchnorm_subclasses_are_merged_folded_and_frozen(norm):
    def network():
        net = made(lambda: nn.Conv2D(4, 3, use_bias=False), lambda: norm(in_channels=4, epsilon=1e-2),
                   lambda: nn.Activation("relu"), lambda: nn.Dense(3))
        net[1].running_mean.set_data(mx.nd.array([1, -1, 0.5, 0]))
        net[1].running_var.set_data(mx.nd.array([1, 2, 0.5, 3]))
        net[1].gamma.set_data(mx.nd.array([1, -2, 0.5, 3]))
        return net
    x = mx.nd.random.normal(shape=SHAPE)
    net = network()
    want = net(x).asnumpy()
    assert merge_bn(net) == [("0", "1")]
    np.testing.assert_allclose(net(x).asnumpy(), want, rtol=1e-4, atol=1e-4)
    net = network()
    convert_model(net)
    assert fake_bn(net) == [("0", "1")]
    net = network()
    convert_model(net, config_list=[{"op_types": ["Conv2D"], "fold_bn": True}])
    assert net[0].norm is not None
    net = made(lambda: gluoncv.nn.block.BatchNormCudnnOff(), lambda: nn.Dense(3))
    convert_model(net)
    freeze_bn(net)
    assert net[0]._kwargs["use_global_stats"]


def test_a_batchnorm_that_computes_more_is_not_merged():
    net = made(lambda: nn.Conv2D(4, 3), lambda: Widened(), lambda: nn.Dense(3))
    assert parent_of(net[1]) is None and merge_bn(net) == []


def test_functions_are_listed():
    net = made(Functional, lambda: nn.Dense(3))
    convert_model(net, example_input=mx.nd.zeros(SHAPE))
    found = rows(net)
    assert set(found) == {"0.kernel", "0.matrix", "1"}
    assert "F.Convolution, a function" in found["0.kernel"].reason and found["0.kernel"].macs == 4 * 27 * 36
    assert found["0.matrix"].weights == 20 and found["0.matrix"].macs == 20 and found["1"].macs == 15
    assert net.plan.share("macs") == (15, 15 + 20 + 4 * 27 * 36) and net.plan.share("weights") == (15, 143)
    assert str(net.plan).splitlines()[-1] == "quantized: 10.5% of 143 weights, 0.4% of 3.92 k multiply-adds"


class Standardized(nn.HybridBlock):
    """Weight standardization: what the convolution reads is no parameter."""

    def __init__(self, **options):
        super().__init__(**options)
        self.weight = self.params.get("weight", shape=(4, 3, 3, 3))

    def hybrid_forward(self, F, x, weight):
        return F.Convolution(x, F.L2Normalization(weight), no_bias=True, kernel=(3, 3), num_filter=4)


@pytest.mark.parametrize("layer, shape, op_type, reason", [
    (lambda: nn.Conv3D(2, 2), (2, 3, 4, 4, 4), "Conv3D", "there is no quantized Conv3D"),
    (lambda: nn.Conv1DTranspose(2, 2), (2, 3, 4), "Conv1DTranspose", "no quantized Conv1DTranspose"),
    (lambda: rnn.LSTM(4), (3, 2, 5), "LSTM", "recurrent"), (Standardized, SHAPE, "Standardized", "F.Convolution"),
    (lambda: nn.Embedding(10, 4), (2, 3), "Embedding", "looked up")])
def test_layers_that_stay_float_are_listed(layer, shape, op_type, reason):
    net = made(layer, lambda: nn.Dense(3), shape=shape)
    convert_model(net, config_list=[{"op_types": ["Dense"], "weight": "int8", "input": "auto8"}])
    row = rows(net)["0"]
    assert row.op_type == op_type and reason in row.reason and row.weights and not row.quantized


def test_embedded_networks_are_listed():
    inner = made(lambda: nn.Conv2D(4, 3), lambda: nn.Activation("relu"))
    data = mx.sym.var("data")
    block = SymbolBlock(inner(data), data, params=inner.collect_params())
    net = made(lambda: block, lambda: nn.Dense(3))
    convert_model(net)
    row = rows(net)["0"]
    assert "F.Convolution, in an embedded network" in row.reason and row.weights == 108


def test_transposed_convolutions_and_grouped_ones_are_counted():
    net = made(lambda: nn.Conv2D(6, 3, groups=3, strides=2), lambda: nn.Conv2DTranspose(2, 2, strides=2))
    convert_model(net, example_input=mx.nd.zeros(SHAPE))
    assert [entry.macs for entry in net.plan.entries] == [6 * 9 * 9, 6 * 9 * 2 * 4]


def test_lines_that_a_table_switches_off_say_so(tmp_path):
    net = made(lambda: nn.Conv2D(4, 3), lambda: nn.Activation("relu"), lambda: nn.Dense(3))
    convert_model(net)
    naive = CALIBRATORS.get("naive")()
    calibrate(net, observe(net, [mx.nd.random.normal(shape=SHAPE)], naive), naive)
    quantize_input(net, online=False)
    write_table(tmp_path / "t", table_of(net, "naive", (2, "-")))
    lines = (tmp_path / "t").read_text().splitlines()
    (tmp_path / "t").write_text("\n".join("#" + line if line.startswith("0 ") else line for line in lines) + "\n")
    apply_table(net, read_table(tmp_path / "t"))
    found = rows(net)
    assert not found["0"].quantized and found["0"].reason == "float: '#' in the table" and found["2"].quantized
    assert {path: layer.weight_quantizer.mode for path, layer in quantized_layers(net)} == {"0": "float", "2": "online"}
