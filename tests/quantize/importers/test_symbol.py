# SPDX-License-Identifier: MIT
"""The symbol importer against SymbolBlock: gluoncv's networks, single layers, refusals and damaged files."""

import json
import os
import warnings

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, SymbolBlock, nn

from quantize.errors import DataError, ModelFileError
from quantize.importers.symbol import import_symbol

QUICK = ("mobilenet0.25", "mobilenetv2_0.25", "mobilenetv3_small", "resnet18_v2", "squeezenet1.1", "googlenet",
         "cifar_resnet20_v1", "cifar_resnet20_v2")
SLOW = ("resnet18_v1", "densenet121", "inceptionv3", "mobilenet1.0", "mobilenetv2_1.0", "resnet50_v1d",
        "se_resnext50_32x4d", "vgg11_bn", "alexnet", "xception", "cifar_wideresnet16_10", "cifar_resnext29_16x64d",
        "darknet53", "resnest14", "senet_154", "hrnet_w18_small_v1_c", "residualattentionnet56", "nasnet_4_1056")


def image(*shape):
    return mx.nd.array(np.random.RandomState(0).uniform(-1, 1, shape))


def export(net, folder, x, name="net"):
    """Export `net` with random parameters; returns the symbol file."""
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(x)
    for parameter in net.collect_params().values():
        if parameter.name.endswith(("gamma", "beta", "running_mean", "running_var")):
            parameter.set_data(mx.nd.random.uniform(0.5, 1.5, parameter.shape))
    net.export(str(folder / name))
    return folder / (name + "-symbol.json")


def reference(symbol_file, x):
    params = str(symbol_file).replace("-symbol.json", "-0000.params")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MXNet warns that the input's type is not known
        block = SymbolBlock.imports(str(symbol_file), ["data"], params if mx.nd.load(params) else None)
    return first(block(x))


def first(outputs):
    return (outputs[0] if isinstance(outputs, (list, tuple)) else outputs).asnumpy()


