# SPDX-License-Identifier: MIT
"""Quantized ONNX files become the quantized networks that they are."""

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantize.convert.stored import restore
from quantize.errors import ConversionError
from quantize.importers.onnx import import_onnx
from quantize.modes import disable_quantize, quantized_layers

ort = pytest.importorskip("onnxruntime")
SHAPE = (3, 9, 8)


class File:
    """A file in the making: convolution, ReLU that only the grid holds, residual addition, average, fully connected."""

    def __init__(self, activation=np.uint8, weight=np.int8, per_channel=True):
        self.random = np.random.RandomState(2)
        self.nodes, self.arrays, self.types = [], {}, (activation, weight, per_channel)

    def constant(self, name, value):
        self.arrays[name] = np.asarray(value)
        return name

    def rounded(self, tensor, scale, zero):
        """QuantizeLinear and DequantizeLinear; `zero` as uint8."""
        kind = self.types[0]
        zero = zero if kind is np.uint8 else zero - 128
        numbers = [self.constant(tensor + "_s", np.float32(scale)), self.constant(tensor + "_z", kind(zero))]
        self.nodes += [helper.make_node("QuantizeLinear", [tensor, *numbers], [tensor + "_q"]),
                       helper.make_node("DequantizeLinear", [tensor + "_q", *numbers], [tensor + "_d"])]
        return tensor + "_d"

    def weight(self, name, shape, axis=0, low=-127):
        _, kind, per_channel = self.types
        shift = 128 if kind is np.uint8 else 0
        codes = self.random.randint(low, 128, shape)
        count = shape[axis] if per_channel else 1
        scale = self.random.uniform(0.001, 0.01, count).astype(np.float32)
        zeros = np.full(count, shift, kind)
        numbers = (scale, zeros) if per_channel else (scale[0], zeros[0])
        names = [self.constant(name + "_q", (codes + shift).astype(kind)), self.constant(name + "_s", numbers[0]),
                 self.constant(name + "_z", numbers[1])]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [name], axis=axis))
        return name

    def network(self):
        """The outputs' name is y."""
        x = self.rounded("x", 0.02, 118)
        bias = self.constant("b1", self.random.randn(6).astype(np.float32))
        self.nodes.append(helper.make_node("Conv", [x, self.weight("w1", (6, 3, 3, 3)), bias], ["c1"], pads=[1] * 4,
                                           name="first"))
        a = self.rounded("c1", 0.01, 0)  # the ReLU is in the grid
        self.nodes.append(helper.make_node("Conv", [a, self.weight("w2", (6, 6, 1, 1))], ["c2"], name="second"))
        self.nodes.append(helper.make_node("Add", [a, self.rounded("c2", 0.02, 128)], ["sum"], name="sum"))
        self.nodes.append(helper.make_node("GlobalAveragePool", [self.rounded("sum", 0.03, 60)], ["mean"], name="mean"))
        self.nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], name="flat"))
        flat = self.rounded("flat", 0.01, 50)
        self.nodes.append(helper.make_node("Gemm", [flat, self.weight("w3", (6, 4), axis=1)], ["y"], name="last"))

    def save(self, path):
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
            [numpy_helper.from_array(array, name) for name, array in self.arrays.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def images(count=5):
    return np.random.RandomState(3).randn(count, *SHAPE).astype(np.float32)


def in_ort(path):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options).run(None, {"x": images()})[0]


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
@pytest.mark.parametrize("weight, per_channel", [(np.int8, True), (np.uint8, True), (np.int8, False)])
def test_it_computes_what_the_file_computes(activation, weight, per_channel, tmp_path):
    file = File(activation, weight, per_channel)
    file.network()
    path = file.save(tmp_path / "q.onnx")
    imported = import_onnx(path, keep_grids=True)
    net = restore(imported, imported.grids)
    found = net(mx.nd.array(images())).asnumpy()
    wanted = in_ort(path)
    assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()
    entries = {entry.path: entry for entry in net.plan.entries if entry.quantized}
    granularity = "channel" if per_channel else "layer"
    assert {name: (str(entry.weight), str(entry.input)) for name, entry in entries.items() if entry.weight} == {
        "first": (f"int8/{granularity}/even", "int8 asymmetric/layer/even"),
        "second": (f"int8/{granularity}/even", "uint8/layer/even"),
        "last": (f"int8/{granularity}/even", "int8 asymmetric/layer/even")}
    places = {name: str(entry.output) for name, entry in entries.items() if entry.op_type == "Place"}
    assert sorted(places.values()) == ["int8 asymmetric/layer/even", "int8/layer/full/even", "uint8/layer/even"]


