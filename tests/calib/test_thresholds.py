# SPDX-License-Identifier: MIT
"""Percentile, MSE, SQNR and ACIQ against their definitions."""

import json
import pathlib

import numpy as np
import pytest

from calib.calibrators import CALIBRATORS, MSE, SQNR, ACIQGauss, ACIQLaplace, ACIQncnn, Percentile
from calib.calibrators.aciq import gaussian_alpha, laplace_alpha
from calib.observers import HistogramObserver
from quantize.errors import CalibrationError
from quantize.reference import fake_quantize, qparams_from_threshold
from quantize.spec import QuantSpec

GOLDEN = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "ncnn_calibration.json").read_text())
RANDOM = np.random.RandomState(0)
NORMAL = RANDOM.randn(100000).astype(np.float32)
LAPLACE = RANDOM.laplace(size=100000).astype(np.float32)
RELU = np.maximum(NORMAL, 0)
DATA = {"normal": NORMAL, "laplace": LAPLACE, "relu": RELU, "shifted": NORMAL + 1}
INT8, UINT8 = QuantSpec(8), QuantSpec(8, signed=False)
ASYMMETRIC = QuantSpec(8, signed=False, symmetric=False)


def observed(values):
    observer = HistogramObserver()
    observer.update(values.reshape(10, -1))
    return observer


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("name", DATA)
def test_percentile_is_the_order_statistic(name, percent):
    observer = observed(DATA[name])
    for spec, values in ((INT8, np.abs(DATA[name])), (UINT8, np.maximum(DATA[name], 0))):
        index = int(np.ceil(percent / 100 * values.size)) - 1
        assert Percentile(percent).threshold(observer, spec) == pytest.approx(np.sort(values)[index],
                                                                              abs=observer.width)


def test_percentile_of_an_asymmetric_range_leaves_out_as_much_at_each_end():
    observer = observed(NORMAL)
    params = Percentile(98)(observer, ASYMMETRIC)
    low, high = np.quantile(NORMAL, [0.01, 0.99])
    assert params.scale[0] * 255 == pytest.approx(high - low, rel=1e-3)
    assert params.zero_point[0] == np.rint(-low / params.scale[0])


def test_percentile_is_checked():
    for percent in (0, -1, 100.1):
        with pytest.raises(CalibrationError, match="percent"):
            Percentile(percent)


@pytest.mark.parametrize("spec", [QuantSpec(2), QuantSpec(4), QuantSpec(8), QuantSpec(3, signed=False),
                                  QuantSpec(8, signed=False), QuantSpec(12)], ids=str)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("calibrator, weight", [(MSE(), 1), (SQNR(), 3)], ids=["mse", "sqnr"])
def test_mse_is_the_best_of_a_brute_force_search(spec, name, calibrator, weight):
    values = DATA[name][::10]
    observer = observed(values)

    def error(threshold, values=values):
        params = qparams_from_threshold(np.float32([threshold]), spec)
        values = values if spec.signed else np.maximum(values, 0)
        square = (values.astype(np.float64) - fake_quantize(values, params, spec)) ** 2
        return float((square * np.where(np.abs(values) > threshold, weight, 1)).sum())

    best = min(error(ratio * np.abs(values).max()) for ratio in np.linspace(0.02, 1, 99))
    assert error(calibrator.threshold(observer, spec)) <= 1.02 * best + 1e-9


@pytest.mark.parametrize("spec", [QuantSpec(4), QuantSpec(4, signed=False), QuantSpec(8)], ids=str)
def test_mse_error_is_the_sum_of_squares(spec):
    observer = observed(NORMAL)
    values = NORMAL if spec.signed else RELU
    thresholds = np.array([0.5, 1.7, 3.9])
    for threshold, error in zip(thresholds, MSE().errors(observer, spec, thresholds)):
        params = qparams_from_threshold(np.float32([threshold]), spec)
        square = ((values.astype(np.float64) - fake_quantize(values, params, spec)) ** 2).sum()
        assert error == pytest.approx(square, rel=0.01)


