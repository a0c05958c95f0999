# SPDX-License-Identifier: MIT
"""Networks with what real ones have, in MXNet's own int8: every code is the integer engine's."""

import collections
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine, ir
from deploy.ir.roundings import without_roundings
from deploy.lower import lower
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.study import in_float
from deploy.target import find
from deploy.targets.mxnet.fusion import Fusion
from deploy.targets.mxnet.operators import Writing
from deploy.targets.mxnet.runner import Runner, exact_products
from gluon_quantize.commands import deploy as command
from quantize.convert import convert_model
from quantize.errors import ConfigError, DeployError
from tests.deploy.ir.models import every_node, floats, model_of
from tests.deploy.targets.mxnet.networks import SHAPE, Block, conv, deployed, images, network

TARGET = find("mxnet")
vnni = pytest.mark.skipif(not exact_products(), reason="this processor cuts off sums of two products at 16 bits")


@pytest.fixture(scope="module")
def model():
    return deployed(network(), TARGET)


def proof(model, folder, pictures):
    files = TARGET.write(model, folder)
    return prove(Subject("net", TARGET, model, files), engine_sides(TARGET, model, files), [pictures])


def same(model, folder, pictures):
    """Whether all codes, and the real outputs, are the engine's; how many codes."""
    side = proof(model, folder, pictures)["sides"]["mxnet default"]
    assert side["codes"]["identical"] == side["codes"]["elements"], side
    return side["codes"]["elements"], side["largest_real_difference"]["relative"]


@vnni
def test_every_code_is_the_engines(model, tmp_path):
    codes, reals = same(model, tmp_path, images(24, 9))
    assert codes > 400000 and reals < 1e-6


def test_a_processor_that_cuts_off_sums_is_said_to(model, monkeypatch):
    monkeypatch.setattr("deploy.targets.mxnet.runner.machine", lambda: {"flags": ["avx2", "avx512f", "avx512bw"]})
    found = TARGET.engine.deviations(model, TARGET.engine.ways[0])
    assert set(found) == {node.name for node in ir.quantized(model)} and "VNNI" in found["output"]


def test_what_is_fused(model):
    """Additions within convolutions, in int32, and of their own; ReLUs nowhere."""
    nodes = Writing(model).graph.nodes
    found = collections.Counter(node["op"] for node in nodes if node["op"] != "null")
    assert found == {"_sg_mkldnn_conv": 10, "_sg_mkldnn_fully_connected": 2, "_contrib_quantized_elemwise_add": 3,
                     "_contrib_requantize": 1, "_contrib_quantized_pooling": 3, "_contrib_quantize_v2": 3,
                     "_contrib_dequantize": 2, "Pooling": 1, "Activation": 2, "identity": 2,
                     "_contrib_quantized_concat": 1}
    switches = [node["attrs"] for node in nodes if node["op"] == "_sg_mkldnn_conv"]
    assert sum("with_sum" in attrs for attrs in switches) == 2
    assert len(Fusion(model).added()) == 2


class Dense(nn.HybridBlock):
    """As DenseNet: what is joined goes through a norm that no convolution takes up."""

    def __init__(self):
        super().__init__(prefix="net_")
        with self.name_scope():
            self.first, self.more = conv(8, 3, padding=1), conv(8, 3, None, padding=1)
            self.norm, self.last, self.output = nn.BatchNorm(epsilon=1e-3), conv(8, 1), nn.Dense(10)

    def hybrid_forward(self, F, x):
        x = self.first(x)
        return self.output(self.last(F.relu(self.norm(F.concat(x, self.more(x), dim=1)))))


@pytest.fixture(scope="module")
def dense():
    return deployed(network(Dense()), TARGET)


@vnni
def test_norms_that_stay(dense, tmp_path):
    """MXNet's own kernel, with the engine's bits; three operations of its own take ten times as long."""
    ops = collections.Counter(node["op"] for node in Writing(dense).graph.nodes)
    assert ops["BatchNorm"] == 1 and not any(op.startswith("broadcast") for op in ops)
    codes, reals = same(dense, tmp_path, images(24, 9))
    assert codes > 200000 and reals < 1e-6


