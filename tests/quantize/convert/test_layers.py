# SPDX-License-Identifier: MIT
"""The table of layer types, and Conv1D, which is in it with a file and a row."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import SymbolBlock, Trainer, nn

from calib.bias_correction import correct_biases
from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy.lower import lower
from quantize import reference
from quantize.convert import convert_model, fake_bn, merge_bn, merge_fake_bn, trace
from quantize.convert.layers import LAYERS, QUANTIZABLE, quantizable, weighted
from quantize.errors import ConfigError, DeployError
from quantize.interfaces.nni import QATQuantizer
from quantize.interfaces.simqat import SimQAT
from quantize.modes import quantizers, set_mode
from quantize.nn import QConv1D, ReLU6
from quantize.spec import PerChannel, PerGroup, QuantSpec
from quantize.train import start_training

SHAPE = (4, 3, 16)


@pytest.fixture
def signals():
    mx.random.seed(5)
    return mx.nd.random.normal(shape=SHAPE)


@pytest.fixture
def net():
    """conv-BN-ReLU, grouped conv-BN-ReLU, Dense on signals of three channels."""
    mx.random.seed(6)
    made = nn.HybridSequential(prefix="signal_")
    with made.name_scope():
        made.add(nn.Conv1D(8, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"),
                 nn.Conv1D(8, 3, groups=2), nn.BatchNorm(), nn.Activation("relu"), nn.Dense(5))
    made.initialize(mx.init.Xavier(magnitude=3))
    made(mx.nd.zeros(SHAPE))
    for norm in (made[1], made[4]):
        norm.gamma.set_data(mx.nd.random.uniform(0.5, 2, shape=8))
        norm.running_mean.set_data(mx.nd.random.uniform(-1, 1, shape=8))
        norm.running_var.set_data(mx.nd.random.uniform(0.1, 0.5, shape=8))
    return made


# ---- the table


def test_every_type_stands_in_the_table_once():
    assert len({row.gluon for row in LAYERS}) == len(LAYERS)
    names = [name for row in LAYERS for name in (row.name, *row.aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", [row for row in QUANTIZABLE.values()], ids=lambda row: row.name)
def test_a_quantized_class_agrees_with_its_row(row):
    assert issubclass(row.quantized, row.gluon)
    assert row.quantized.has_weight == row.has_weight
    if row.has_weight:
        assert row.quantized.channel_axis == row.channel_axis


def test_what_a_block_is():
    assert quantizable(nn.Conv1D(2, 3)).quantized is QConv1D
    assert quantizable(ReLU6()).name == "ReLU6" and weighted(ReLU6()) is None
    assert quantizable(nn.Conv3D(2, 3)) is None and weighted(nn.Conv1DTranspose(2, 3)).channel_axis == 1

    class Own(nn.Dense):
        pass
    assert quantizable(Own(2)) is None and weighted(Own(2)).name == "Dense"


@pytest.mark.parametrize("layer, shape", [
    (lambda: nn.Conv1DTranspose(5, 3, in_channels=3), (2, 3, 9)), (lambda: nn.Conv1D(5, 3), (2, 3, 9)),
    (lambda: nn.Conv3D(5, 2, in_channels=3), (2, 3, 4, 4, 4)),
    (lambda: nn.Conv3DTranspose(5, 2, in_channels=3), (2, 3, 4, 4, 4))])
def test_batchnorm_merges_into_all_convolutions(layer, shape):
    mx.random.seed(1)
    net = nn.HybridSequential()
    net.add(layer(), nn.BatchNorm())
    net.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=shape)
    net(x)
    net[1].gamma.set_data(mx.nd.random.uniform(0.5, 2, shape=5))
    net[1].running_var.set_data(mx.nd.random.uniform(0.1, 2, shape=5))
    expected = net(x).asnumpy()
    assert merge_bn(net) == [("0", "1")]
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)


# ---- Conv1D


def test_it_is_quantized_by_default(net, signals):
    plan = convert_model(net).plan
    assert [(entry.op_type, entry.quantized, entry.input.signed) for entry in plan.entries] == [
        ("Conv1D", True, True), ("Conv1D", True, False), ("Dense", True, False)]
    assert [type(net[i]) for i in (0, 3)] == [QConv1D, QConv1D]
    assert [entry.norm for entry in plan.entries] == ["1", "4", ""]


@pytest.mark.parametrize("granularity", ["layer", "channel", "group"])
@pytest.mark.parametrize("hybridize", [False, True])
def test_it_computes_on_rounded_operands(net, signals, granularity, hybridize):
    convert_model(net, config_list=[{"weight": f"int4/{granularity}", "input": "int5"}])
    layer = net[3]
    x = mx.nd.random.normal(shape=(2, 8, 12))
    spec = QuantSpec(4, granularity={"layer": QuantSpec(4).granularity, "channel": PerChannel(0),
                                     "group": PerGroup(2)}[granularity])
    weight, data = layer.weight.data().asnumpy(), x.asnumpy()
    rounded = [reference.fake_quantize(values, reference.find_qparams(values, each), each)
               for values, each in ((weight, spec), (data, QuantSpec(5)))]
    expected = mx.nd.Convolution(mx.nd.array(rounded[1]), mx.nd.array(rounded[0]), layer.bias.data(), kernel=(3,),
                                 num_filter=8, num_group=2).asnumpy()
    layer.hybridize(hybridize)
    np.testing.assert_allclose(layer(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_graph_knows_it(net):
    graph = trace(net)
    assert graph.first_layers() == ["0"] and graph.last_layers() == ["6"]


@pytest.mark.parametrize("statistics", ["batch", "corrected", "running"])
def test_batchnorm_is_folded_in_training(net, signals, statistics):
    convert_model(net, config_list=[{"weight": "int8/channel"}])
    assert fake_bn(net, statistics) == [("0", "1"), ("3", "4")]
    start_training(net, signals, "online")
    net.hybridize()
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01}, kvstore=None)
    before = net[3].weight.data().asnumpy()
    with autograd.record():
        loss = (net(signals) ** 2).mean()
    loss.backward()
    trainer.step(1)
    assert np.abs(net[3].weight.data().asnumpy() - before).max() > 0
    expected = net(signals).asnumpy()
    assert merge_fake_bn(net) == ["0", "3"]
    np.testing.assert_allclose(net(signals).asnumpy(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["ste", "lsq", "pact"])
def test_it_is_calibrated_trained_saved_and_exported(net, signals, method, tmp_path):
    merge_bn(net)
    convert_model(net, config_list=[{"weight": "int4", "input": "auto4", "method": method}])
    calibrator = CALIBRATORS.get("mse")()
    ranges = calibrate(net, observe(net, [signals], calibrator), calibrator)
    assert len(ranges) == 3 and all(value > 0 for value in ranges.values())
    start_training(net, signals, "offline")
    net.hybridize()
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05}, kvstore=None)
    target = mx.nd.random.normal(shape=(4, 5))
    losses = []
    for _ in range(20):
        with autograd.record():
            loss = ((net(signals) - target) ** 2).mean()
        loss.backward()
        trainer.step(1, ignore_stale_grad=True)  # merged BatchNorms have no gradient
        losses.append(loss.asscalar())
    assert losses[-1] < 0.5 * losses[0]
    expected = net(signals).asnumpy()
    path = str(tmp_path / "net.params")
    net.save_parameters(path)
    net[0].weight.set_data(net[0].weight.data() * 0)
    net.load_parameters(path)
    np.testing.assert_array_equal(net(signals).asnumpy(), expected)
    net.export(str(tmp_path / "net"))
    again = SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(again(signals).asnumpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("hybridize", [False, True])
def test_batchnorm_behind_it_is_trained_too(signals, groups, activation, hybridize):
    """Behind an `nn.Conv1D` MXNet 1.9.1 cannot train one."""
    net = nn.HybridSequential()
    net.add(nn.Conv1D(8, 3), nn.Conv1D(8, 3, groups=groups, activation=activation), nn.BatchNorm(), nn.Dense(2))
    net.initialize(mx.init.Xavier())
    net(signals)
    start_training(convert_model(net), signals, "online")
    net.hybridize(hybridize)
    with autograd.record():
        loss = (net(signals) ** 2).mean()
    loss.backward()
    assert all(np.abs(net[i].weight.grad().asnumpy()).max() > 0 for i in (0, 1, 3))
    assert np.abs(net[2].gamma.grad().asnumpy()).max() > 0


def test_a_checkpoint_is_loaded_after_inference(net, signals, tmp_path):
    path = str(tmp_path / "net.params")
    convert_model(net)
    net.save_parameters(path)
    weight = net[3].weight.data().asnumpy()
    net(signals).wait_to_read()
    net.fix_params()
    net(signals).wait_to_read()
    net.disable_quantize()
    net(signals).wait_to_read()
    net.load_parameters(path)
    np.testing.assert_array_equal(net[3].weight.data().asnumpy(), weight)


def test_its_bias_is_corrected(net, signals):
    merge_bn(net)
    expected = net[:2](signals).asnumpy().mean(axis=(0, 2))
    convert_model(net, config_list=[{"weight": "int3"}])
    correct_biases(net, [signals])
    np.testing.assert_allclose(net[:2](signals).asnumpy().mean(axis=(0, 2)), expected, atol=1e-5)


def test_interfaces_know_its_names(net, signals):
    quantizer = QATQuantizer(net, [{"quant_types": ["weight"], "op_types": ["Conv1d"]}])
    quantizer.compress()
    assert [path for path, _ in quantizers(net)] == ["0.weight_quantizer", "3.weight_quantizer"]


def test_simqat_takes_it(net, signals):
    assert type(SimQAT({}).apply(net)[0]) is QConv1D


def test_winograd_is_for_other_layers(net):
    with pytest.raises(ConfigError, match="none of which can take it"):
        convert_model(net, config_list=[{"op_types": ["Conv1D"], "winograd": "F43"}])


def test_it_cannot_be_deployed_and_says_so(net, signals):
    convert_model(net)
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [signals], calibrator), calibrator)
    set_mode(net, "offline", "activation")
    with pytest.raises(DeployError, match=r"0, 3: .*1-D convolution \(supported: 2-D\)|1-D convolution"):
        lower(net, SHAPE[1:])


def test_ncnn_leaves_it_float(net):
    converted = convert_model(net, target="ncnn")
    assert [entry.op_type for entry in converted.plan.entries if entry.quantized] == ["Dense"]


def test_ncnn_refuses_rules_for_it(net):
    with pytest.raises(ConfigError, match="ncnn has no int8 convolution over one axis; exclude the layer"):
        convert_model(net, target="ncnn", config_list=[{"op_types": ["Conv1D"], "exclude": False, "weight": "int8",
                                                         "input": "int8"}])
