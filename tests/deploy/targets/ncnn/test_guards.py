# SPDX-License-Identifier: MIT
"""Every guard finds what it is there for, and sound models pass them all."""

from dataclasses import replace

import numpy as np
import pytest

from deploy import ir
from deploy.engine import run
from deploy.targets.ncnn import NcnnTarget, guards
from deploy.targets.ncnn.constraints import by_winograd
from quantize.errors import DeployError
from tests.deploy.targets.ncnn.models import conv, dense, model, quantized_cases


def two_layers(**options):
    """A 3x3 convolution and one that reads it."""
    return model((4, 8, 8), [conv("first", "data", (6, 4, 3, 3), largest=2, **options),
                             conv("second", "first", (5, 6, 1, 1), largest=4)])


def changed(case, name, **changes):
    """The model with fields of one node, or of its quantization, replaced."""
    def change(node):
        if node.name != name:
            return node
        own = {key: value for key, value in changes.items() if hasattr(node, key)}
        quantization = replace(node.quantization, **{key: v for key, v in changes.items() if key not in own})
        return replace(node, quantization=quantization, **own)
    return replace(case, nodes=tuple(change(node) for node in case.nodes))


def texts(case, winograd=False, fatal=True):
    return [str(problem) for problem in guards.check(case, winograd) if problem.fatal == fatal]


@pytest.mark.parametrize("name", sorted(quantized_cases()))
def test_sound_models_pass(name):
    assert texts(quantized_cases()[name]) == []


@pytest.mark.parametrize("changes, says", [
    (dict(input=ir.Grid(0.1, 3, 0, 255)), "its input has codes 0 to 255 with zero point 3, ncnn has -127 to 127"),
    (dict(input=ir.Grid(0.1, 0, -7, 7)), "its input has codes -7 to 7"),
    (dict(input=ir.Grid(0.0)), "cannot be inverted in float32"),
    (dict(input=ir.Grid(float("inf"))), "cannot be inverted in float32"),
    (dict(input=ir.Grid(1e-40)), "cannot be inverted in float32"),
    (dict(weight_scale=np.float32([1, 1, 0, 1, 1, 1])), "of 1 outputs cannot be inverted"),
    (dict(weight_scale=np.float32([1, 1, np.inf, 1, np.nan, 1])), "of 2 outputs cannot be inverted"),
    (dict(weight_scale=np.float32([1])), "there are 1 weight steps for 6 outputs"),
    (dict(weight_q=np.full((6, 4, 3, 3), -128, np.int8)), "weight codes reach 128, 127 is allowed"),
    (dict(weight_qmax=31), "weight codes reach 127, 31 is allowed"),
    (dict(bias=np.float32([0, np.nan, 0, np.inf, 0, 0])), "2 of 6 elements of bias are no finite numbers"),
])
def test_a_broken_layer(changes, says):
    found = texts(changed(two_layers(), "first", **changes))
    assert any(text.startswith("first: ") and says in text for text in found), found


def test_names():
    case = model((4, 8, 8), [conv("a b", "data", (6, 4, 1, 1)), conv("ü" * 128, "a b", (6, 6, 1, 1)),
                             conv("good", "ü" * 128, (6, 6, 1, 1))])
    case = replace(case, nodes=case.nodes + (replace(case.nodes[-1], outputs=("x",)),),
                   shapes=dict(case.shapes, x=case.shapes["good"]))
    found = texts(case)
    assert any(text.startswith("a b: the name 'a b'") for text in found)
    assert any("the name has 256 bytes, ncnn takes 255" in text for text in found)
    assert "good: 2 layers have this name" in found


def test_one_blob_has_one_scale():
    def readers(largest):
        return model((4, 8, 8), [conv("a", "data", (6, 4, 1, 1), largest=2), conv("b", "data", (6, 4, 1, 1), largest=2),
                                 conv("c", "data", (6, 4, 1, 1), largest=largest), conv("d", "data", (6, 4, 1, 1))],
                     ("a", "b", "c", "d"))
    assert texts(readers(2)) == []
    found = texts(readers(3))
    assert len(found) == 1 and found[0].startswith("data: layers that read this blob quantize it with different steps")
    assert "a: 0.015748" in found[0] and "c: 0.023622" in found[0] and "b:" not in found[0]