@vnni
@pytest.mark.parametrize("which", ["model", "dense"])
def test_both_ways_of_loading_give_what_run_gives(which, tmp_path, request):
    model = request.getfixturevalue(which)
    files = [str(path) for path in TARGET.write(model, tmp_path)]
    pictures = images(4, 2)
    wanted = TARGET.run(tmp_path, pictures)
    block = mx.gluon.SymbolBlock.imports(files[0], ["data"], files[1])
    symbol, arguments, auxiliary = mx.model.load_checkpoint(files[0][:-len("-symbol.json")], 0)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind(data_shapes=[("data", pictures.shape)], for_training=False)
    module.set_params(arguments, auxiliary)
    module.forward(mx.io.DataBatch([mx.nd.array(pictures)]), is_train=False)
    for found in (block(mx.nd.array(pictures)), module.get_outputs()):
        found = found if isinstance(found, (list, tuple)) else [found]
        assert len(found) == len(wanted)
        assert all(np.array_equal(one.asnumpy(), other) for one, other in zip(found, wanted))


def test_the_files_are_always_the_same(model, tmp_path):
    first = [path.read_bytes() for path in TARGET.write(model, tmp_path)]
    assert [path.read_bytes() for path in TARGET.write(model, tmp_path)] == first


def test_it_runs_in_float_as_the_float_network(model, tmp_path):
    TARGET.write_files(model, tmp_path, "model", integers=False)
    wanted = engine.run(without_roundings(in_float(model)), images(3)).outputs
    for found, one in zip(TARGET.run(tmp_path, images(3)), wanted):
        assert np.allclose(found, one, rtol=1e-4, atol=1e-5)


@vnni
def test_layers_can_stay_float(tmp_path):
    """An excluded convolution, and additions of what it puts out, compute in float32."""
    model = deployed(network(), TARGET, [{"op_names": ["same.0", "shortcut.0"], "exclude": True}])
    ops = collections.Counter(node["op"] for node in Writing(model).graph.nodes)
    assert ops["Convolution"] == 2 and ops["_sg_mkldnn_conv"] == 8
    assert same(model, tmp_path, images(12, 9))[0] > 200000


@vnni
@pytest.mark.parametrize("layers,functions", [(["*"], 4), (["body.0", "shortcut.0", "again.0"], 0),
                                              (["depthwise.0"], 1), (["last.0"], 1), (["linear.0"], 1)])
def test_int8_behind_a_relu(layers, functions, tmp_path):
    """As files of other tools have it: a ReLU is computed of the codes, sums of uint8 and int8 in float."""
    rules = [{"op_names": layers, "op_types": ["Conv2D", "Dense"], "input": "int8/full/even"}]
    model = deployed(network(), TARGET, rules)
    ops = collections.Counter(node["op"] for node in Writing(model).graph.nodes)
    assert ops["_contrib_quantized_act"] == functions and ops["_sg_mkldnn_conv"] == 10
    assert same(model, tmp_path, images(12, 9))[0] > 200000


@vnni
def test_kernels_with_other_pads_on_both_sides(tmp_path):
    """TensorFlow's: a row of zeros more in the kernel."""
    random, grid = np.random.RandomState(2), ir.Grid(0.03125, 0, -128, 127)
    weight = floats(random, 8, 3, 3, 3)
    scale = (np.abs(weight).reshape(8, -1).max(axis=1) / 127).astype(np.float32)
    quantization = ir.Quantization(grid, TARGET.arithmetic.quantize_weight(weight, scale, 127), scale)
    model = model_of([ir.Convolution("conv", ("data",), ("conv",), weight=weight, bias=floats(random, 8), stride=(2, 2),
                                     pads=(0, 0, 1, 1), quantization=quantization, activation=ir.Function("relu"))],
                     data=(3, 12, 12))
    settled = TARGET.settled(model, ranges_of(ir.Grid(0.0625, 0, 0, 255)))
    same(settled, tmp_path, floats(random, 3, 3, 12, 12))


def ranges_of(grid):
    from quantize.spec import QParams
    return lambda model, specs: {blob: QParams(np.float32([grid.scale]), np.int32([0])) for blob in specs}


