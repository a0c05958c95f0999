# SPDX-License-Identifier: MIT
"""The arithmetic of ncnn on aarch64 against what ncnn computed there: the golden file holds digests of its outputs.

Made, and made again after a new version of ncnn or a new case, by

    python tests/deploy/targets/ncnn/aarch64/environment.py && python tests/deploy/targets/ncnn/aarch64/make.py

which refuses where emulated processors differ.
"""

import json
import pathlib

import numpy as np
import pytest

from deploy import engine, ir
from deploy.targets.ncnn import TARGET
from deploy.targets.ncnn.aarch64 import Aarch64Arithmetic
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.armv7 import Armv7Arithmetic
from tests.deploy.targets.ncnn import models
from tests.deploy.targets.ncnn.aarch64 import cases
from tests.deploy.targets.ncnn.aarch64.emulated import digest

FOLDER = pathlib.Path(__file__).resolve().parents[4] / "golden"
GOLDEN, GOLDEN_ARMV7 = (json.loads((FOLDER / f"ncnn_{name}.json").read_text()) for name in ("aarch64", "armv7"))
CASES = cases.everything()


def test_the_golden_file_has_these_cases():
    assert set(GOLDEN["cases"]) == set(CASES)


@pytest.mark.parametrize("part", range(10))
def test_every_output_is_what_ncnn_computed(part):
    for name in list(CASES)[part::10]:
        case = CASES[name]
        found = engine.run(case, cases.images(name, case), arithmetic=Aarch64Arithmetic()).outputs
        assert {blob: digest(values) for blob, values in zip(case.outputs, found)} == GOLDEN["cases"][name], name


def test_the_golden_file_of_32_bit_arm_has_these_cases():
    assert set(GOLDEN_ARMV7["cases"]) == set(CASES) and GOLDEN_ARMV7["ncnn"] == GOLDEN["ncnn"]


@pytest.mark.parametrize("part", range(5))
def test_outputs_of_32_bit_arm_are_what_ncnn_computed(part):
    """Each third case, and all whose codes 32-bit ARM hands on in a way of its own."""
    names = [name for place, name in enumerate(CASES)
             if place % 3 == 0 or name.startswith("depthwise, ") or "leaky, handed on" in name]
    for name in names[part::5]:
        case = CASES[name]
        found = engine.run(case, cases.images(name, case), arithmetic=Armv7Arithmetic()).outputs
        assert {blob: digest(values) for blob, values in zip(case.outputs, found)} == GOLDEN_ARMV7["cases"][name], name


def test_the_cases_tell_it_from_x86():
    """Of each kind of rounding that differs there are cases where the result does."""
    differ = [name for name, case in CASES.items() if any(
        digest(values) != GOLDEN["cases"][name][blob] for blob, values in zip(case.outputs, engine.run(
            case, cases.images(name, case), arithmetic=NcnnArithmetic()).outputs))]
    for what in ("batch norm", "affine", "hard_swish (", "hard_sigmoid (", "global avg", "avg (", "depthwise 5x5 of 12",
                 "1x1, none"):
        assert any(name.startswith(what) for name in differ), what
    assert any(", hard_swish" in name for name in differ)
    assert not any(name.startswith(("global max", "max (")) for name in differ)


def test_codes_are_rounded_to_nearest():
    grid = ir.Grid(1.0)
    values = np.float32([0.49999997, 0.5, -0.5, 1.5, 2.5, -126.5, 127.5, -127.5, np.nan, np.inf, -np.inf, 3e38, -3e38])
    np.testing.assert_array_equal(Aarch64Arithmetic().quantize(values, grid),
                                  [0, 1, -1, 2, 3, -127, 127, -127, 0, 127, -127, 127, -127])
    assert NcnnArithmetic().quantize(np.float32([0.49999997]), grid)[0] == 1


def test_codes_that_are_handed_on_are_known_from_the_model():
    case = models.quantized_cases()["chain"]
    bound = Aarch64Arithmetic().bound(case)
    assert set(bound.handed_on) == {"c1", "c2"} and not Aarch64Arithmetic().handed_on


AVX512 = ("avx2", "fma", "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")


@pytest.mark.parametrize("machine, flags, name", [
    ("x86_64", AVX512, "ncnn"), ("AMD64", AVX512, "ncnn"), ("x86_64", ("avx2", "fma"), "ncnn avx2"),
    ("x86_64", ("avx2", "avx512f"), "ncnn avx2"), ("AMD64", (), "ncnn avx2"), ("aarch64", (), "ncnn aarch64"),
    ("arm64", (), "ncnn aarch64"), ("riscv64", (), "ncnn"),
    ("armv7l", (), "ncnn armv7"), ("armv8l", (), "ncnn armv7")])
def test_the_processor_decides(monkeypatch, machine, flags, name):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert TARGET.arithmetic_on({"architecture": machine, "flags": flags}).name == name
    assert name in {arithmetic.name for arithmetic in TARGET.arithmetics()}
    exact, default = TARGET.engine.ways
    assert exact.name == "exact" and exact.options.packing == name.endswith("aarch64")
    assert exact.options.fp16 is False and default.options.fp16 is None
    case = models.quantized_cases()["mixed"]
    assert set(TARGET.engine.deviations(case, exact)) == set()
    deviating = TARGET.engine.deviations(case, default)
    arm = name.endswith(("aarch64", "armv7"))
    assert len(deviating) == len(case.nodes) if arm else set(deviating) == {"c3", "p"}


def test_float_layers_that_are_not_reproduced_are_named(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    case = models.float_cases()["squeeze and excite"]
    assert set(TARGET.engine.deviations(case, TARGET.engine.ways[0])) == {"s", "e"}
