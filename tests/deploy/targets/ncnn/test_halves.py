# SPDX-License-Identifier: MIT
"""Which layers are worth keeping from 16-bit floats. What these do in the engine is tested on ARM (`aarch64`)."""

import numpy as np
import pytest

from deploy import ir
from deploy.targets.ncnn import NcnnTarget, halves
from deploy.targets.ncnn.aarch64 import Aarch64Arithmetic
from quantize.errors import DeployError
from tests.deploy.targets.ncnn import models
from tests.deploy.targets.ncnn.models import conv, model

QUANTIZED = models.quantized_cases()
EXACT = np.float32([[4, 1, 0], [1, 2, 0]])
SHARES = {"c1": 0.1, "c2": 0.4, "c3": 0.3, "c4": 0.2}


def costs(by_count):
    """function(kept layers) -> scores that are off by so much; remembers what it was asked for."""
    asked = []

    def scores(kept):
        asked.append(list(kept))
        found = EXACT.copy()
        found[:, 2] += np.float32(by_count[len(kept)])
        return found
    return scores, asked


def test_nothing_is_advised_where_16_bits_cost_little():
    scores, asked = costs({0: 0.04})
    assert halves.recommended(EXACT, scores, SHARES) == [] and asked == [[]]


def test_the_fewest_layers_that_do_are_named_those_that_suffer_most_first():
    scores, asked = costs({0: 0.4, 1: 0.05, 2: 0.02})
    (advice,) = halves.recommended(EXACT, scores, SHARES)
    assert asked == [[], ["c2"], ["c2", "c3"]]
    assert advice.endswith("deploy again with --no-fp16-layers c2 c3")
    assert "the scores by 0.1 of the largest and the class of 0 of 2 images. With 2 of 4 layers" in advice


@pytest.mark.parametrize("many", [2.5, np.nan, np.inf])
def test_where_few_layers_do_not_help_all_are_to_be_kept(many):
    scores, asked = costs({0: many, 1: many, 2: 0.4})
    (advice,) = halves.recommended(EXACT, scores, SHARES)
    assert len(asked) == 3 and advice.endswith("deploy again with --no-fp16")


def test_a_changed_class_costs_too_much_however_close_the_scores_are():
    close = np.float32([[4, 3.999, 0]])
    (advice,) = halves.recommended(close, lambda kept: close if kept else close[:, [1, 0, 2]], SHARES)
    assert "the class of 1 of 1 images. With 1 of 4" in advice


def test_shares_are_those_of_codes_that_16_bits_change():
    case = QUANTIZED["residual"]
    images = models.inputs(case, 8)["data"]
    shares = halves.own_shares(case, images)
    assert set(shares) == {"c1", "c3"}  # the others read codes
    grid = case.nodes[0].quantization.input
    step = np.float32(1) / np.float32(grid.scale)

    def codes(products):
        products = products.astype(np.float32)
        return np.clip(np.trunc(products + np.copysign(np.float32(0.5), products)), -127, 127)
    want = np.mean(codes(images * step) != codes(images.astype(np.float16) * np.float16(step)))
    assert 0 < want == pytest.approx(shares["c1"], abs=1e-3) and all(share < 0.1 for share in shares.values())


def test_the_product_is_rounded_to_16_bits_too():
    """100.5 and its neighbours: steps of 1/16 there, ties to the even one, then halves away from zero."""
    found = halves.codes_with_16_bits(np.float32([50.2, -50.23, 50.234, np.nan, np.inf, -7e4, 0.2]), ir.Grid(0.5))
    np.testing.assert_array_equal(found, [100, -100, 100, 0, 127, -127, 0])
    assert Aarch64Arithmetic().quantize(np.float32([33.49]), ir.Grid(1 / 3))[0] == 100
    assert halves.codes_with_16_bits(np.float32([33.49]), ir.Grid(1 / 3))[0] == 101


def test_numbers_that_16_bits_do_not_reach_suffer_most():
    case = model((8, 6, 6), [conv("a", "data", (8, 8, 1, 1), largest=2e5), conv("b", "a", (8, 8, 1, 1), largest=5),
                             ir.Activation("r", ("b",), ("r",), function=ir.Function("relu")),
                             conv("x", "r", (4, 8, 1, 1), largest=5)])
    shares = halves.own_shares(case, models.inputs(case, 4)["data"] * np.float32(6e4))
    assert shares["a"] > 0.3 and shares["x"] < 0.05


def test_layers_are_named_as_they_are_or_by_patterns():
    case = QUANTIZED["residual"]
    assert halves.matching(case, ["c3", "x"]) == ["c3", "x"] and halves.matching(case, ["c?"]) == ["c1", "c2", "c3"]
    target = NcnnTarget(fp32_layers=["c9", "c*"])
    (problem,) = target.check(case)
    assert problem.path == "c9" and "--no-fp16-layers names a layer that is not there" in problem.text
    with pytest.raises(DeployError, match="c9"):
        target.write(case, "unused")


def test_the_files_hold_the_masks_of_chosen_layers(tmp_path):
    case = QUANTIZED["residual"]
    lines = NcnnTarget(fp32_layers=["c3"]).write(case, tmp_path)[0].read_text().splitlines()
    kept = {line.split()[1] for line in lines if " 31=7" in line}
    assert kept == {"c3", "r", "add", "splitncnn_0", "c2"}
    floating = NcnnTarget(fp32_layers=["c3"]).write_files(case, tmp_path, "float", integers=False)[0]
    assert "31=" not in floating.read_text()


def test_an_activation_that_is_a_layer_apart_shares_the_mask_of_its_layer(tmp_path):
    apart = conv("b", "a", (8, 8, 1, 1), largest=3, activation=ir.Function("hard_sigmoid", (0.2, 0.5)))
    case = model((8, 6, 6), [conv("a", "data", (8, 8, 1, 1), largest=2), apart,
                             conv("x", "b", (4, 8, 1, 1), largest=1)])

    def kept(*layers):
        lines = NcnnTarget(fp32_layers=layers).write(case, tmp_path)[0].read_text().splitlines()
        return {line.split()[1] for line in lines if " 31=7" in line}
    assert kept("b") == {"a", "b", "b_activation"} and kept("a") == {"a"}
    assert kept("x") == {"x", "b", "b_activation"}
