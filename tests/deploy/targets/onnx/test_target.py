# SPDX-License-Identifier: MIT
"""Networks with what real ones have, deployed to ONNX: every code in ONNX Runtime is the integer engine's."""

import json
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import engine, ir
from deploy.fusing import endings
from deploy.ir.roundings import without_roundings
from deploy.lower import lower
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.study import in_float
from deploy.target import find
from deploy.targets.onnx.unoptimized import report
from gluon_quantize.commands import deploy as command
from quantize.convert import convert_model, merge_bn
from quantize.errors import ConfigError, DeployError
from quantize.modes import quantize_input
from tests.deploy.targets.extremes import extremes

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
SHAPE = (3, 16, 16)


class Block(nn.HybridBlock):
    """Residual, depthwise, concatenation, poolings, ReLU6."""

    def __init__(self):
        super().__init__(prefix="net_")
        with self.name_scope():
            self.first = conv(16, 3, padding=1)
            self.wide, self.narrow = conv(16, 3, padding=1), conv(16, 1, activation=None)
            self.depthwise = conv(16, 3, groups=16, padding=1, strides=2)
            self.project = conv(8, 1, activation=None)
            self.output = nn.Dense(10)

    def hybrid_forward(self, F, x):
        x = self.first(x)
        x = F.relu(self.narrow(self.wide(x)) + x)
        y = F.clip(self.depthwise(x), 0, 6)
        linear = self.project(y)
        linear = linear + F.Pooling(linear, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=False)
        x = F.concat(y, F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max"), dim=1)
        x = F.concat(x, F.relu(linear), dim=1)
        return self.output(F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1)))


def conv(channels, kernel, activation="relu", **options):
    block = nn.HybridSequential(prefix="")
    block.add(nn.Conv2D(channels, kernel, use_bias=False, **options), nn.BatchNorm())
    if activation:
        block.add(nn.Activation(activation))
    return block


def images(count, seed=6):
    return np.random.RandomState(seed).randn(count, *SHAPE).astype(np.float32)


def ranges(model, specs):
    """Minima and maxima in float."""
    return extremes(model, specs, images(20))


def deployed(net, target):
    """The model of a network, as files of a target hold it."""
    net(mx.nd.array(images(2)))
    merge_bn(net)
    convert_model(net, target=target, example_input=mx.nd.array(images(2)))
    minmax = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(images(20))], calibrator=minmax), minmax)
    quantize_input(net, online=False)
    return target.settled(lower(net, SHAPE, arithmetic=target.arithmetic), ranges)


@pytest.fixture(scope="module", params=["symmetric", "affine", "seven bits"])
def target(request):
    return find("onnx", affine=request.param == "affine", reduce_range=request.param == "seven bits")


@pytest.fixture(scope="module")
def model(target):
    mx.random.seed(3)
    net = Block()
    net.initialize(mx.init.Xavier(magnitude=2))
    net(mx.nd.array(images(2)))
    for parameter in net.collect_params(".*(beta|running_mean)").values():
        parameter.set_data(mx.nd.random.normal(scale=0.3, shape=parameter.shape))
    return deployed(net, target)


def proof(target, model, folder, count=24):
    files = target.write(model, folder)
    return prove(Subject("net", target, model, files), engine_sides(target, model, files), [images(count, 9)])


def test_every_code_is_the_engines(target, model, tmp_path):
    contents = proof(target, model, tmp_path)
    exact, off = contents["sides"]["onnx exact"], contents["sides"]["onnx unoptimized"]
    assert exact["codes"]["identical"] == exact["codes"]["elements"] > 100000 and exact["first_deviation"] is None
    assert exact["largest_real_difference"]["relative"] < 1e-6
    assert off["codes"]["share"] > 0.999 and off["codes"]["largest"] <= 1
    if target.reduce_range:
        default = contents["sides"]["onnx default"]["codes"]
        assert default["identical"] == default["elements"]


def test_without_optimizations_every_code_is_foreseen(model):
    """Float32 sums in the order of additions of ONNX Runtime; integers differ here and there."""
    text, contents = report(model, model, [(images(4, 9), np.zeros(4))])
    total = contents["total"]["float sums"]
    assert total["identical"] == total["codes"] > 50000 and "those of float sums" in text
    assert contents["total"]["integers"]["largest"] <= 1


