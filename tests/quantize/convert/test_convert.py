# SPDX-License-Identifier: MIT

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

from quantize import reference
from quantize.config import Rule
from quantize.convert import (
    bypass_bn,
    convert_model,
    default_convert_fn,
    gen_act_converter,
    gen_conv2d_converter,
    gen_dense_converter,
    merge_bn,
)
from quantize.errors import ConfigError, ConversionError
from quantize.nn import BypassBatchNorm, QActivation, QConv2D, QConv2DTranspose, QDense
from quantize.spec import PerChannel, PerGroup, PerTensor, QuantSpec


def plan(net):
    return {entry.path: entry for entry in net.plan.entries}


def fq(x, spec):
    x = x.asnumpy()
    return mx.nd.array(reference.fake_quantize(x, reference.find_qparams(x, spec), spec))


def test_the_net_is_returned_and_prints_as_quantized(small_net):
    converted = convert_model(small_net)
    assert converted is small_net
    text = repr(converted)
    assert "QConv2D(3 -> 8" in text and "input=int8/layer online, weight=int8/layer online" in text and "QDense" in text


def test_defaults(small_net):
    entries = plan(convert_model(small_net))
    assert entries["0"].input == QuantSpec(8) and entries["3"].input == QuantSpec(8, signed=False)
    assert entries["6"].weight == QuantSpec(8) and entries["6"].input == QuantSpec(8, signed=False)


def test_a_second_conversion_is_refused(small_net):
    convert_model(small_net)
    with pytest.raises(ConversionError, match="converted already"):
        convert_model(small_net)
    outer = nn.HybridSequential()
    outer.add(small_net)
    with pytest.raises(ConversionError, match="converted already"):
        convert_model(outer)


@pytest.mark.parametrize("layer, shape, weight_spec", [
    (nn.Conv2D(8, 3, in_channels=4), (2, 4, 6, 6), QuantSpec(8, granularity=PerChannel(0))),
    (nn.Conv2D(8, 3, in_channels=4, groups=2, strides=2), (2, 4, 6, 6), QuantSpec(4, granularity=PerGroup(2))),
    (nn.Conv2D(4, 3, in_channels=4, groups=4, use_bias=False), (2, 4, 6, 6), QuantSpec(8, granularity=PerGroup(4))),
    (nn.Conv2D(8, 3, in_channels=4, dilation=2, activation="relu"), (2, 4, 9, 9), QuantSpec(3)),
    (nn.Dense(7, in_units=12), (2, 3, 4), QuantSpec(8, granularity=PerChannel(0))),
    (nn.Dense(7, in_units=4, flatten=False, use_bias=False, activation="tanh"), (2, 3, 4), QuantSpec(2)),
    (nn.Conv2DTranspose(6, 3, in_channels=4, strides=2, output_padding=1), (2, 4, 5, 5),
     QuantSpec(8, granularity=PerChannel(1))),
], ids=lambda value: type(value).__name__ if isinstance(value, gluon.Block) else None)
def test_a_layer_computes_with_quantized_operands(layer, shape, weight_spec):
    """The converted layer equals the float layer given fake-quantized input and weight: each operand once, both."""
    net = nn.HybridSequential()
    net.add(layer)
    net.initialize(mx.init.Normal(1))
    x = mx.nd.random.normal(shape=shape)
    net(x)
    weight = layer.weight.data().copy()
    granularity = {PerTensor: "layer", PerChannel: "channel", PerGroup: "group"}[type(weight_spec.granularity)]
    layer.weight.set_data(fq(weight, weight_spec))
    expected = layer(fq(x, QuantSpec(8))).asnumpy()
    layer.weight.set_data(weight)
    convert_model(net, config_list=[{"weight": f"int{weight_spec.bits}/{granularity}", "input": "int8"}])
    assert isinstance(net[0], (QConv2D, QDense, QConv2DTranspose)) and plan(net)["0"].weight == weight_spec
    # a transposed convolution with a computed weight adds in another order
    atol = 1e-5 if isinstance(layer, nn.Conv2DTranspose) else 0
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=0, atol=atol)
    net.hybridize()
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_parameters_keep_names_and_identity(small_net):
    before = small_net.collect_params()
    structural = set(small_net._collect_params_with_prefix())
    convert_model(small_net)
    after = small_net.collect_params()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert structural <= set(small_net._collect_params_with_prefix())


