# SPDX-License-Identifier: MIT
"""NNI's quantizers on Gluon networks: the examples of its documentation, files and back, steps, schemes."""

import json

import gluoncv.nn
import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn
from mxnet.gluon.model_zoo.vision.mobilenet import RELU6

from calib.calibrators import CALIBRATORS
from quantize import reference
from quantize.convert import convert_to_relu6
from quantize.errors import CalibrationError, ConfigError, ConversionError
from quantize.importers.onnx import import_onnx
from quantize.interfaces.nni import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    QAT_Quantizer,
    QATQuantizer,
    set_quant_scheme_dtype,
)
from quantize.modes import quantizers
from quantize.nn import BypassBatchNorm
from quantize.spec import QuantSpec

# as in the documentation, for networks that have Linear layers too
CONFIG = [{"quant_types": ["weight", "input"], "quant_bits": {"weight": 8, "input": 8}, "op_types": ["Conv2d"]}]
ALL = [{"quant_types": ["weight", "input"], "quant_bits": 4, "op_types": ["default"]}]
SIGNS = [{"quant_types": ["weight"], "quant_bits": 1, "op_types": ["Conv2d"]},
         {"quant_types": ["output"], "quant_bits": 1, "op_types": ["ReLU"]}]


def modes_of(net, kind="activation"):
    return [quantizer.mode for _, quantizer in quantizers(net, kind)]


@pytest.mark.parametrize(("name", "text"), [
    ("Conv3d", "config_list[0]: 'op_types': the network has no Conv3d that can be quantized; it has "),
    ("ReLu", "; did you mean 'ReLU'?"), ("ReLU6", "the network has no ReLU6"), ("Liner", "; did you mean 'Linear'?")])
def test_a_type_that_no_layer_has_is_warned_about(small_net, caplog, name, text):
    config = [{"quant_types": ["weight", "output"], "op_types": [name]}, *CONFIG]
    net = QATQuantizer(small_net, config).compress()
    assert text in caplog.text and caplog.text.count("WARNING") == 1
    assert sorted(path for path, _ in quantizers(net)) == sorted(
        f"{layer}.{operand}_quantizer" for layer in "03" for operand in ("input", "weight"))


def test_a_type_is_warned_about_beside_one_that_is_there(small_net, caplog):
    QATQuantizer(small_net, [{"quant_types": ["weight"], "op_types": ["Conv2d", "GRU"]}]).compress()
    assert "the network has no GRU" in caplog.text


@pytest.mark.parametrize("make", [RELU6, gluoncv.nn.ReLU6])
def test_relu6_finds_the_blocks_of_gluon_and_gluoncv(images, make):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), make(), nn.Dense(2))
    net.initialize()
    net(images)
    relu = net[1]
    before = relu(images * 9).asnumpy()
    quantizer = QATQuantizer(net, [{"quant_types": ["output"], "quant_bits": 8, "op_types": ["ReLU6"],
                                    "quant_dtype": "uint", "quant_scheme": "per_tensor_affine"}])
    np.testing.assert_array_equal(net[1](images * 9).asnumpy(), before)
    net = quantizer.compress()
    assert [path for path, _ in quantizers(net)] == ["1.output_quantizer"]
    out = net[1](images * 9).asnumpy()
    assert len(np.unique(out)) <= 256 and np.abs(out - before).max() < 6 / 255


class RELU6Twice(RELU6):
    def hybrid_forward(self, F, x):
        return 2 * super().hybrid_forward(F, x)


def test_what_computes_something_else_is_no_relu6(images, caplog):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), RELU6Twice())
    net.initialize()
    QATQuantizer(net, [{"quant_types": ["output"], "op_types": ["ReLU6"]}, *CONFIG])
    assert "the network has no ReLU6" in caplog.text and type(net[1]) is RELU6Twice


