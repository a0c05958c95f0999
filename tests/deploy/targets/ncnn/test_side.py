# SPDX-License-Identifier: MIT
"""The engine as a side of a verification: what it keeps as codes, what as real values, and where it deviates."""

import numpy as np
import pytest

from deploy import engine
from deploy.proof.verify import verify
from deploy.targets.ncnn import runner, writer
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.deviations import FLOAT_SUM, PACKED_DEPTHWISE, default_deviations
from deploy.targets.ncnn.side import side, sum_limits
from tests.deploy.targets.ncnn import models

CASES = models.quantized_cases()


@pytest.fixture
def observe(ncnn, tmp_path):
    """function(model, options) -> side."""
    def make(model, options=runner.EXACT):
        return side(model, runner.Runner(*writer.write(model, tmp_path), options=options))
    return make


@pytest.mark.parametrize("name", CASES)
def test_every_blob_is_the_judges(observe, name):
    case = CASES[name]
    images = models.inputs(case, 5)["data"]
    found = verify(case, NcnnArithmetic(), {"ncnn": observe(case)}, [images])
    assert found.total("ncnn").exact and found.agreement("ncnn") == 5
    # sums in another order, in layers that hold no integers
    assert all(of_sides["ncnn"].relative < 1e-6 for of_sides in found.reals.values())


def test_integers_between_layers_are_the_engines_own(observe):
    case = CASES["chain"]
    images = models.inputs(case)["data"]
    observed = observe(case)(images)
    judged = engine.run(case, images, arithmetic=NcnnArithmetic(), codes=True)
    assert set(observed.codes) == {"c2", "c3"} and set(observed.blobs) == {"data", "c3", "p", "x"}
    for name, codes in observed.codes.items():
        assert codes.dtype == np.int32
        np.testing.assert_array_equal(codes, judged.codes[name])


def test_integers_for_several_readers(observe):
    observed = observe(CASES["fire"])(models.inputs(CASES["fire"])["data"])
    np.testing.assert_array_equal(observed.codes["e1"], observed.codes["e3"])
    assert "squeeze" not in observed.blobs


def test_a_wrong_file_is_found_out(ncnn, tmp_path):
    """The comparison is about the files: one changed byte of a weight shows."""
    case = CASES["chain"]
    param, weights = writer.write(case, tmp_path)
    content = bytearray(weights.read_bytes())
    content[4 + 5] ^= 64  # the sixth weight of the first layer
    weights.write_bytes(content)
    found = verify(case, NcnnArithmetic(), {"ncnn": side(case, runner.Runner(param, weights))},
                   [models.inputs(case, 3)["data"]])
    assert found.first_deviation("ncnn") == "c2" and found.codes["c2"]["ncnn"].share < 1


def test_deviations_with_default_options_are_those_that_are_known(observe):
    case = CASES["chain"]
    assert default_deviations(case) == {"c2": PACKED_DEPTHWISE, "p": FLOAT_SUM}
    found = verify(case, NcnnArithmetic(), {"ncnn": observe(case, runner.Options(threads=1))},
                   [models.inputs(case, 20)["data"]])
    assert found.codes["c2"]["ncnn"].exact  # what the depthwise convolution reads; what it writes may be one off
    assert found.codes["c3"]["ncnn"].largest <= 1 and found.codes["c3"]["ncnn"].share > 0.99


def test_known_deviations():
    assert default_deviations(CASES["residual"]) == {}
    assert set(default_deviations(CASES["mixed"])) == {"c3", "p"}
    floating = models.model((8, 4, 4), [models.conv("c", "data", (8, 8, 1, 1)), models.dense("x", "c", (3, 128))])
    assert set(default_deviations(floating)) == {"c", "x"}


def test_limits_of_winograd():
    wide = {"largest": 2, "pads": (1, 1, 1, 1)}
    case = models.model((12, 4, 4), [models.conv("a", "data", (12, 12, 3, 3), qmax=31, **wide),
                                     models.conv("b", "a", (12, 12, 3, 3), **wide),
                                     models.conv("c", "b", (12, 12, 1, 1), largest=2)])
    assert {name: limit for name, (limit, _) in sum_limits(case).items()} == {"a": 1864136}