def check(symbol_file, x):
    """Eager, hybridized and re-exported outputs equal SymbolBlock's, and all names stay; returns the block."""
    net = import_symbol(symbol_file)
    want = reference(symbol_file, x)
    np.testing.assert_allclose(first(net(x)), want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    net.hybridize()
    np.testing.assert_allclose(first(net(x)), want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    saved = mx.nd.load(str(symbol_file).replace("-symbol.json", "-0000.params"))
    assert set(net.collect_params()) == {name.split(":")[1] for name in saved}
    again = symbol_file.parent / "again"
    net.export(str(again))
    twice = import_symbol(str(again) + "-symbol.json")
    np.testing.assert_allclose(first(twice(x)), want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    assert list(twice._children) == list(net._children)
    return net


def check_gluoncv(name, folder):
    gluoncv = pytest.importorskip("gluoncv")
    size = 32 if "cifar" in name else 299 if name in ("inceptionv3", "xception") else 224
    x = image(1, 3, size, size)
    return check(export(gluoncv.model_zoo.get_model(name, pretrained=False), folder, x), x)


@pytest.mark.parametrize("name", QUICK)
def test_gluoncv(name, tmp_path):
    check_gluoncv(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_gluoncv_large(name, tmp_path):
    check_gluoncv(name, tmp_path)


def test_names_and_layers_are_those_of_the_export(tmp_path):
    net = check_gluoncv("cifar_resnet20_v1", tmp_path)
    prefix = next(iter(net._children)).rsplit("_", 1)[0]
    conv = net._children[prefix + "_conv0"]
    assert type(conv) is nn.Conv2D and conv.weight.name == prefix + "_conv0_weight"
    assert prefix + "_conv0.weight" in net._collect_params_with_prefix()
    assert {type(child) for child in net._children.values()} == {
        nn.Conv2D, nn.BatchNorm, nn.Activation, nn.GlobalAvgPool2D, nn.Dense}
    assert net.input_shape is None and net.preprocessing is None


LAYERS = {
    "conv": lambda: nn.Conv2D(6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2),
    "conv_no_bias": lambda: nn.Conv2D(6, 3, use_bias=False),
    "deconv": lambda: nn.Conv2DTranspose(6, 3, 2, 1, output_padding=1, groups=2, in_channels=4),
    "deconv_no_bias": lambda: nn.Conv2DTranspose(6, 3, use_bias=False),
    "dense": lambda: nn.Dense(5),
    "dense_last": lambda: nn.Dense(5, flatten=False, use_bias=False),
    "batch_norm": lambda: nn.BatchNorm(epsilon=1e-3, momentum=0.7),
    "batch_norm_no_scale": lambda: nn.BatchNorm(scale=False, center=False),
    "batch_norm_last": lambda: nn.BatchNorm(axis=3, use_global_stats=True),
    "softrelu": lambda: nn.Activation("softrelu"),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(in_channels=4),
    "elu": lambda: nn.ELU(0.5),
    "gelu": lambda: nn.GELU(),
    "max": lambda: nn.MaxPool2D(3, 2, 1),
    "max_ceil": lambda: nn.MaxPool2D(3, 2, ceil_mode=True),
    "average": lambda: nn.AvgPool2D(3, 2, 1, ceil_mode=True),
    "average_exclude": lambda: nn.AvgPool2D(3, 2, 1, count_include_pad=False),
    "global_max": lambda: nn.GlobalMaxPool2D(),
    "global_average": lambda: nn.GlobalAvgPool2D(),
    "flatten": lambda: nn.Flatten(),
    "dropout": lambda: nn.Dropout(0.3),
    "reflect": lambda: nn.ReflectionPad2D(2),
}


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_layer(layer, tmp_path):
    net = nn.HybridSequential()
    net.add(LAYERS[layer]())
    x = image(2, 4, 7, 6)
    imported = check(export(net, tmp_path, x), x)
    if layer not in ("elu", "gelu", "reflect"):
        assert [type(child) for child in imported._children.values()] == [type(net[0])]
        for name, parameter in net.collect_params().items():
            assert imported.collect_params()[name].grad_req == parameter.grad_req or layer == "batch_norm_no_scale"


def test_a_convolution_over_one_axis(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Conv1D(6, 3, 2, 1, 2, groups=2), nn.Conv1D(5, 1, use_bias=False))
    x = image(2, 4, 9)
    imported = check(export(net, tmp_path, x), x)
    assert [type(child) for child in imported._children.values()] == [nn.Conv1D, nn.Conv1D]


class Functions(HybridBlock):
    """Functional operators, a parameter of its own, and one layer called twice."""

    def __init__(self):
        super().__init__(prefix="own_")
        with self.name_scope():
            self.scale = self.params.get("scale", shape=(1, 4, 1, 1))
            self.conv = nn.Conv2D(4, 3, padding=1)

    def hybrid_forward(self, F, x, scale):
        x = self.conv(F.broadcast_mul(x, scale)) + self.conv(x)
        left, right = F.split(x, num_outputs=2, axis=1)
        x = F.concat(F.clip(right, 0, 6) * 2 + 1, 1 - left, F.softmax(left, axis=1), dim=1)
        x = F.UpSampling(F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 0, 2)), scale=2, sample_type="nearest")
        x = F.slice_axis(F.slice(x, begin=(None, 1, 2), end=(None, None, None)), axis=3, begin=1, end=-1)
        return F.reshape(F.transpose(F.broadcast_add(x, x.mean(axis=(2, 3), keepdims=True)), (0, 2, 3, 1)), (0, -1))


def test_functions(tmp_path):
    x = image(2, 4, 6, 6)
    net = check(export(Functions(), tmp_path, x), x)
    assert list(net._children) == ["own_conv0"]
    assert "own_scale" in net.collect_params()


def test_softmax_of_every_place_as_old_detectors_have_it(tmp_path):
    scores = mx.sym.Convolution(mx.sym.var("data"), num_filter=8, kernel=(1, 1), no_bias=True, name="conv")
    weight, x = mx.nd.random.normal(shape=(8, 3, 1, 1)), image(2, 3, 4, 5)
    for mode in ("channel", "instance"):
        mx.model.save_checkpoint(str(tmp_path / "net"), 0, mx.sym.SoftmaxActivation(scores, mode=mode),
                                 {"conv_weight": weight}, {})
        if mode == "channel":
            want = mx.nd.softmax(mx.nd.Convolution(x, weight, num_filter=8, kernel=(1, 1), no_bias=True), axis=1)
            np.testing.assert_allclose(import_symbol(tmp_path / "net-symbol.json")(x).asnumpy(), want.asnumpy(),
                                       rtol=1e-5)
    with pytest.raises(ModelFileError, match="mode='instance'.*softmax"):
        import_symbol(tmp_path / "net-symbol.json")


def test_softmax_output_ignores_its_label(tmp_path):
    data = mx.sym.var("data")
    out = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(data, num_hidden=3, name="fc"), name="softmax")
    out.save(str(tmp_path / "m-symbol.json"))
    weight, bias = image(3, 4), image(3)
    mx.nd.save(str(tmp_path / "m-0000.params"), {"arg:fc_weight": weight, "arg:fc_bias": bias})
    net = import_symbol(tmp_path / "m-symbol.json")
    x = image(2, 4)
    want = mx.nd.softmax(mx.nd.FullyConnected(x, weight, bias, num_hidden=3)).asnumpy()
    np.testing.assert_allclose(net(x).asnumpy(), want, rtol=1e-6)
    assert list(net._children) == ["fc"]


class Doubled(nn.Conv2D):
    def hybrid_forward(self, F, x, weight, bias=None):
        return 2 * super().hybrid_forward(F, x, weight, bias)


def test_a_replaced_child_is_the_one_that_runs(small):
    net, x = import_symbol(small / "net-symbol.json"), image(2, 3, 8, 8)
    conv = net._children["small_conv0"]
    before = net.small_conv0(x).asnumpy()
    net.small_conv0 = Doubled(8, 3, in_channels=3, prefix=conv.prefix, params=conv.params)
    inner = net(mx.sym.var("data")).get_internals().list_outputs()
    net.hybridize()
    net(x)
    np.testing.assert_array_equal(net.small_conv0(x).asnumpy(), 2 * before)
    assert any("mul" in name for name in inner)


@pytest.fixture
def small(tmp_path):
    """A folder with a small exported network, net-symbol.json and net-0000.params."""
    net = nn.HybridSequential(prefix="small_")
    with net.name_scope():
        net.add(nn.Conv2D(8, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Conv2D(4, 1), nn.Dense(5))
    export(net, tmp_path, image(2, 3, 8, 8))
    return tmp_path


def fails(folder, *words, **arguments):
    with pytest.raises(ModelFileError) as error:
        import_symbol(folder / "net-symbol.json", **arguments)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def change(folder, function):
    """Rewrite the parameter file with `function` applied to its dict."""
    path = str(folder / "net-0000.params")
    arrays = mx.nd.load(path)
    function(arrays)
    mx.nd.save(path, arrays)


def test_missing_files(small, tmp_path):
    os.remove(str(small / "net-0000.params"))
    fails(small, "net-symbol.json", "net-0000.params: no such file")
    fails(small, "other.params: no such file", params_file=tmp_path / "other.params")
    os.remove(str(small / "net-symbol.json"))
    fails(small, "net-symbol.json: no such file")


def test_missing_parameter(small):
    change(small, lambda arrays: (arrays.pop("arg:small_conv1_weight"), arrays.pop("aux:small_batchnorm0_running_var")))
    fails(small, "net-0000.params", "'small_batchnorm0_running_var' is missing", "2 missing", "0 extra")


def test_extra_parameter(small):
    change(small, lambda arrays: arrays.update({"arg:stranger": mx.nd.ones((1,))}))
    fails(small, "'stranger' is not in the network", "1 extra")


@pytest.mark.parametrize("name, shape", [
    ("arg:small_conv0_weight", (8, 3, 5, 5)), ("arg:small_conv0_weight", (9, 3, 3, 3)),
    ("arg:small_conv1_weight", (4, 7, 1, 1)), ("arg:small_conv0_bias", (7,)),
    ("arg:small_batchnorm0_gamma", (9,)), ("arg:small_dense0_weight", (5,)), ("arg:small_dense0_bias", (6,))])
def test_misshaped_parameter(small, name, shape):
    change(small, lambda arrays: arrays.update({name: mx.nd.ones(shape)}))
    fails(small, name[4:], str(shape), "1 mis-shaped")


def test_parameters_of_another_network(small, tmp_path):
    other = nn.HybridSequential(prefix="other_")
    with other.name_scope():
        other.add(nn.Conv2D(8, 3))
    export(other, tmp_path, image(2, 3, 8, 8), "other")
    fails(small, "another network", "10 missing", "2 extra", params_file=tmp_path / "other-0000.params")


def test_parameter_that_is_not_finite(small):
    change(small, lambda arrays: arrays.update({"arg:small_conv0_bias": mx.nd.array([np.nan] * 8)}))
    fails(small, "'small_conv0_bias'", "NaN")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["net-symbol.json", "net-0000.params"])
def test_truncated(small, name, share):
    path = small / name
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    fails(small, name)


@pytest.mark.parametrize("content", ["[]", "{}", '{"nodes": [1], "heads": []}', '"text"', "\x89PNG"])
def test_other_json(small, content):
    (small / "net-symbol.json").write_text(content)
    fails(small, "net-symbol.json")


def test_other_parameter_file(small):
    (small / "net-0000.params").write_bytes(b"these are no parameters " * 9)
    fails(small, "net-0000.params")


def rewrite(folder, **changes):
    """Change entries of the first node of an operator: rewrite(folder, Convolution={...})."""
    path = folder / "net-symbol.json"
    content = json.loads(path.read_text())
    for op, entries in changes.items():
        for node in content["nodes"]:
            if node["op"] == op:
                node.update(entries.pop("node", {}))
                node.setdefault("attrs", {}).update(entries)
    path.write_text(json.dumps(content))


def test_all_unsupported_nodes_are_named(small):
    rewrite(small, Convolution={"layout": "NHWC"}, Activation={"node": {"op": "Wonder"}})
    os.remove(str(small / "net-0000.params"))
    (small / "net-0000.params").write_bytes(b"")
    fails(small, "net-symbol.json", "NHWC", "(node 'small_conv0_fwd')", "(node 'small_conv1_fwd')",
          "Wonder: unknown operator")


def test_missing_attribute(small):
    path = small / "net-symbol.json"
    path.write_text(path.read_text().replace('"num_hidden"', '"hidden"'))
    fails(small, "FullyConnected: attribute 'num_hidden' is missing", "'small_dense0_fwd'")


def test_output_that_does_not_exist(small):
    path = small / "net-symbol.json"
    content = json.loads(path.read_text())
    content["heads"] = [[1, 1, 0]]
    path.write_text(json.dumps(content))
    fails(small, "net-symbol.json")


def test_inside_another_block_and_on_several_devices(small):
    devices, x = [mx.cpu(0), mx.cpu(1)], image(2, 3, 8, 8)
    imported = import_symbol(small / "net-symbol.json", ctx=devices)
    outer = nn.HybridSequential()
    outer.add(imported, nn.Activation("relu"))
    outer.hybridize()
    want = np.maximum(reference(small / "net-symbol.json", x), 0)
    for device in devices:
        np.testing.assert_allclose(outer(x.as_in_context(device)).asnumpy(), want, rtol=1e-5, atol=1e-6)


def test_several_inputs(tmp_path):
    (mx.sym.var("data") + mx.sym.var("more")).save(str(tmp_path / "net-symbol.json"))
    mx.nd.save(str(tmp_path / "net-0000.params"), {})
    net = import_symbol(tmp_path / "net-symbol.json")
    assert net.input_names == ("data", "more") and net.input_shapes == (None, None)
    x, more = image(2, 3), image(2, 3)
    for hybridized in (False, True):
        net.hybridize(hybridized)
        assert net(x, more).asnumpy().tolist() == (x + more).asnumpy().tolist()
    with pytest.raises(DataError, match="takes 2 inputs .data, more., it was given 1"):
        net(image(2, 3))


def test_no_input(tmp_path):
    (2 * mx.sym.var("known")).save(str(tmp_path / "net-symbol.json"))
    mx.nd.save(str(tmp_path / "net-0000.params"), {"arg:known": image(2, 3)})
    fails(tmp_path, "the network has no input")


@pytest.mark.parametrize("key, value", [("stride", "(0, 0)"), ("dilate", "(1, -1)"), ("kernel", "(0, 3)"), (
    "num_group", "0"), ("num_filter", "a"), ("pad", "(-1, 0)"), ("kernel", "-" * 3000 + "1"), ("stride", "(1, 2, 3)")])
def test_options_out_of_range(key, value, tmp_path):
    symbol_file = export(nn.Conv2D(4, 3, in_channels=3), tmp_path, image(1, 3, 8, 8))
    content = json.loads(symbol_file.read_text())
    for entry in content["nodes"]:
        if entry["op"] == "Convolution":
            entry["attrs"][key] = value
    symbol_file.write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=f"Convolution: .*{key}"):
        import_symbol(symbol_file)


