# SPDX-License-Identifier: MIT
"""Calibrators and their parameters by what people write."""

import dataclasses
import doctest

import pytest

from calib.calibrators import CALIBRATORS, MSE, Naive, Percentile, named, named_calibrator
from quantize.errors import ConfigError


@pytest.mark.parametrize("text, calibrator, full_name", [
    ("percentile", Percentile(), "percentile"), ("percentile:99.9", Percentile(99.9), "percentile:99.9"),
    ("percentile:percent=99.9", Percentile(99.9), "percentile:99.9"), ("percentile:99.99", Percentile(), "percentile"),
    ("naive:0.5", Naive(0.5), "naive:0.5"), ("mse:2", MSE(2.0), "mse:2.0"),
    ("kl:1024", CALIBRATORS.get("kl-ncnn")(1024), "kl-ncnn:1024"), ("kl", CALIBRATORS.get("kl")(), "kl-ncnn")])
def test_values(text, calibrator, full_name):
    found = named_calibrator(text)
    assert (type(found), found, found.full_name) == (type(calibrator), calibrator, full_name)
    assert named_calibrator(full_name) == found


@pytest.mark.parametrize("name", CALIBRATORS.names())
def test_every_name_and_full_name_comes_back(name):
    plain = named_calibrator(name)
    assert plain == CALIBRATORS.get(name)() and plain.full_name == plain.name
    for field in dataclasses.fields(plain):
        half = field.default // 2 | 1 if isinstance(field.default, int) else field.default * 0.5
        changed = dataclasses.replace(plain, **{field.name: half})
        assert " " not in changed.full_name and named_calibrator(changed.full_name) == changed != plain


def test_several_parameters_in_order():
    @CALIBRATORS.register("two-fields")
    @dataclasses.dataclass(frozen=True)
    class Two(Percentile):
        name = "two-fields"
        share: float = 0.5
    try:
        assert named_calibrator("two-fields:98,0.25") == Two(98.0, 0.25)
        assert named_calibrator("two-fields:share=0.25") == Two(share=0.25)
        assert Two(share=0.25).full_name == "two-fields:99.99,0.25"
        with pytest.raises(ConfigError, match="'percent' is given twice"):
            named_calibrator("two-fields:98,percent=97")
    finally:
        CALIBRATORS._members.pop("two-fields")


@pytest.mark.parametrize("text, says", [
    ("percentil:99", "unknown calibrator 'percentil'.*did you mean 'percentile'"),
    ("minmax:3", "'minmax' has no parameters; leave out ':3'"), ("mse:x", "clip_weight 'x' is no number"),
    ("percentile:", "percent '' is no number"), ("percentile:101", "percent must be above 0 and at most 100"),
    ("percentile:99,98", r"more values than parameters; parameters of percentile: percent \(number, default 99.99\)"),
    ("percentile:perc=99", "unknown parameter 'perc'; did you mean 'percent'.; parameters of percentile"),
    ("naive:1", "momentum must be"), ("kl:20.5", "bins '20.5' is no whole number"), ("kl:3", "from 16 to 16384"),
    ("kl-mxnet:8000", "odd"), ("mse:0", "above 0"), ("mse:nan", "above 0"), ("percentile:nan", "above 0")])
def test_bad_ones_say_what_there_is(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        named_calibrator(text)
    assert "\n" not in str(caught.value)


def test_examples():
    assert doctest.testmod(named).attempted == 2 and doctest.testmod(named).failed == 0