def test_every_float_operator(tmp_path):
    """What has no integer form, beside what MXNet lacks."""
    model = in_float(without_roundings(every_node()))
    nodes = []
    for node in model.nodes:
        if isinstance(node, ir.Padding):
            node = ir.Padding(node.name, node.inputs, node.outputs, channels=(1, 1), value=0.5)
        nodes.append(node)
    model = ir.Model(model.inputs, model.outputs, tuple(nodes), model.shapes, model.metadata)
    TARGET.write_files(model, tmp_path, "model", integers=False)
    pictures = floats(np.random.RandomState(3), 3, *model.shapes["data"])
    found, = TARGET.run(tmp_path, pictures)
    assert np.allclose(found, engine.run(model, pictures).outputs[0], rtol=1e-4, atol=1e-5)


def test_channels_that_onednn_holds_in_blocks_are_cut(tmp_path):
    """MXNet's `slice` ends the process over them."""
    random = np.random.RandomState(4)
    model = model_of([ir.Convolution("conv", ("data",), ("conv",), weight=floats(random, 8, 3, 3, 3)),
                      ir.Crop("cut", ("conv",), ("cut",), begin=(1, 2, 0), end=(5, 6, 4))], data=(3, 8, 8))
    pictures = floats(random, 2, 3, 8, 8)
    TARGET.write_files(model, tmp_path, "model", integers=False)
    assert np.allclose(TARGET.run(tmp_path, pictures)[0], engine.run(model, pictures).outputs[0], rtol=1e-4, atol=1e-5)


def test_what_mxnet_lacks_is_said_of_every_node(tmp_path):
    pool = {"kernel": (3, 3), "pads": (0, 0, 1, 1)}
    model = model_of([ir.Pooling("mean", ("data",), ("mean",), kind="avg", **pool),
                      ir.Resize("larger", ("mean",), ("larger",), size=(10, 10)),
                      ir.Pooling("again", ("larger",), ("again",), kind="avg", **pool)], data=(3, 8, 8))
    with pytest.raises(DeployError, match="(?s)^mean: MXNet pads.*\nlarger: MXNet enlarges.*\nagain: MXNet pads"):
        TARGET.write_files(model, tmp_path, "model", integers=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["leaky_relu", "elu", "clip", "hard_sigmoid", "hard_swish", "swish", "gelu", "tanh",
                                  "softplus", "rsqrt", "square", "erf"])
def test_every_function(kind, tmp_path):
    numbers = {"leaky_relu": (0.1,), "elu": (0.7,), "clip": (-0.5, 0.75), "hard_sigmoid": (0.2, 0.5),
               "hard_swish": (1 / 6, 0.5)}.get(kind, ())
    model = model_of([ir.Activation("f", ("data",), ("f",), function=ir.Function(kind, numbers))], data=(4, 5, 5))
    pictures = np.abs(floats(np.random.RandomState(3), 2, 4, 5, 5)) + np.float32(0.1)
    pictures *= 1 if kind == "rsqrt" else np.where(np.arange(5) % 2, 1, -1)
    TARGET.write_files(model, tmp_path, "model", integers=False)
    assert np.allclose(TARGET.run(tmp_path, pictures)[0], engine.run(model, pictures).outputs[0], rtol=1e-4, atol=1e-5)


def test_what_it_cannot_follow_is_said_of_every_layer():
    net = Block()
    net.initialize()
    net(mx.nd.array(images(1)))
    rules = [{"op_names": ["first.0"], "weight": "int8/channel"}, {"op_names": ["same.0"], "input": "int8/affine/even"},
             {"op_names": ["body.0"], "weight": "int4/channel/even"}, {"op_names": ["last.0"], "input": "float"}]
    with pytest.raises(ConfigError, match="(?s)first.0: weight int8/channel, but.*even.*same.0: input int8.*zero point"
                                          ".*body.0: weight int4.*last.0: input float"):
        convert_model(net, target="mxnet", config_list=rules)


def grouped(*layers):
    """Convolutions of so many outputs in so many groups."""
    mx.random.seed(3)
    net = nn.HybridSequential(prefix="net_")
    net.add(*(nn.Conv2D(outputs, 3, groups=groups, padding=1) for outputs, groups in layers), nn.Dense(2))
    net.initialize(mx.init.Xavier())
    net(mx.nd.array(images(2)))
    return net


