# SPDX-License-Identifier: MIT
"""Fractional max pooling against loops over windows; resizing to the nearest pixel."""

import itertools
import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from quantize import load_quantized, save_quantized
from quantize.errors import ConfigError
from quantize.interfaces.n2d2 import activation, cells
from quantize.interfaces.n2d2.ini.model import read_model
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.quantizer import SATAct

X = np.round(np.random.RandomState(5).normal(0, 1, (2, 3, 11, 7)), 1).astype(np.float32)  # with equal ones
FORMS = list(itertools.product((True, False), (True, False)))  # (overlapping, pseudo-random)


def network(ratio, overlapping, pseudo, size=X.shape[1:], **more):
    cell = cells.FMP(ratio, overlapping=overlapping, pseudo_random=pseudo, name="fmp", **more)
    net = CellNetwork([cell], size).build()
    net.hybridize()
    return net


def begins(size, count, u):
    """Where the windows of one side begin, and its end."""
    return [max(math.ceil(size / count * (i - 1 + u)), 0) for i in range(count)] + [size]


def pooled(x, rows, columns, overlapping):
    """(Maxima, how often each pixel is the first of the largest ones of a window)."""
    y = np.zeros(x.shape[:2] + (len(rows) - 1, len(columns) - 1), np.float32)
    counts = np.zeros_like(x)
    for n, c, i, j in np.ndindex(*y.shape):
        part = x[n, c, rows[i]:rows[i + 1] + overlapping, columns[j]:columns[j + 1] + overlapping]
        first_rows = part.argmax(0)  # rows are pooled before columns
        a = part.max(0).argmax()
        y[n, c, i, j] = part.max()
        counts[n, c, rows[i] + first_rows[a], columns[j] + a] += 1
    return y, counts


@pytest.mark.parametrize("overlapping, pseudo", FORMS)
@pytest.mark.parametrize("ratio", [1.0, 1.4, 2.5])
def test_in_testing_windows_stay_where_they_are(ratio, overlapping, pseudo):
    net = network(ratio, overlapping, pseudo)
    y, again = net(mx.nd.array(X)).asnumpy(), net(mx.nd.array(X)).asnumpy()
    shape = tuple(math.floor(size / ratio + 0.5) for size in X.shape[2:])
    assert y.shape[2:] == shape and np.array_equal(y, again)
    if pseudo:
        rows, columns = (begins(size, count, 0.5) for size, count in zip(X.shape[2:], shape))
        assert np.array_equal(y, pooled(X, rows, columns, overlapping)[0])


def possible(size, count, pseudo):
    """All places where windows can begin."""
    if pseudo:
        return {tuple(begins(size, count, u)) for u in np.linspace(1e-4, 1 - 1e-4, 3001)}
    sizes = [size // count + 1] * (size % count) + [size // count] * (count - size % count)
    return {(0, *np.cumsum(order)) for order in itertools.permutations(sizes)}


@pytest.mark.parametrize("overlapping, pseudo", FORMS)
def test_in_training_windows_are_drawn_and_the_gradient_goes_to_the_largest(overlapping, pseudo):
    mx.random.seed(3)
    net, x = network(1.6, overlapping, pseudo), mx.nd.array(X)
    x.attach_grad()
    known = {choice: pooled(X[:1, :1], *choice, overlapping) for choice in itertools.product(
        possible(11, 7, pseudo), possible(7, 4, pseudo))}
    seen = set()
    for _ in range(12):
        with autograd.record():
            y = net(x)
        y.backward()
        found = {choice for choice, (want, counts) in known.items() if np.array_equal(want, y.asnumpy()[:1, :1])
                 and np.array_equal(counts, x.grad.asnumpy()[:1, :1])}
        assert found, "windows that there are none of"
        seen.add(min(found))
    assert len(seen) > 3 and len({row for row, _ in seen}) > 1 and len({column for _, column in seen}) > 1
    assert np.array_equal(net(x).asnumpy(), network(1.6, overlapping, pseudo)(x).asnumpy())  # testing draws nothing


INI = """[database]
Type=MNIST_IDX_Database
[sp]
SizeX=16
SizeY=16
BatchSize=4
[conv1]
Input=sp
Type=Conv
KernelSize=3
NbOutputs=4
[fmp1]
Input=conv1
Type=FMP
NbOutputs=4
ScalingRatio=1.4
ActivationFunction=Linear
QAct=SAT
QAct.Alpha=0.2
QAct.Range=15
[fc1]
Input=fmp1
Type=Fc
NbOutputs=3
[softmax]
Input=fc1
Type=Softmax
WithLoss=1
[softmax.Target]
"""


def test_a_file_with_fractional_pooling_trains_and_is_kept(tmp_path):
    (tmp_path / "net.ini").write_text(INI)
    made = read_model(tmp_path / "net.ini").network
    net = made.build()
    cell = made.cells["fmp1"]
    assert made.shapes["fmp1"] == (4, 10, 10) and (cell.overlapping, cell.pseudo_random) == (True, True)
    x = mx.nd.random.uniform(0, 1, (4, 1, 16, 16))
    made.start(x)
    with autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    assert np.abs(net._children["conv1"].weight.grad().asnumpy()).max() > 0
    levels = net.values_of(x, [made.places["fmp1"].output])[made.places["fmp1"].output].asnumpy() * 15 / 0.2
    assert np.allclose(levels, np.rint(levels), atol=1e-4) and len(np.unique(np.rint(levels))) > 2
    save_quantized(net, tmp_path / "net.qnet")
    assert np.array_equal(load_quantized(tmp_path / "net.qnet")(x).asnumpy(), net(x).asnumpy())


@pytest.mark.parametrize("old, new, said", [
    ("ScalingRatio=1.4", "", "ScalingRatio: is missing"), ("=1.4", "=0.5", "scaling_ratio must be a number from 1 on"),
    ("=1.4", "=40", "fmp1: a side of 14 is too short to be divided by 40.0"),
    ("=1.4", "=1.4\nOverlaping=1", "Overlaping: unknown key; did you mean 'Overlapping'?"),
    ("=1.4", "=1.4\nMapping.Size=2", "Mapping.Size: connects maps in a pattern")])
def test_what_is_wrong_with_fractional_pooling_is_said(tmp_path, old, new, said):
    (tmp_path / "net.ini").write_text(INI.replace(old, new, 1))
    with pytest.raises(ConfigError) as found:
        read_model(tmp_path / "net.ini").network.build()
    assert said in str(found.value) and "\n" not in str(found.value)


def test_feature_maps_are_wanted():
    with pytest.raises(ConfigError, match=r"fmp: feature maps are wanted, its input has the shape \(4,\)"):
        CellNetwork([cells.Fc(None, 4), cells.FMP(1.4, name="fmp")], X.shape[1:]).build()


def test_resizing_to_the_nearest_pixel_repeats():
    cell = cells.Resize(21, 22, "NearestNeighbor", name="large", inputs=["twice"],
                        activation=activation.Linear(quantizer=SATAct(1.0, 3)))
    net = CellNetwork([cells.BatchNorm2d(3), cells.Scaling(2.0, name="twice"), cell], X.shape[1:]).build()
    want = np.floor(np.clip(2 * X, 0, 1) * 3 + 0.5) / 3
    assert np.allclose(net(mx.nd.array(X)).asnumpy(), want.repeat(2, 2).repeat(3, 3), atol=1e-6)
    with pytest.raises(ConfigError, match="large: NearestNeighbor repeats pixels; 20x22 is no whole multiple of 7x11"):
        CellNetwork([cells.Resize(20, 22, "NearestNeighbor", name="large")], X.shape[1:]).build()