def test_codes_and_ranges_are_kept(tmp_path):
    file = File()
    file.network()
    imported = import_onnx(file.save(tmp_path / "q.onnx"), keep_grids=True)
    layers = dict(quantized_layers(restore(imported, imported.grids)))
    for name, stored, shape in (("first", "w1", (-1, 1, 1, 1)), ("second", "w2", (-1, 1, 1, 1))):
        scale = file.arrays[stored + "_s"].reshape(shape)
        assert np.array_equal(layers[name].weight.data().asnumpy(), file.arrays[stored + "_q"] * scale)
        assert np.array_equal(layers[name].weight_quantizer.get_qparams().scale.ravel(), file.arrays[stored + "_s"])
    numbers = layers["first"].input_quantizer.get_qparams()
    assert numbers.scale == np.float32(0.02) and numbers.zero_point == 118 - 128


def test_in_float_a_relu_stands_where_the_grid_held_it(tmp_path):
    file = File()
    file.network()
    imported = import_onnx(file.save(tmp_path / "q.onnx"), keep_grids=True)
    net = restore(imported, imported.grids)
    disable_quantize(net)
    x = mx.nd.array(images())
    net(x)
    relus = [name for name, child in net._children.items() if type(child).__name__ in ("Activation", "SkippableReLU")]
    assert len(relus) == 1
    assert np.isfinite(net(x).asnumpy()).all()


def test_without_being_asked_it_is_a_block_of_operators(tmp_path):
    file = File()
    file.network()
    path = file.save(tmp_path / "q.onnx")
    net = import_onnx(path)
    assert net.grids == {}
    assert np.abs(net(mx.nd.array(images())).asnumpy() - in_ort(path)).max() < 1e-4


def test_weights_that_no_symmetric_grid_holds_are_named(tmp_path):
    file = File()
    file.network()
    file.arrays["w1_z"] = np.full(6, 3, np.int8)
    file.arrays["w2_q"][0, 0] = -128
    imported = import_onnx(file.save(tmp_path / "q.onnx"), keep_grids=True)
    with pytest.raises(ConversionError, match="not symmetric.*first: weight codes with zero points.*second.*-128"):
        restore(imported, imported.grids)


def in_integer_operators(path, folder):
    """The file as ONNX Runtime optimizes it: QLinearConv, QLinearAdd, QGemm and their like."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "integers.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options)
    return folder / "integers.onnx"


def pooled(file):
    """The network with a maximum between codes, and an average of windows."""
    file.network()
    at = next(place for place, node in enumerate(file.nodes) if node.op_type == "GlobalAveragePool")
    source = file.nodes[at].input[0]
    before, after, file.nodes = file.nodes[:at], file.nodes[at:], []
    file.nodes.append(helper.make_node("MaxPool", [source], ["most"], kernel_shape=[2, 2], name="most"))
    most = file.rounded("most", 0.03, 60)
    file.nodes.append(helper.make_node("AveragePool", [most], ["window"], kernel_shape=[2, 2], name="window"))
    after[0].input[0] = file.rounded("window", 0.02, 50)
    file.nodes = before + file.nodes + after


@pytest.mark.parametrize("make", [File.network, pooled])
def test_operators_in_integers_are_the_same_network(make, tmp_path):
    """Layers, grids and codes are those of the file that ONNX Runtime made them from."""
    file = File()
    make(file)
    path = file.save(tmp_path / "q.onnx")
    integers = in_integer_operators(path, tmp_path)
    kinds = {node.op_type for node in onnx.load(str(integers)).graph.node}
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= kinds and not {"Conv", "Add", "Gemm"} & kinds
    nets = []
    for source in (path, integers):
        imported = import_onnx(source, keep_grids=True)
        nets.append(restore(imported, imported.grids))
    layers = [[layer for _, layer in quantized_layers(net) if hasattr(layer, "weight")] for net in nets]
    assert [len(found) for found in layers] == [3, 3]
    for one, other in zip(*layers):
        assert np.array_equal(one.weight.data().asnumpy(), other.weight.data().asnumpy())
        for name in ("weight_quantizer", "input_quantizer"):
            first, second = (getattr(layer, name).get_qparams() for layer in (one, other))
            assert np.array_equal(first.scale, second.scale) and np.array_equal(first.zero_point, second.zero_point)
    wanted, found = (net(mx.nd.array(images())).asnumpy() for net in nets)
    assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()  # biases are whole numbers there


def test_operators_in_integers_are_operators_without_being_asked(tmp_path):
    file = File()
    pooled(file)
    integers = in_integer_operators(file.save(tmp_path / "q.onnx"), tmp_path)
    found = import_onnx(integers)(mx.nd.array(images())).asnumpy()
    wanted = ort.InferenceSession(str(integers)).run(None, {"x": images()})[0]
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