def test_groups_with_several_outputs_are_refused_before_a_calibration():
    net = grouped((6, 3), (12, 6), (24, 12))
    with pytest.raises(ConfigError, match="(?s)rules of 2 layers: 0: 3 groups with several outputs each.*; 2: 12 grou"):
        convert_model(net, target="mxnet", config_list=[{"op_names": ["1"], "exclude": True}])


def test_groups_with_several_outputs_of_a_model_without_a_plan_are_not_written(tmp_path):
    model = deployed(grouped((6, 3), (12, 6)), TARGET, asked=False)
    with pytest.raises(DeployError, match="(?s)0: 3 groups with several outputs each.*1: 6 groups"):
        TARGET.write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@vnni
def test_groups_with_one_output_and_several_inputs_each(tmp_path):
    assert same(deployed(grouped((12, 1), (4, 4), (8, 1)), TARGET), tmp_path, images(4, 9))[0] > 10000


def test_an_unsettled_model_is_not_written(tmp_path):
    net = nn.HybridSequential(prefix="net_")
    net.add(nn.Conv2D(4, 3), nn.Dense(2))
    net.initialize()
    deployed(net, TARGET)
    with pytest.raises(DeployError, match="(?s)cannot hold this network.*0: what it reads.*1: what it reads"):
        TARGET.write(lower(net, SHAPE, arithmetic=TARGET.arithmetic), tmp_path)
    assert list(tmp_path.iterdir()) == []


def change(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize("which,old,new,said", [
    (0, b"{", b"[", "line"), (0, b'"op": "identity"', b'"op": "Custom"', "is not what this program writes"),
    (0, b'"inputs": [[0, 0, 0]]', b'"inputs": [[999, 0, 0]]', "is not what this program writes"),
    (0, b'"num_filter": "16"', b'"num_filter": "x"', "MXNet cannot load it"),
    (1, b"arg:", b"argu", None), (1, b"\x12\x01", b"\x13\x01", "is not what this program writes"),
    (1, b"\x04\0\0\0", b"\x04\0\0\x7f", "is not what this program writes")])
def test_files_that_somebody_changed(which, old, new, said, model, tmp_path):
    files = TARGET.write(model, tmp_path)
    change(files[which], old, new)
    if said is None:
        Runner(*files)
        return
    with pytest.raises(DeployError, match=said) as error:
        Runner(*files)
    assert str(error.value).startswith(str(files[which]))


@pytest.mark.parametrize("which,old,new", [(0, b'"num_filter": "16"', b'"num_filter": "17"'), (1, b"arg:", b"aux:"),
                                           (0, b'"kernel": "(3, 3)"', b'"kernel": "(0, 3)"')])
def test_mxnet_gets_no_files_but_those_of_the_model(which, old, new, model, tmp_path):
    files = TARGET.write(model, tmp_path)
    TARGET.check_files(model, files)
    change(files[which], old, new)
    with pytest.raises(DeployError, match="is not what this program writes; deploy the network again") as error:
        TARGET.check_files(model, files)
    assert str(error.value).startswith(str(files[which]))


def test_parameters_that_are_cut_off(model, tmp_path):
    files = TARGET.write(model, tmp_path)
    whole = files[1].read_bytes()
    for length in [*range(0, 200, 7), len(whole) - 1]:
        files[1].write_bytes(whole[:length])
        with pytest.raises(DeployError, match="is not what this program writes"):
            Runner(*files)


@vnni
def test_the_command_deploys_and_proves(tmp_path, capsys):
    assert command.main(["--model", "digits_lenet", "--target", "mxnet", "--num-images", "60", "--verify-images", "20",
                         "--latency-runs", "1", "--output", str(tmp_path / "out")]) == 0
    assert "mxnet default" in capsys.readouterr().out
    contents = json.loads((tmp_path / "out" / "certificate.json").read_text())
    found = contents["sides"]["mxnet default"]["codes"]
    assert found["identical"] == found["elements"] and contents["machine"]["mxnet"] == mx.__version__


