# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from calib.apply import apply_table, table_of
from calib.calibrators import CALIBRATORS, MinMax
from calib.collect import calibrate, observe
from calib.table import Table, parse_table
from quantize.convert import convert_model
from quantize.errors import CalibrationError
from quantize.modes import fix_params, quantize_input, quantizers

RULES = [{"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "auto8"}]


@pytest.fixture
def calibrated(small_net, images):
    convert_model(small_net, config_list=RULES)
    calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    quantize_input(small_net, online=False)
    return small_net


def test_a_table_brings_the_same_network_back(calibrated, images):
    expected = calibrated(images).asnumpy()
    text = str(table_of(calibrated, "minmax", (4, "0" * 16)))
    assert text.count("minmax 8 ") == 3 and "0 input minmax 8 signed 4 0000000000000000 - " in text
    for _, quantizer in quantizers(calibrated, "activation"):
        quantizer.scale.set_data(mx.nd.zeros((1,)))
    apply_table(calibrated, parse_table(text))
    np.testing.assert_array_equal(calibrated(images).asnumpy(), expected)
    assert str(table_of(calibrated, "minmax", (4, "0" * 16))) == text


def test_a_line_with_a_hash_keeps_the_layer_float(calibrated, images):
    text = str(table_of(calibrated, "minmax")).replace("\n3 input", "\n#3 input")
    apply_table(calibrated, parse_table(text))
    modes = {path: quantizer.mode for path, quantizer in quantizers(calibrated)}
    assert modes == {"0.input_quantizer": "offline", "0.weight_quantizer": "online", "3.input_quantizer": "float",
                     "3.weight_quantizer": "float", "6.input_quantizer": "offline", "6.weight_quantizer": "online"}
    weight = calibrated[3].weight.data().asnumpy()
    fix_params(calibrated)
    np.testing.assert_array_equal(calibrated[3].weight.data().asnumpy(), weight)


def test_lines_for_weights(calibrated, images):
    fix_params(calibrated)
    table = table_of(calibrated, "minmax", weights=True)
    assert [(row.layer, row.tensor, len(row.thresholds)) for row in table.rows] == [
        ("0", "input", 1), ("0", "weight", 8), ("3", "input", 1), ("3", "weight", 8), ("6", "input", 1),
        ("6", "weight", 5)]
    apply_table(calibrated, parse_table(str(table)))
    assert calibrated[0].weight_quantizer.mode == "offline"


@pytest.mark.parametrize("old, new, says", [
    ("\n3 input", "\n3.1 input", "3.1: the table has a line for its input"),
    ("\n3 input", "\n# 3 imput", "3: the table has no line for its input"),
    ("\n6 input", "\n6 output", "6: the table has a line for its output"),
    ("unsigned", "signed", "3 input: the table has 8 bits signed, the network uint8")])
def test_a_table_of_another_network_changes_nothing(calibrated, images, old, new, says):
    expected = calibrated(images).asnumpy()
    text = str(table_of(calibrated, "minmax")).replace(old, new)
    text = text.replace("end 3", "end 2" if "# 3" in new else "end 3")
    with pytest.raises(CalibrationError, match=says):
        apply_table(calibrated, parse_table(text))
    np.testing.assert_array_equal(calibrated(images).asnumpy(), expected)


def test_asymmetric_inputs(small_net, images):
    convert_model(small_net, config_list=RULES)
    from quantize.nn import UniformFakeQuantize
    from quantize.spec import QuantSpec
    spec = QuantSpec(8, signed=False, symmetric=False)
    small_net[0].input_quantizer = UniformFakeQuantize(spec, (1,), prefix="asymmetric_")
    small_net[0].input_quantizer.initialize()
    calibrator = CALIBRATORS.get("percentile")()
    calibrate(small_net, observe(small_net, [images], calibrator), calibrator)
    table = table_of(small_net, "percentile")
    zero = int(small_net[0].input_quantizer.get_qparams().zero_point[0])
    assert table.rows[0].zero_points == (zero,) and 100 < zero < 156
    apply_table(small_net, parse_table(str(table)))
    assert table_of(small_net, "percentile") == table


class Fork(gluon.HybridBlock):
    """Two layers that read one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (gluon.nn.Conv2D(4, 3, in_channels=3) for _ in range(2))

    def hybrid_forward(self, F, x):
        return self.a(x) + self.b(x)


def test_layers_that_share_a_quantizer_are_switched_together(images):
    net = Fork()
    net.initialize()
    convert_model(net)
    if net.a.input_quantizer is not net.b.input_quantizer:
        pytest.skip("layers do not share quantizers")
    calibrate(net, observe(net, [images], MinMax()), MinMax())
    table = table_of(net, "minmax")
    assert [row.layer for row in table.rows] == ["a", "b"]
    with pytest.raises(CalibrationError, match="a and b read the same tensor: put '#' in front of both"):
        apply_table(net, parse_table(str(table).replace("\na ", "\n#a ")))
    apply_table(net, parse_table(str(table).replace("\na ", "\n#a ").replace("\nb ", "\n#b ")))
    first, second = str(table).splitlines()[2:4]
    with pytest.raises(CalibrationError, match="different ranges"):
        apply_table(net, parse_table(str(table).replace(second, second.rsplit(" ", 1)[0] + " 1.5")))


def test_an_uncalibrated_network_has_no_table(small_net):
    convert_model(small_net)
    with pytest.raises(CalibrationError, match="no calibrated range"):
        table_of(small_net, "minmax")
    assert str(Table(())).endswith("end 0\n")