def test_float_checkpoint_loads_into_the_converted_net_and_back(small_net, images, tmp_path):
    path = str(tmp_path / "float.params")
    small_net.save_parameters(path)
    expected = small_net(images).asnumpy()
    convert_model(small_net)
    for parameter in (small_net[0].weight, small_net[6].weight):
        parameter.set_data(parameter.data() * 2)
    small_net.load_parameters(path)
    small_net.disable_quantize()
    np.testing.assert_array_equal(small_net(images).asnumpy(), expected)


@pytest.mark.parametrize("flat", [False, True])
def test_a_checkpoint_that_lacks_a_weight_is_refused(small_net, tmp_path, flat):
    path = str(tmp_path / "part.params")
    if flat:
        small_net.collect_params("(?!.*dense).*").save(path, strip_prefix=small_net.prefix)
    else:
        small_net[:3].save_parameters(path)
    convert_model(small_net)
    with pytest.raises(AssertionError, match="missing"):
        small_net.load_parameters(path)


def test_flat_float_checkpoints_load(small_net, images, tmp_path):
    path = str(tmp_path / "flat.params")
    small_net.collect_params().save(path, strip_prefix=small_net.prefix)
    expected = small_net(images).asnumpy()
    convert_model(small_net)
    small_net[0].weight.set_data(small_net[0].weight.data() * 2)
    small_net.load_parameters(path)
    small_net.disable_quantize()
    np.testing.assert_array_equal(small_net(images).asnumpy(), expected)


@pytest.mark.parametrize("offline", [False, True])
def test_hybridize_export_import_save_and_load_agree(small_net, images, tmp_path, offline):
    from calib.calibrators import MinMax
    from calib.collect import calibrate, observe
    convert_model(small_net, config_list=[{"weight": "int8/channel"}])
    if offline:
        calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
        small_net.quantize_input(enable=True, online=False)
    eager = small_net(images).asnumpy()
    small_net.hybridize()
    hybrid = small_net(images).asnumpy()
    np.testing.assert_allclose(hybrid, eager, rtol=1e-6, atol=1e-6)
    small_net.export(str(tmp_path / "net"))
    imported = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_array_equal(imported(images).asnumpy(), hybrid)
    small_net.save_parameters(str(tmp_path / "q.params"))
    for parameter in small_net.collect_params().values():
        parameter.set_data(parameter.data() * 0)
    small_net.load_parameters(str(tmp_path / "q.params"))
    np.testing.assert_array_equal(small_net(images).asnumpy(), hybrid)


def test_exclude_takes_blocks_and_patterns(small_net):
    entries = plan(convert_model(small_net, exclude=[small_net[0], "6"]))
    assert not entries["0"].quantized and not entries["6"].quantized and entries["3"].quantized
    assert type(small_net[0]) is nn.Conv2D


@pytest.mark.parametrize("arguments, message", [
    (dict(exclude=["features.*"]), "'features.\\*' matches no layer"),
    (dict(exclude=[nn.Dense(3)]), "neither a block of this network nor a path pattern"),
    (dict(exclude="6"), "takes a list"),
    (dict(exclude=["*"]), "nothing to quantize"),
    (dict(config_list=[{"op_names": ["7"], "weight": "int4"}]), "config entry 0: pattern '7' matches no layer"),
    (dict(config_list=[{"op_types": ["Conv3D"]}]), "'Conv3D' cannot be quantized; known: .*did you mean 'Conv2D'"),
    (dict(convert_fn={nn.Conv2D: 8}), "expected a converter"),
    (dict(convert_fn={nn.Conv2D: None}), "nothing to quantize"),
])
def test_rules_that_match_nothing_are_errors(small_net, arguments, message):
    before = repr(small_net)
    with pytest.raises(ConfigError, match=message):
        convert_model(small_net, **arguments)
    assert repr(small_net) == before


