# SPDX-License-Identifier: MIT
"""The KL searches against naive loops, ncnn's own results and MXNet's operator."""

import json
import pathlib

import mxnet as mx
import numpy as np
import pytest

from calib.calibrators import CALIBRATORS, KLMXNet, KLncnn, KLPredecessor, KLTensorRT
from calib.calibrators.kl_core import search_fractional, search_interpolated, search_occupied
from calib.calibrators.kl_symmetric import _divergence, _Tables, search_symmetric
from calib.observers import HistogramObserver
from quantize.reference import fake_quantize
from quantize.spec import QuantSpec
from tests.calib import kl_naive

GOLDEN = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "ncnn_calibration.json").read_text())
SEARCHES = [(search_fractional, kl_naive.ncnn), (search_occupied, kl_naive.tensorrt),
            (search_interpolated, kl_naive.predecessor)]
every_search = pytest.mark.parametrize("fast, naive", SEARCHES, ids=[fast.__name__ for fast, _ in SEARCHES])


def observed(*values):
    observer = HistogramObserver()
    for value in values:
        observer.update(np.asarray(value, np.float32).reshape(1, -1))
    return observer


def spread(counts, largest):
    """Values whose 2048-bin histogram up to `largest` is `counts`."""
    middles = (np.arange(len(counts)) + 0.5) * largest / len(counts)
    counts = counts.copy()
    counts[-1] -= 1
    return np.append(np.repeat(middles, counts), largest)


@every_search
@pytest.mark.parametrize("kind", kl_naive.KINDS)
@pytest.mark.parametrize("bins, levels", [(300, 32), (150, 128), (97, 3), (64, 63)])
def test_fast_equals_naive(fast, naive, kind, bins, levels):
    for seed in range(2):
        histogram = kl_naive.histogram(kind, seed, bins)
        assert fast(histogram, levels) == naive(histogram, levels)


@every_search
def test_fast_equals_naive_at_full_size(fast, naive):
    histogram = kl_naive.histogram("exponential", 1)
    assert fast(histogram, 128) == naive(histogram, 128)


@pytest.mark.parametrize("row", GOLDEN["kl"], ids=lambda row: f"{row['kind']}-{row['seed']}")
def test_kl_ncnn_equals_ncnn2table(row):
    """Every printed digit."""
    best = search_fractional(kl_naive.histogram(row["kind"], row["seed"]), 128)
    assert best == row["bins"]
    threshold = np.float32((best + 0.5) * row["largest"] / 2048)
    assert f"{np.float32(127) / threshold:f}" == row["scale"]


@pytest.mark.parametrize("seed", [3, 4, 6])
def test_kl_ncnn_equals_ncnn2table_from_the_data(seed):
    """From values through the observer's bins, which end on the edges of the 2048 when the largest is a power of 2.

    Four times the counts are the same shares, and more values than bins.
    """
    row = next(row for row in GOLDEN["kl"] if (row["kind"], row["seed"]) == ("sparse", seed))
    values = spread(4 * kl_naive.histogram("sparse", seed), 8.0)
    observer = observed(values, [0.0] * 1000)
    assert KLncnn().threshold(observer, QuantSpec(8)) == (row["bins"] + 0.5) * 8 / 2048
    signs = np.where(np.arange(len(values)) % 3, values, -values)  # ncnn takes magnitudes
    np.testing.assert_array_equal(KLncnn()(observed(signs), QuantSpec(8)).scale, KLncnn()(observer, QuantSpec(8)).scale)


def sample(kind, seed):
    random = np.random.RandomState(seed)
    values = {"normal": random.randn, "laplace": lambda n: random.laplace(size=n),
              "relu": lambda n: np.maximum(random.randn(n), 0), "lognormal": lambda n: random.lognormal(size=n),
              "relu6": lambda n: np.clip(random.randn(n) * 3, 0, 6)}[kind](1000 * 7 ** (seed % 4))
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "lognormal", "relu6"])
@pytest.mark.parametrize("levels", [255, 511])
def test_kl_mxnet_equals_the_operator(kind, levels):
    for seed in range(4):
        values = sample(kind, seed)
        top = np.abs(values).max()
        histogram, edges = np.histogram(values, bins=8001, range=(-top, top))
        threshold, _ = mx.nd.contrib.calibrate_entropy(
            hist=mx.nd.array(histogram), hist_edges=mx.nd.array(edges), num_quantized_bins=levels)
        best = search_symmetric(histogram, levels)
        assert np.float32(edges[4000 + best + 1]) == threshold.asscalar()