@pytest.fixture
def make_net(small_net):
    """Function of a parameter file: a second float network of the same shape."""
    def make(path):
        net = nn.HybridSequential(prefix="small_")
        with net.name_scope():
            net.add(nn.Conv2D(8, 3, padding=1, use_bias=False), nn.BatchNorm(epsilon=1e-3), nn.Activation("relu"),
                    nn.Conv2D(8, 3, groups=2), nn.BatchNorm(scale=False), nn.Activation("relu"), nn.Dense(5))
        net.load_parameters(str(path))
        return net
    return make


@pytest.mark.parametrize("cls, config, folded", [
    (QATQuantizer, CONFIG, True), (QATQuantizer, ALL, False), (LsqQuantizer, ALL, True), (LsqQuantizer, CONFIG, False),
    (DoReFaQuantizer, CONFIG, False), (BNNQuantizer, SIGNS, False),
])
def test_a_loop_trains_and_files_give_the_same_network_again(cls, config, folded, small_net, images, trainer, fit,
                                                             make_net, tmp_path):
    small_net.hybridize()
    extra = {"dummy_input": images} if folded else {}
    quantizer = cls(small_net, config, trainer, **extra)
    assert quantizer.compress() is small_net
    assert isinstance(small_net[1], BypassBatchNorm) == folded
    losses = fit(12)
    assert losses[-1] < 0.8 * losses[0] and quantizer.steps == 12
    quantizer.eval()
    expected = small_net(images).asnumpy()
    np.testing.assert_array_equal(small_net(images).asnumpy(), expected)
    exported = quantizer.export_model(tmp_path / "net.params", tmp_path / "ranges.json")
    assert json.loads((tmp_path / "ranges.json").read_text()) == exported
    again = make_net(tmp_path / "net.params")
    loaded = cls(again, config, None, **extra)
    loaded.compress()
    loaded.load_calibration_config(str(tmp_path / "ranges.json"))
    again.hybridize()
    np.testing.assert_array_equal(again(images).asnumpy(), expected)
    small_net.export(str(tmp_path / "symbol"))
    imported = gluon.SymbolBlock.imports(str(tmp_path / "symbol-symbol.json"), ["data"],
                                         str(tmp_path / "symbol-0000.params"))
    np.testing.assert_allclose(imported(images).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_unfolded_weights_are_exported(small_net, images, trainer, fit, make_net, tmp_path):
    quantizer = QAT_Quantizer(small_net, CONFIG, trainer, dummy_input=images)
    quantizer.compress()
    fit(2)
    quantizer.export_model(tmp_path / "net.params")
    again = make_net(tmp_path / "net.params")
    for index in (0, 1, 3, 4, 6):
        for ours, theirs in zip(small_net[index].params.values(), again[index].params.values()):
            if "quantizer" not in ours.name and ours.shape == theirs.shape:
                np.testing.assert_array_equal(ours.data().asnumpy(), theirs.data().asnumpy())
    small_net.disable_quantize()
    np.testing.assert_allclose(again(images).asnumpy(), small_net(images).asnumpy(), rtol=1e-4, atol=1e-4)


def test_what_export_says_is_the_grid(small_net, images, trainer, fit, tmp_path):
    config = [{"quant_types": ["weight", "input", "output"], "op_types": ["Linear"],
               "quant_bits": {"weight": 4, "input": 8, "output": 6}}]
    quantizer = QATQuantizer(small_net, config, trainer)
    quantizer.compress()
    fit(3)
    found = quantizer.export_model(tmp_path / "net.params")["6"]
    spec = QuantSpec(4, signed=False, symmetric=False)
    expected = reference.find_qparams(small_net[6].weight.data().asnumpy(), spec)
    assert (found["weight_bits"], found["input_bits"], found["output_bits"]) == (4, 8, 6)
    assert found["weight_scale"] == pytest.approx(float(expected.scale[0]), rel=1e-6)
    assert found["weight_zero_point"] == int(expected.zero_point[0])
    for operand, codes in (("weight", 15), ("input", 255), ("output", 63)):
        low, high = found["tracked_min_" + operand], found["tracked_max_" + operand]
        assert low <= 0 <= high and high - low == pytest.approx(codes * found[operand + "_scale"])
    quantizer.eval()
    values = small_net(images).asnumpy() / found["output_scale"]
    np.testing.assert_allclose(values, np.round(values), atol=1e-3)


def test_the_onnx_file_is_the_float_network(small_net, images, trainer, fit, tmp_path):
    quantizer = QATQuantizer(small_net, CONFIG, trainer, dummy_input=images)
    quantizer.compress()
    fit(2)
    quantizer.export_model(tmp_path / "net.params", onnx_path=tmp_path / "net.onnx", input_shape=images.shape)
    small_net.disable_quantize()
    expected = small_net(images).asnumpy()
    imported = import_onnx(str(tmp_path / "net.onnx"))
    np.testing.assert_allclose(imported(images).asnumpy(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="onnx_path needs input_shape"):
        quantizer.export_model(tmp_path / "net.params", onnx_path=tmp_path / "net.onnx")


def test_signs_have_one_grid(small_net, tmp_path):
    quantizer = BNNQuantizer(small_net, SIGNS)
    quantizer.compress()
    found = quantizer.export_model(tmp_path / "net.params")
    assert [found["0"][key] for key in ("weight_scale", "tracked_min_weight", "tracked_max_weight")] == [2, -1, 1]
    assert [found["2"][key] for key in ("output_scale", "output_bits")] == [2, 1]


def test_a_zero_point_clips_nothing_and_warns_of_nothing(small_net, caplog):
    QATQuantizer(small_net, CONFIG).compress()
    assert str(small_net[0].input_quantizer.spec) == "uint8 asymmetric/layer"
    assert "below zero" not in caplog.text and "forced" not in str(small_net.plan)


def test_training_goes_on_after_an_export_and_evaluation(small_net, images, trainer, fit, tmp_path):
    quantizer = QATQuantizer(small_net, ALL, trainer)
    quantizer.compress()
    fit(2)
    quantizer.export_model(tmp_path / "net.params")
    assert set(modes_of(small_net)) == {"ema"}
    quantizer.eval()
    ranges = [q.ema.data().asnumpy() for _, q in quantizers(small_net, "activation")]
    small_net(images * 100)
    quantizer.export_model(tmp_path / "net.params")
    assert set(modes_of(small_net)) == {"offline"}
    quantizer.train()
    for before, (_, after) in zip(ranges, quantizers(small_net, "activation")):
        np.testing.assert_array_equal(after.ema.data().asnumpy(), before)
    assert set(modes_of(small_net)) == {"ema"}


def test_quantization_starts_at_its_step(small_net, images, trainer, fit):
    """The documentation's second example of a config, with one more entry."""
    convert_to_relu6(small_net)
    quantizer = QATQuantizer(small_net, [
        {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"], "quant_dtype": "int",
         "quant_scheme": "per_channel_symmetric"},
        {"quant_types": ["output"], "quant_bits": 8, "quant_start_step": 3, "op_types": ["ReLU6"],
         "quant_dtype": "uint", "quant_scheme": "per_tensor_affine"}], trainer)
    quantizer.compress()
    rows = {entry.path: (str(entry.weight), str(entry.output)) for entry in small_net.plan.entries}
    assert rows == {"0": ("int8/channel", "None"), "2": ("None", "uint8 asymmetric/layer"),
                    "3": ("int8/channel", "None"), "5": ("None", "uint8 asymmetric/layer"),
                    "6": ("int8/channel", "None")}
    assert (modes_of(small_net), modes_of(small_net, "weight")) == (["float"] * 2, ["online"] * 3)
    fit(2)
    assert modes_of(small_net) == ["float"] * 2
    fit(1)
    assert modes_of(small_net) == ["ema"] * 2
    assert float(small_net[2](images * 100).max().asscalar()) < 7
    quantizer.steps = 1
    assert quantizer.steps == 1


def test_lsq_starts_from_the_first_quantized_batch(small_net, images, trainer, fit):
    config = [dict(ALL[0], quant_start_step=2)]
    LsqQuantizer(small_net, config, trainer).compress()
    held = small_net[3].input_quantizer
    fit(2)
    assert not held.calibrated and held.mode == "ema"
    fit(1)
    assert held.mode == "offline"
    assert held.threshold[0] == pytest.approx(float(small_net[2](small_net[1](small_net[0](images))).max().asscalar()),
                                              rel=0.5)
    fit(3)
    growth = [q.growth.data().asnumpy() for _, q in quantizers(small_net)]
    assert len(growth) == 6 and all(np.abs(values).max() > 0 for values in growth)
    assert trainer._optimizer.param_dict[trainer._param2idx[held.growth.name]] is held.growth


def test_the_last_entry_counts_whole(small_net):
    QATQuantizer(small_net, [
        {"quant_types": ["weight", "input"], "quant_bits": 4, "op_types": ["Conv2d", "Linear"]},
        {"quant_types": ["input"], "op_names": ["3"]},
        {"op_names": ["6"], "exclude": True}]).compress()
    entries = {entry.path: entry for entry in small_net.plan.entries}
    assert entries["0"].weight.bits == 4 and entries["0"].input.bits == 4
    assert entries["3"].weight is None and entries["3"].input.bits == 8
    assert not entries["6"].quantized


@pytest.mark.parametrize("types", [["Conv2D", "Dense"], ["Conv2d", "Linear"], ["default"]])
def test_types_have_several_names(small_net, types):
    quantizer = QATQuantizer(small_net, [{"quant_types": ["weight"], "op_types": types}])
    assert [setting.path for setting in quantizer.settings] == ["0", "3", "6"]


def test_defaults_hold_until_the_config_says_otherwise(small_net):
    set_quant_scheme_dtype("input", "per_tensor_symmetric", "uint")
    set_quant_scheme_dtype("weight", "per_channel_symmetric")
    QATQuantizer(small_net, [
        {"quant_types": ["weight", "input"], "op_types": ["Conv2d", "Linear"]},
        {"quant_types": ["weight", "input"], "op_types": ["Linear"],
         "quant_scheme": {"weight": "per_tensor_affine"}, "quant_dtype": {"weight": "int", "input": "int"}}]).compress()
    assert [(str(entry.weight), str(entry.input)) for entry in small_net.plan.entries] == [
        ("int8/channel", "int8/layer"), ("int8/channel", "uint8/layer"), ("int8 asymmetric/layer", "int8/layer")]
    for arguments, message in ((("bias",), "quant_type must be one of weight, input, output, got 'bias'"),
                               (("input", "affine"), "new_scheme must be one of"),
                               (("input", None, "int8"), "new_dtype must be one of int, uint, got 'int8'")):
        with pytest.raises(ConfigError, match=message):
            set_quant_scheme_dtype(*arguments)


def test_naive_rounds_weights_at_once(small_net, images):
    before = {i: small_net[i].weight.data().asnumpy() for i in (0, 3, 6)}
    net = NaiveQuantizer(small_net).compress()
    for index, weight in before.items():
        expected = reference.fake_quantize(weight, reference.find_qparams(weight, QuantSpec(8)), QuantSpec(8))
        np.testing.assert_array_equal(net[index].weight.data().asnumpy(), expected)
    hybrid = net(images).asnumpy()
    net.hybridize()
    np.testing.assert_allclose(net(images).asnumpy(), hybrid, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="'quant_types': this quantizer quantizes weight, not input"):
        NaiveQuantizer(small_net, CONFIG)


@pytest.mark.parametrize("calibrator", [None, CALIBRATORS.get("mse")()])
def test_the_observer_watches_and_then_quantizes(small_net, images, calibrator):
    small_net.hybridize()
    expected = small_net(images).asnumpy()
    quantizer = ObserverQuantizer(small_net, CONFIG, calibrator=calibrator)
    np.testing.assert_array_equal(small_net(images).asnumpy(), expected)
    small_net(images[:2])
    quantizer.compress()
    after = small_net(images).asnumpy()
    assert 0 < np.abs(after - expected).max() < 0.1 * np.abs(expected).max()
    assert small_net._active and set(modes_of(small_net)) == {"offline"}
    if calibrator is None:
        values = images.asnumpy()
        wanted = reference.qparams_of_range(values.min(), values.max(), QuantSpec(8, signed=False, symmetric=False))
        found = small_net[0].input_quantizer.get_qparams()
        assert found.scale[0] == pytest.approx(float(wanted.scale)) and found.zero_point[0] == wanted.zero_point
        assert str(small_net[0].weight_quantizer.spec) == "int8/layer"


def test_an_observer_that_saw_nothing_says_so(small_net):
    with pytest.raises(CalibrationError, match=r"0.input_quantizer: was not observed; run the network on some images"):
        ObserverQuantizer(small_net, CONFIG).compress()


@pytest.mark.parametrize("entry, message", [
    ({"quant_type": ["weight"], "op_types": ["Conv2d"]}, "unknown key 'quant_type'.*did you mean 'quant_types'"),
    ({"quant_types": "weight", "op_types": ["Conv2d"]}, "'quant_types' must be a list of weight, input and output"),
    ({"quant_types": ["bias"], "op_types": ["Conv2d"]}, "'quant_types' must be a list of weight, input and output"),
    ({"quant_types": ["weight"], "quant_bits": 0, "op_types": ["Conv2d"]}, "'quant_bits' must be .* got 0"),
    ({"quant_types": ["weight"], "quant_bits": {"bias": 8}, "op_types": ["Conv2d"]}, "'quant_bits' must be"),
    ({"quant_types": ["weight"], "quant_start_step": -1, "op_types": ["Conv2d"]}, "'quant_start_step' must be"),
    ({"quant_types": ["weight"], "quant_dtype": "int8", "op_types": ["Conv2d"]}, "'quant_dtype' must be one of int, "),
    ({"quant_types": ["weight"], "quant_scheme": "symmetric", "op_types": ["Conv2d"]}, "'quant_scheme' must be one of"),
    ({"quant_types": ["weight"], "op_types": ["Conv2d"], "exclude": "yes"}, "'exclude' must be true or false"),
    ({"quant_types": ["weight"]}, "'op_types' or 'op_names' is needed"),
    ({"op_types": ["Conv2d"]}, "'quant_types' is needed"),
    ({"quant_types": ["weight"], "op_types": ["Conv3d"]}, "leaves every layer of the network float"),
    ({"quant_types": ["weight"], "op_names": ["conv1"]}, "'op_names': the network has no layer 'conv1'.*it has 0, 2,"),
    ({"quant_types": ["weight"], "op_names": ["0"], "op_types": ["Linear"]}, "no layer fits both"),
    ({"quant_types": ["weight"], "op_types": ["ReLU"]}, r"2 \(Activation\) has only an output that can be quantized"),
    ({"op_types": ["Conv2d"], "exclude": True}, "leaves every layer of the network float"),
    (["Conv2d"], "must be a dictionary"),
])
def test_errors_name_entry_and_key(small_net, entry, message):
    with pytest.raises(ConfigError, match=message) as raised:
        QATQuantizer(small_net, [entry])
    assert "config_list" in str(raised.value)


@pytest.mark.parametrize("cls, scheme, types, message", [
    (LsqQuantizer, "per_tensor_affine", ["weight"], "'quant_scheme' of weight must be per_tensor_symmetric or per_ch"),
    (DoReFaQuantizer, "per_channel_symmetric", ["weight"], "'quant_scheme' of weight must be per_tensor_symmetric for"),
    (QATQuantizer, "per_channel_affine", ["input"], "'quant_scheme' of input must be per_tensor_affine or per_tensor"),
])
def test_schemes_that_a_method_cannot_do(small_net, cls, scheme, types, message):
    with pytest.raises(ConfigError, match=r"config_list\[0\]: " + message):
        cls(small_net, [{"quant_types": types, "op_types": ["Conv2d"], "quant_scheme": scheme}]).compress()


@pytest.mark.parametrize("change, message", [
    (lambda found: {"9": found["0"]}, "no quantized layer '9'"),
    (lambda found: {"0": dict(found["0"], input_bits=4)}, "0: input has 8 bits here, the config says 4 bits"),
    (lambda found: {"0": dict(found["0"], output_bits=8)}, "0: output has no quantizer here"),
    (lambda found: {"0": dict(found["0"], input_scale=[1, 2])}, "'input_scale' and 'input_zero_point' must be 1 "),
])
def test_a_calibration_of_another_network_is_refused(small_net, images, trainer, fit, tmp_path, change, message):
    quantizer = QATQuantizer(small_net, CONFIG, trainer)
    quantizer.compress()
    fit(1)
    found = quantizer.export_model(tmp_path / "net.params")
    with pytest.raises(ConfigError, match=message):
        quantizer.load_calibration_config(change(found))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="broken.json: line 1"):
        quantizer.load_calibration_config(tmp_path / "broken.json")


def test_misuse(small_net, images, trainer, fit):
    quantizer = QATQuantizer(small_net, CONFIG, "sgd")
    with pytest.raises(ConfigError, match="not converted yet"):
        quantizer.eval()
    with pytest.raises(ConfigError, match="must be a mxnet.gluon.Trainer, got str"):
        quantizer.compress()
    with pytest.raises(ConversionError, match="compressed already"):
        quantizer.compress()
    with pytest.raises(ConfigError, match="config_list must be a list"):
        QATQuantizer(small_net, {})


def test_a_trainer_that_has_made_steps_takes_no_new_numbers(small_net, trainer, fit):
    fit(1)
    with pytest.raises(ConfigError, match="has made steps already"):
        LsqQuantizer(small_net, ALL, trainer).compress()


def test_a_trainer_counts_for_one_network(small_net, trainer):
    quantizer = QATQuantizer(small_net, CONFIG, trainer)
    quantizer.compress()
    with pytest.raises(ConfigError, match="counts the steps of another quantizer"):
        quantizer.count_steps(trainer)


def test_steps_can_be_counted_by_hand(small_net, images):
    quantizer = QATQuantizer(small_net, [dict(CONFIG[0], quant_start_step=2)])
    quantizer.compress()
    quantizer.step_with_optimizer()
    assert modes_of(small_net) == ["float"] * 2
    quantizer.step_with_optimizer()
    assert modes_of(small_net) == ["ema"] * 2


@pytest.mark.parametrize("cls", [QATQuantizer, DoReFaQuantizer, LsqQuantizer])
def test_ranges_decay_as_nnis(small_net, images, cls):
    net = cls(small_net, ALL).compress()
    assert {quantizer.momentum for _, quantizer in quantizers(net, "activation")} == {0.99}


def test_two_batches_by_hand(small_net, images):
    net = QATQuantizer(small_net, [{"quant_types": ["input"], "op_names": ["0"], "quant_bits": 8}]).compress()
    for scale in (1, 3):
        net(images * scale)
    mx.nd.waitall()
    peak = images.asnumpy().max(axis=(1, 2, 3)).mean()
    low, high, weight = net[0].input_quantizer.ema.data().asnumpy()
    assert weight == pytest.approx(0.01 * 0.99 + 0.01, rel=1e-5)
    assert high == pytest.approx(peak * (0.01 * 0.99 + 3 * 0.01), rel=1e-4)