def test_whole_blocks_run_in_integers(target, model, tmp_path):
    """Everything but the rounding of the image is an integer operator, or moves codes."""
    target.write(model, tmp_path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(tmp_path / "model.onnx"), options)
    found = [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
    assert set(found) == {"QuantizeLinear", "QLinearConv", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
                          "QLinearGlobalAveragePool", "MaxPool", "QGemm", "Flatten"} | (
                              {"DequantizeLinear", "Concat"} & set(found))
    assert found.count("QuantizeLinear") == 1 and found.count("QLinearConv") == 5 and found.count("QLinearAdd") == 2


def test_codes_of_nodes_between_layers_are_compared_too(target, model, tmp_path):
    contents = proof(target, model, tmp_path, count=2)
    rounded = [node.outputs[0] for node in model.nodes if isinstance(node, ir.Rounding)]
    read = [layer["input"] for layer in contents["layers"]]
    assert len(set(rounded) - set(read)) >= 5
    compared = contents["sides"]["onnx exact"]["codes"]["elements"]
    assert compared == 2 * sum(int(np.prod(model.shapes[blob])) for blob in read + sorted(set(rounded) - set(read)))


class Gates(nn.HybridSequential):
    """Functions that stay float: between layers, and behind the last."""

    def __init__(self):
        super().__init__(prefix="net_")
        with self.name_scope():
            self.add(conv(8, 3, "sigmoid", padding=1), conv(8, 3, "tanh", padding=1), nn.Conv2D(4, 1),
                     nn.Activation("sigmoid"))


def test_convolutions_in_front_of_functions_compute_in_integers(tmp_path):
    """All but the last, whose output stays as exact as it is."""
    target = find("onnx")
    mx.random.seed(4)
    net = Gates()
    net.initialize(mx.init.Xavier(magnitude=2))
    model = deployed(net, target)
    layers = ir.quantized(model)
    assert [layer.name in endings(model) for layer in layers] == [True, True, False]
    assert [layer.activation is None for layer in layers] == [True, True, False]
    sides = proof(target, model, tmp_path)["sides"]
    assert sides["onnx exact"]["codes"]["share"] > 0.999 and sides["onnx exact"]["codes"]["largest"] <= 1


def test_clips_vanish_where_grids_end(model):
    """ReLU and ReLU6 behind convolutions are what clipping to the codes does."""
    ends = endings(model)
    convolutions = [node for node in model.nodes if isinstance(node, ir.Convolution)]
    assert len(convolutions) == 5 and all(node.name in ends for node in convolutions)


def test_the_file_is_a_valid_one_and_always_the_same(target, model, tmp_path):
    path, = target.write(model, tmp_path)
    first = path.read_bytes()
    proto = onnx.load(str(path))
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 13)]
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert sum(kind == onnx.TensorProto.INT8 for name, kind in kinds.items() if name.endswith("weight.codes")) == 6
    target.write(model, tmp_path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("change", [
    lambda proto: proto.graph.node[3].ClearField("input"), lambda proto: proto.ClearField("graph"),
    lambda proto: proto.graph.initializer[0].ClearField("raw_data"), lambda proto: proto.metadata_props.add(),
    lambda proto: setattr(proto.opset_import[0], "domain", "custom"), None])
def test_onnx_runtime_gets_no_file_but_that_of_the_model(change, target, model, tmp_path):
    model = replace(model, metadata={"name": "m", "dataset": "digits"})
    (path,) = target.write(model, tmp_path)
    proto = onnx.load(str(path))
    entries = list(proto.metadata_props)
    del proto.metadata_props[:]
    proto.metadata_props.extend(reversed(entries))  # sorted in the file of the model
    path.write_bytes(proto.SerializeToString())
    target.check_files(model, (path,))
    if change is not None:
        change(proto)
    path.write_bytes(b"no message" if change is None else proto.SerializeToString())
    with pytest.raises(DeployError, match=f"{path}: is no"):
        target.check_files(model, (path,))


def test_it_runs_in_float_as_the_float_network(target, model, tmp_path):
    target.write_files(model, tmp_path, "model", integers=False)
    wanted = engine.run(without_roundings(in_float(model)), images(3)).outputs[0]
    found, = target.run(tmp_path, images(3))
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_four_bits_are_stored_as_four_bits(tmp_path):
    target = find("onnx", int4=True)
    mx.random.seed(3)
    net = Block()
    net.initialize(mx.init.Xavier(magnitude=2))
    model = deployed(net, target)
    path, = target.write(model, tmp_path)
    proto = onnx.load(str(path))
    assert proto.opset_import[0].version == 21
    codes = [tensor for tensor in proto.graph.initializer if tensor.name.endswith("weight.codes")]
    assert len(codes) == 6 and all(tensor.data_type == onnx.TensorProto.INT4 for tensor in codes)
    for node in ir.quantized(model):
        tensor = next(tensor for tensor in codes if tensor.name == node.name + ".weight.codes")
        assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), node.quantization.weight_q)
        assert len(tensor.raw_data) == (node.weight.size + 1) // 2
    contents = proof(target, model, tmp_path, 8)
    assert all(side["codes"]["share"] > 0.999 and side["codes"]["largest"] <= 1 for side in contents["sides"].values())