def test_outputs_of_a_group_share_a_step():
    case = model((4, 8, 8), [conv("x", "data", (6, 2, 3, 3), groups=2, largest=2)])
    assert texts(case) == []
    steps = case.nodes[0].quantization.weight_scale * np.float32([1, 1, 1, 1, 1, 2])
    assert texts(changed(case, "x", weight_scale=steps)) == [
        "x: outputs of one group have different weight steps, ncnn has one for each group. Quantize its weight per "
        "group"]
    assert "garbage" in texts(case, fatal=False)[0]


def test_dead_channels_are_told_of():
    case = two_layers()
    codes = case.nodes[0].quantization.weight_q.copy()
    codes[[1, 4]] = 0
    assert texts(changed(case, "first", weight_q=codes), fatal=False) == [
        "first: 2 of 6 outputs have only zero weights and compute their bias"]


def wide(code, inputs=70000, qmax=127):
    weight = np.full((2, inputs), code, np.int8)
    layer = dense("x", "data", (2, inputs), largest=2)
    quantization = replace(layer.quantization, weight_q=weight, weight_qmax=qmax)
    return ir.Model(("data",), ("x",), (replace(layer, quantization=quantization),), {"data": (inputs,), "x": (2,)})


def test_headroom():
    assert guards.headroom(wide(3)) == {"x": 70000 * 3 * 127}
    assert texts(wide(127)) == []
    assert texts(wide(127, 140000)) == [
        "x: its sums can reach 2258060000, int32 ends at 2147483647. Use fewer bits for its weights"]


@pytest.mark.parametrize("code, inputs, says", [
    (3, 64, None), (25, 65, None), (26, 65, "1931670; ncnn's Winograd is one too small at times beyond 1864136"),
    (31, 105, "3720465; ncnn's Winograd is one too small"), (31, 106, "3755898; ncnn's Winograd overflows int32")])
def test_sums_of_winograd(code, inputs, says):
    layer = conv("x", "data", (4, inputs, 3, 3), largest=2, qmax=31)
    weight = np.full(layer.weight.shape, code, np.int8)
    case = model((inputs, 8, 8), [replace(layer, quantization=replace(layer.quantization, weight_q=weight))])
    found = texts(case, fatal=False)
    assert by_winograd(case.nodes[0]) and len(found) == (0 if says is None else 1)
    assert says is None or says in found[0]
    direct = changed(case, "x", weight_qmax=127)
    assert not by_winograd(direct.nodes[0]) and texts(direct, fatal=False) == []


def test_127_levels_need_the_option_off():
    assert texts(two_layers()) == []
    assert texts(two_layers(), winograd=True) == [
        "first: its weights have 127 levels on each side, 31 are allowed where ncnn may use Winograd. Convert with the "
        "same target, or write it without winograd"]
    assert texts(two_layers(qmax=31), winograd=True) == []


def test_nothing_is_written_for_a_model_with_problems(tmp_path):
    case = changed(two_layers(), "first", input=ir.Grid(0.1, 3, 0, 255))
    case = changed(case, "second", weight_scale=np.zeros(5, np.float32))
    with pytest.raises(DeployError) as error:
        NcnnTarget().write(case, tmp_path)
    assert "first: its input has codes 0 to 255" in str(error.value) and "second: " in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_target_writes_and_runs(tmp_path):
    pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")
    case, target = two_layers(), NcnnTarget()
    assert [path.name for path in target.write(case, tmp_path)] == ["model.param", "model.bin"]
    images = np.random.RandomState(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    expected = run(case, images, arithmetic=target.arithmetic_here()).outputs
    found = target.run(tmp_path, images)
    assert len(found) == 1 and np.array_equal(found[0], expected[0])
    with pytest.raises(DeployError, match="there is no such file; write the network there first"):
        target.run(tmp_path / "absent", images)