def test_mse_of_an_asymmetric_grid_uses_the_one_sidedness():
    assert MSE()(observed(RELU), ASYMMETRIC).scale == pytest.approx(MSE()(observed(RELU), UINT8).scale, rel=0.02)
    shifted = MSE()(observed(NORMAL + 1), ASYMMETRIC)
    assert 0 < shifted.zero_point[0] < 128


def test_mse_refuses_a_mid_rise_grid():
    with pytest.raises(CalibrationError, match="mid_rise"):
        MSE()(observed(NORMAL), QuantSpec(4, grid="mid_rise"))


def test_alphas_are_the_published_ones():
    """Banner et al.'s tables for 2 to 8 bits; the Gaussian one with ncnn's digits, of which the last is off by 4e-7."""
    gauss = [1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714]
    laplace = [2.83, 3.89, 5.03, 6.20, 7.41, 8.64, 9.89]
    for bits, (g, b) in enumerate(zip(gauss, laplace), start=2):
        assert gaussian_alpha(2 ** (bits - 1)) == pytest.approx(g, rel=5e-7)
        assert laplace_alpha(2 ** (bits - 1)) == pytest.approx(b, abs=0.01)


def test_aciq_thresholds():
    assert ACIQGauss().threshold(observed(NORMAL), QuantSpec(4)) == pytest.approx(gaussian_alpha(8), rel=0.01)
    assert ACIQLaplace().threshold(observed(LAPLACE), QuantSpec(4)) == pytest.approx(laplace_alpha(8), rel=0.01)
    # zeros of a ReLU are left out: the other half is what it was
    for values in (RELU, NORMAL):
        assert ACIQGauss().threshold(observed(values), QuantSpec(4, signed=False)) == pytest.approx(
            gaussian_alpha(16), rel=0.01)
    assert ACIQGauss().threshold(observed(NORMAL + 1), QuantSpec(4)) == pytest.approx(1 + gaussian_alpha(8), rel=0.01)
    assert ACIQLaplace().threshold(observed(NORMAL), QuantSpec(8)) == np.abs(NORMAL).max()  # 9.9 b is beyond it
    shifted = ACIQGauss()(observed(NORMAL + 1), QuantSpec(4, signed=False, symmetric=False))
    assert shifted.scale[0] * 15 == pytest.approx(2 * gaussian_alpha(8), rel=0.02)


def test_aciq_takes_the_distribution_that_fits():
    aciq, spec = CALIBRATORS.get("aciq")(), QuantSpec(4)
    assert aciq.threshold(observed(NORMAL), spec) == ACIQGauss().threshold(observed(NORMAL), spec)
    assert aciq.threshold(observed(LAPLACE), spec) == ACIQLaplace().threshold(observed(LAPLACE), spec)


@pytest.mark.parametrize("row", GOLDEN["aciq"], ids=lambda row: str(row["values"]))
def test_aciq_ncnn_equals_ncnn2table(row):
    """Every printed digit."""
    image = np.zeros((2, row["values"]), np.float32)
    image[0, 1] = -row["largest"]
    observer = HistogramObserver(per_image=1000)
    observer.update(image)
    threshold = np.float32(ACIQncnn().threshold(observer, INT8))
    assert f"{np.float32(127) / threshold:f}" == row["scale"]


def test_aciq_ncnn_of_single_values_is_the_largest():
    observer = HistogramObserver()
    observer.update(np.float32([[3], [-5]]))
    assert ACIQncnn().threshold(observer, INT8) == 5


@pytest.mark.parametrize("name", CALIBRATORS.names())
@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 12, 16])
def test_every_width_gives_a_usable_scale(name, bits):
    calibrator = CALIBRATORS.get(name)()
    for values in DATA.values():
        observer = calibrator.new_observer()
        observer.update(values[:20000].reshape(10, -1))
        signed = QuantSpec(bits) if bits > 1 else QuantSpec(2)
        for spec in (signed, QuantSpec(bits, signed=False), QuantSpec(bits, signed=False, symmetric=False)):
            scale = calibrator(observer, spec).scale
            assert scale.shape == (1,) and np.isfinite(scale[0]) and scale[0] > 0
            assert scale[0] * (spec.qmax - spec.qmin) < 4 * np.abs(values).max()