@pytest.mark.parametrize("kind", kl_naive.KINDS)
@pytest.mark.parametrize("levels", [7, 31, 101])
def test_kl_mxnet_divergences_equal_their_definition(kind, levels):
    one, other = kl_naive.histogram(kind, 1, 100), kl_naive.histogram(kind, 2, 101)
    for histogram in (np.append(one[::-1] // 3, other), np.append(one * 0, other), np.append(one[::-1], other * 0)):
        half = np.arange(levels // 2, 101)
        fast = _divergence(_Tables(histogram.astype(float)), half, levels, 1e-4)
        np.testing.assert_allclose(fast, [kl_naive.mxnet_divergence(histogram, i, levels) for i in half],
                                   rtol=1e-9, atol=1e-12)


def test_kl_mxnet_histogram_is_the_one_of_np_histogram():
    """Up to what the edges of the new bins cut, where it may be a bin off."""
    values = sample("laplace", 3)
    values = np.append(values * 8 / np.abs(values).max(), [8.0, 0.0, 0.0]).astype(np.float32)
    observer = observed(values)
    ours = KLMXNet()._histogram(observer, QuantSpec(8), 8.0)
    theirs = np.histogram(values, bins=8001, range=(-8, 8))[0]
    assert ours.sum() == theirs.sum() == observer.total and len(ours) == 8001
    assert np.abs(np.cumsum(ours) - np.cumsum(theirs)).max() < 0.005 * len(values)
    unsigned = KLMXNet()._histogram(observer, QuantSpec(8, signed=False), 8.0)
    assert not unsigned[:4000].any() and unsigned.sum() == observer.total


@pytest.mark.parametrize("calibrator", [KLncnn(), KLTensorRT(), KLPredecessor()], ids=lambda c: c.name)
def test_zeros_do_not_count(calibrator):
    values = sample("laplace", 3)
    with_zeros = observed(values, np.zeros(5 * len(values)))
    for spec in (QuantSpec(8), QuantSpec(8, signed=False)):
        assert calibrator.threshold(observed(values), spec) == calibrator.threshold(with_zeros, spec)


@pytest.mark.parametrize("name", [name for name in CALIBRATORS.names() if name.startswith("kl")])
def test_unsigned_grids_leave_negative_values_out_and_wide_grids_do_not_clip(name):
    values, calibrator = sample("laplace", 3), CALIBRATORS.get(name)()
    unsigned = QuantSpec(6, signed=False)
    clipped = calibrator.threshold(observed(np.maximum(values, 0)), unsigned)
    assert calibrator.threshold(observed(values), unsigned) == clipped
    assert calibrator.threshold(observed(values), QuantSpec(14)) == np.abs(values).max()


def test_kl_is_the_variant_of_ncnn():
    assert CALIBRATORS.get("kl")().name == "kl-ncnn"


FEW_VALUES = {"binary": [0.0, 1.0, 0.0, 0.0, 1.0], "constant": [0.5], "ternary": [-1.0, 0.0, 1.0],
              "16 levels": np.arange(16) / 15, "one large": [0.01] * 50 + [3.0]}


@pytest.mark.parametrize("name", [name for name in CALIBRATORS.names() if name.startswith("kl")])
@pytest.mark.parametrize("kind", FEW_VALUES)
def test_few_values_are_not_clipped_and_that_is_noted(name, kind):
    values = np.tile(FEW_VALUES[kind], 100)
    calibrator, observer = CALIBRATORS.get(name)(), observed(values)
    found = calibrator.threshold(observer, QuantSpec(8))
    assert found == np.float32(np.abs(values).max())
    assert "different value" in calibrator.note(observer, QuantSpec(8))


def sparse(kind, count, share):
    """`count` values, and so many zeros that they are that share of all."""
    rng = np.random.RandomState(count)
    values = {"laplace": rng.laplace(size=count), "gauss": rng.randn(count), "relu": np.abs(rng.randn(count)),
              "uniform": rng.uniform(-1, 1, count), "long tail": rng.lognormal(size=count)}[kind]
    return np.append(values, np.zeros(int(count * share / (1 - share)))).astype(np.float32)


def error(values, name):
    """Share of the square of what is there that int8 loses."""
    calibrator = CALIBRATORS.get(name)()
    rounded = fake_quantize(values, calibrator(observed(values), QuantSpec(8)), QuantSpec(8))
    return float(np.square(rounded - values).sum() / np.square(values).sum())


@pytest.mark.parametrize("name", ["kl", "kl-tensorrt", "kl-mxnet", "kl-predecessor"])
@pytest.mark.parametrize("share", [0, 0.98])
@pytest.mark.parametrize("kind", ["laplace", "relu", "long tail"])
def test_fewer_values_than_bins_are_not_clipped_and_that_is_noted(name, share, kind):
    """Where a search would have lost up to 78 % of the square of an input, 0.01 % is lost."""
    for count in (30, 80, 2000):
        values = sparse(kind, count, share)
        calibrator, observer = CALIBRATORS.get(name)(), observed(values)
        assert calibrator.threshold(observer, QuantSpec(8)) == np.abs(values).max()
        assert f"only {count} values other than zero, fewer than {calibrator.bins} bins" in calibrator.note(
            observer, QuantSpec(8))
        assert error(values, name) <= max(4 * error(values, "mse"), 1e-4)


@pytest.mark.parametrize("share", [0, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["laplace", "relu", "uniform"])
@pytest.mark.parametrize("name", ["kl", "kl-tensorrt", "kl-mxnet"])
def test_zeros_are_no_reason_to_clip(name, share, kind):
    values = sparse(kind, 10000, share)
    assert error(values, name) < 2e-3
    note = CALIBRATORS.get(name)().note(observed(values), QuantSpec(8))
    left_out = name == "kl-mxnet" and share and kind != "relu"
    assert note == (f"{share:.0%} of the values are zero: kl-mxnet leaves zeros out there" if left_out else "")


def test_kl_mxnet_counts_zeros_where_they_are_few_or_where_only_one_sign_is_there():
    for values, zeros in ((sparse("gauss", 10000, 0.2), 2500), (sparse("relu", 10000, 0.5), 10000),
                          (sparse("gauss", 10000, 0.3), 0)):
        histogram = KLMXNet()._histogram(observed(values), QuantSpec(8), float(np.abs(values).max()))
        assert histogram.sum() == 10000 + zeros


@pytest.mark.parametrize("kind", ["laplace", "gauss"])
def test_ordinary_histograms_have_nothing_to_note(kind):
    observer = observed(np.random.RandomState(3).laplace(size=20000) if kind == "laplace" else
                        np.random.RandomState(3).randn(20000))
    assert KLncnn().note(observer, QuantSpec(8)) == ""