def test_what_it_cannot_follow_is_said_of_every_layer():
    net = Block()
    net.initialize()
    net(mx.nd.array(images(1)))
    rules = [{"op_names": ["first.0"], "weight": "int8/channel"},
             {"op_names": ["wide.0"], "input": "int12/even"},
             {"op_names": ["narrow.0"], "weight": "int8/channel/affine/even"}]
    with pytest.raises(ConfigError, match="(?s)first.0: weight int8/channel, but.*even.*wide.0: input int12.*narrow.0"):
        convert_model(net, target="onnx", config_list=rules)


def test_an_unsettled_model_is_not_written(target, tmp_path):
    net = nn.HybridSequential(prefix="net_")
    net.add(nn.Conv2D(4, 3), nn.Dense(2))
    net.initialize()
    net(mx.nd.array(images(1)))
    net = convert_model(net, target=target)
    minmax = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(images(4))], calibrator=minmax), minmax)
    quantize_input(net, online=False)
    model = lower(net, SHAPE, arithmetic=target.arithmetic)
    with pytest.raises(DeployError, match="(?s)cannot hold this network.*0: its input is not rounded.*1: its input"):
        target.write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_deploys_and_proves(tmp_path, capsys):
    assert command.main(["--model", "digits_lenet", "--target", "onnx", "--unoptimized-report", "--num-images", "60",
                         "--verify-images", "20", "--latency-runs", "1", "--output", str(tmp_path / "out")]) == 0
    assert "onnx exact" in capsys.readouterr().out
    contents = json.loads((tmp_path / "out" / "certificate.json").read_text())
    exact = contents["sides"]["onnx exact"]["codes"]
    assert exact["identical"] == exact["elements"] and contents["machine"]["onnxruntime"] == ort.__version__


def test_a_channel_of_next_to_no_weights_keeps_its_bias(tmp_path):
    """Merged BatchNorms leave such channels: in their steps the bias would be beyond int32."""
    target, net = find("onnx"), nn.HybridSequential(prefix="net_")
    net.add(nn.Conv2D(4, 3), nn.Dense(2))
    mx.random.seed(3)
    net.initialize(mx.init.Xavier())
    net(mx.nd.array(images(1)))
    net[0].weight.data()[1] *= 1e-12
    net[0].bias.set_data(mx.nd.array([0.5, 2, -0.25, 0]))
    model = deployed(net, target)
    assert not target.check(model)
    layer = next(node for node in model.nodes if isinstance(node, ir.Convolution))
    assert not layer.quantization.weight_q[1].any() and layer.quantization.weight_q[0].any()
    codes = proof(target, model, tmp_path, 4)["sides"]["onnx exact"]["codes"]
    assert codes["identical"] == codes["elements"]
    wanted, = engine.run(without_roundings(in_float(model)), images(4)).outputs
    found, = target.run(tmp_path, images(4))
    assert np.allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