def test_later_rules_win_key_by_key(small_net):
    entries = plan(convert_model(small_net, config_list=[
        {"weight": "int4/channel"}, {"op_types": ["Dense"], "weight": "int8/layer", "input": "float"},
        {"op_names": ["0"], "exclude": True}, {"op_names": ["0", "3"], "exclude": False}]))
    assert entries["0"].weight.bits == 4 and entries["3"].input.bits == 8
    assert entries["6"].weight == QuantSpec(8) and entries["6"].input is None


def test_convert_fn_replaces_the_default_table(small_net):
    converted = convert_model(small_net, convert_fn={
        nn.Conv2D: gen_conv2d_converter(weight_width=4, quant_type="group", input_width=6),
        nn.Activation: gen_act_converter(width=5)})
    entries = plan(converted)
    assert entries["3"].weight == QuantSpec(4, granularity=PerGroup(2)) and entries["3"].input.bits == 6
    assert entries["0"].weight == QuantSpec(4) and not entries["6"].quantized
    assert isinstance(small_net[2], QActivation) and entries["2"].output == QuantSpec(5, signed=False)


def test_convert_fn_takes_functions(small_net):
    kept = []
    convert_fn = default_convert_fn()
    convert_fn[nn.BatchNorm] = bypass_bn
    convert_fn[nn.Activation] = kept.append
    convert_model(small_net, convert_fn=convert_fn)
    assert isinstance(small_net[1], BypassBatchNorm) and isinstance(small_net[4], BypassBatchNorm)
    assert [block._act_type for block in kept] == ["relu", "relu"]


def test_frozen_parameters_convert(small_net, images):
    """A fine-tuner's `grad_req = null` is no obstacle, and stays."""
    small_net.collect_params().setattr("grad_req", "null")
    merge_bn(small_net)
    convert_model(small_net)
    assert small_net[0].weight.grad_req == "null" and small_net(images).shape == (4, 5)


def test_hooks_stay_with_the_layer(small_net, images):
    seen = []
    small_net[0].register_forward_hook(lambda block, inputs, output: seen.append(type(block)))
    convert_model(small_net)
    small_net(images)
    assert seen[-1] is QConv2D


def test_dense_group_means_per_unit(small_net):
    entries = plan(convert_model(small_net, convert_fn={nn.Dense: gen_dense_converter(quant_type="group")}))
    assert entries["6"].weight.granularity == PerChannel(0)


def test_unknown_shapes_need_an_example(images):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.Dense(2))
    with pytest.raises(ConversionError, match="pass example_input"):
        convert_model(net)
    net.initialize()
    convert_model(net, example_input=images)
    assert net(images).shape == (4, 2)


def test_conversion_before_initialization(images):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.Dense(2, in_units=144))
    convert_model(net)
    net.initialize()
    assert net(images).shape == (4, 2)


def test_shared_layers_and_plain_attributes_are_replaced():
    class Twice(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 1, in_channels=3)
            self.held = [self.conv]

        def hybrid_forward(self, F, x):
            return self.conv(F.relu(self.held[0](x)))

    net = Twice()
    net.initialize()
    convert_model(net)
    assert isinstance(net.conv, QConv2D) and net.held[0] is net.conv
    assert plan(net)["conv"].input.signed  # one of its two inputs can be negative


def test_a_network_that_cannot_be_traced_gets_signed_inputs(caplog, images):
    class Looks(gluon.Block):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(2, 1, in_channels=3)

        def forward(self, x):
            return self.conv(x.relu() if x.sum().asscalar() > 0 else x)

    net = Looks()
    net.initialize()
    convert_model(net)
    assert "cannot be traced" in caplog.text and plan(net)["conv"].reason == "default, not traced: signed"
    assert net(images).shape == (4, 2, 8, 8)


def test_a_rule_object_is_a_config_entry(small_net):
    entries = plan(convert_model(small_net, config_list=[Rule(op_names=("3",), exclude=True, reason="too slow")]))
    assert entries["3"].reason == "excluded: too slow"


def test_the_plan_prints_every_layer(small_net):
    text = str(convert_model(small_net, exclude=["0"]).plan)
    *lines, shares = text.splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "0", "3", "6"]
    assert shares.startswith("quantized: ") and shares.endswith(" weights")  # no input says how large maps are
    assert "excluded: exclude" in text and "uint8" in text