@pytest.mark.parametrize("change", [dict(attrs=5), dict(op=[]), dict(name=7), dict(inputs=[[0, "a", 0]]),
                                    dict(inputs=3)])
def test_nodes_of_other_kinds(change, tmp_path):
    symbol_file = export(nn.Conv2D(4, 3, in_channels=3), tmp_path, image(1, 3, 8, 8))
    content = json.loads(symbol_file.read_text())
    next(entry for entry in content["nodes"] if entry["op"] == "Convolution").update(change)
    symbol_file.write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="not a symbol file"):
        import_symbol(symbol_file)


def test_a_file_nested_without_end(tmp_path):
    (tmp_path / "deep-symbol.json").write_text("[" * 100000)
    mx.nd.save(str(tmp_path / "deep-0000.params"), {})
    with pytest.raises(ModelFileError, match="not a symbol file"):
        import_symbol(tmp_path / "deep-symbol.json")


@pytest.mark.parametrize("layer", [lambda: nn.InstanceNorm(in_channels=4), lambda: nn.LayerNorm(axis=1, in_channels=4),
                                   lambda: nn.GroupNorm(num_groups=2)])
def test_normalisations_by_the_image_are_layers(layer, tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), layer())
    x = image(2, 3, 8, 8)
    assert type(layer()) in {type(child) for child in check(export(net, tmp_path, x), x)._children.values()}
