# SPDX-License-Identifier: MIT
"""The page of N2D2's 24 layers: what it says of each is what happens, "yes" and "no" alike."""

import pathlib
import re

import mxnet as mx
import numpy as np
import pytest

from deploy.ir import BatchNorm, Grid, quantized
from deploy.targets.c.simulate import fuse_qat, unfused_codes
from quantize.errors import ConfigError, DeployError
from quantize.interfaces.n2d2 import activation, cells, quantizer
from quantize.interfaces.n2d2.ini.cells import KINDS
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.modes import set_mode

PAGE = pathlib.Path(__file__).resolve().parents[4] / "docs" / "n2d2-layers.md"
SIZE = (3, 8, 8)
BYTES = Grid(float(np.float32(1 / 255)), 0, 0, 255)
ALPHA = 0.77  # no sum of codes lies in the middle between two codes, where float numbers go either way
LEVELS = (255, 15, 7, 3, 1)


def rows():
    """Name -> (cell, activation, integer core), as the page says."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| (\w+) \| (yes|no|) ?\| (yes|no|) ?\| (yes|no|) ?\|", line)
        if match:
            found[match.group(1)] = match.groups()[1:]
    return found


def act(steps=15, alpha=1.0):
    return activation.Linear(quantizer=quantizer.SATAct(range=steps, alpha=alpha))


def weights(steps=15):
    return quantizer.SATCell(range=steps, apply_scaling=True)


# what the page calls yes for an integer core: the cells of a row, in every form that has one
CELLS = {
    "Activation": [lambda: cells.Activation(), lambda: cells.Activation(
        activation=activation.Rectifier(leak_slope=0.125, clipping=0.5)), lambda: cells.Activation(
            activation=activation.Saturation())],
    "BatchNorm": [lambda: cells.BatchNorm2d(4)],
    "Conv": [lambda: cells.Conv(None, 5, [3, 3], padding_dims=[1, 1], quantizer=weights())],
    "Deconv": [lambda: cells.Deconv(None, 5, [2, 2], stride_dims=[2, 2], quantizer=weights()),
               lambda: cells.Deconv(4, 4, [3, 3], padding_dims=[1, 1], nb_groups=2, quantizer=weights())],
    "ElemWise": [lambda: cells.ElemWise("Sum", weights=[0.5, -0.25], shifts=[0.1, 0.0], inputs=["before", "other"]),
                 lambda: cells.ElemWise("Max", inputs=["before", "other"])],
    "Fc": [lambda: cells.Fc(None, 12, quantizer=weights())],
    "Padding": [lambda: cells.Padding(1, 2, 0, 1), lambda: cells.Padding(-1, 0, 2, -1)],
    "Pool": [lambda: cells.Pool2d([2, 2], stride_dims=[2, 2]), lambda: cells.Pool2d(
        [3, 2], stride_dims=[2, 2], pooling="Average"), lambda: cells.GlobalPool2d()],
    "Reshape": [lambda: cells.Reshape([4, 16, 4])], "Scaling": [lambda: cells.Scaling(0.7)],
    "Threshold": [lambda: cells.Threshold(0.5, operation="Truncate")],
    "Transpose": [lambda: cells.Transpose([1, 2, 0, 3])], "Unpool": [lambda: cells.Unpool([2, 3])],
    "Resize": [lambda: cells.Resize(24, 16, "NearestNeighbor")], "FMP": [lambda: cells.FMP(1.4)],
    "Softmax": [lambda: cells.Softmax()],
}
# of rows with an integer core, what has none
WITHOUT_CORE = {
    "Activation": [lambda: cells.Activation(activation=activation.Tanh()), lambda: cells.Activation(
        activation=activation.Logistic()), lambda: cells.Activation(activation=activation.Softplus())],
    "ElemWise": [lambda: cells.ElemWise("Prod", inputs=["before", "other"]), lambda: cells.ElemWise(
        "AbsSum", inputs=["before", "other"]), lambda: cells.ElemWise("EuclideanSum", inputs=["before", "other"])],
    "Resize": [lambda: cells.Resize(5, 11)],
    "Threshold": [lambda: cells.Threshold(0.3), lambda: cells.Threshold(0.3, operation="ToZero")],
    "Unpool": [lambda: cells.Unpool([2, 2], pooling="Max", arg_max="pool", inputs=["pool"])],
}
FORMS = [(row, number) for row, forms in CELLS.items() for number in range(len(forms))]
PLAIN = [(row, number) for row, forms in WITHOUT_CORE.items() for number in range(len(forms))]


def network(make, steps=15, last=True):
    """Convolutions with quantized outputs, the cell with a quantized output, and a fully connected layer."""
    before = cells.Conv(None, 4, [3, 3], padding_dims=[1, 1], name="before", quantizer=weights(steps), no_bias=True,
                        activation=act(steps))
    other = cells.Conv(None, 4, [3, 3], padding_dims=[1, 1], name="other", quantizer=weights(steps), no_bias=True,
                       activation=act(steps), inputs=["sp"])
    cell = make()
    cell.name, cell.inputs = "cell", cell.inputs or ["before"]
    if isinstance(cell, cells.BatchNorm2d):  # it goes into the convolution before it
        before.activation = activation.Linear()
    keep = cell.activation
    cell.activation = type(keep)(**{**vars(keep), "quantizer": quantizer.SATAct(range=steps, alpha=ALPHA)})
    pool = cells.Pool2d([2, 2], stride_dims=[2, 2], name="pool", inputs=["before"])
    made = [before, *([other] if "other" in cell.inputs else []), *([pool] if "pool" in cell.inputs else []), cell]
    found = CellNetwork(made + ([cells.Fc(None, 6, name="last", quantizer=weights())] if last else []), SIZE, seed=4)
    net = found.build()
    for _, layer in net._children.items():
        if type(layer).__name__ == "BatchNorm":
            layer.running_var.set_data(mx.nd.array([0.3, 0.02, 0.1, 0.5]))
            layer.gamma.set_data(mx.nd.array([1.0, -0.5, 0.7, 0.2]))
            layer.beta.set_data(mx.nd.array([0.1, 0.3, -0.1, 0.05]))
    set_mode(net, "offline", "activation")
    return net


def images(count=16):
    return np.random.RandomState(1).randint(0, 256, (count, *SIZE)).astype(np.float32) / np.float32(255)


def test_the_page_has_the_24_rows():
    assert len(rows()) == 24
    assert {row for row, (_, carries, _) in rows().items() if carries == "yes"} == set(CELLS)
    # what the page calls no is no cell
    assert not {row for row, (_, carries, _) in rows().items() if carries == "no"} & set(KINDS)


@pytest.mark.parametrize("row, form", FORMS + PLAIN, ids=str)
def test_outputs_carry_quantizers(row, form):
    forms = [*CELLS[row], *WITHOUT_CORE.get(row, [])]
    make = WITHOUT_CORE[row][form] if (row, form) in PLAIN and (row, form) not in FORMS else forms[form]
    y = network(make, last=False)(mx.nd.array(images())).asnumpy()
    levels = np.unique(y)
    assert rows()[row][1] == "yes" and 2 <= len(levels) <= 16
    np.testing.assert_allclose(levels * 15 / ALPHA, np.rint(levels * 15 / ALPHA), rtol=0, atol=1e-4)


@pytest.mark.parametrize("row, form", [case for case in FORMS if case[0] not in ("FMP", "Softmax")], ids=str)
def test_integer_cores(row, form):
    """Every code is that of the network with its quantizers; nothing but whole numbers is left."""
    assert rows()[row][2] == "yes"
    net, x = network(CELLS[row][form]), images()
    fused, codes = fuse_qat(net, SIZE, input_grid=BYTES), unfused_codes(net, SIZE, x, BYTES)
    found = fused.codes(x)
    assert set(found) == set(codes) and not any(isinstance(node, BatchNorm) for node in fused.model.nodes)
    for name, values in found.items():
        np.testing.assert_array_equal(values, codes[name], err_msg=name)
    assert len(np.unique(codes["last"])) > 2
    want = net(mx.nd.array(x)).asnumpy()
    # the simulation is float32: a few of its codes are others, next to the middle
    assert (np.abs(fused(x) - want).max(axis=1) <= 1e-3 * np.abs(want).max()).mean() >= 0.75


@pytest.mark.parametrize("make", [CELLS["FMP"][0], CELLS["Softmax"][0], *(
    make for forms in WITHOUT_CORE.values() for make in forms)])
def test_no_integer_core(make):
    assert rows()["FMP"][2] == rows()["Softmax"][2] == "no"
    with pytest.raises(DeployError):
        fuse_qat(network(make), SIZE, input_grid=BYTES)


@pytest.mark.parametrize("row", [row for row, (cell, _, _) in rows().items() if cell == "yes"])
@pytest.mark.parametrize("steps", LEVELS)
def test_parameters_are_quantized(row, steps):
    """To as many levels as `Range` says; a BatchNorm's go into factors."""
    if row == "BatchNorm":
        fused = fuse_qat(network(CELLS[row][0], steps), SIZE, input_grid=BYTES)
        assert len(quantized(fused.model)) == 2 and not any(isinstance(node, BatchNorm) for node in fused.model.nodes)
        return
    cell = CELLS[row][0]()
    cell.quantizer = weights(steps)
    net = network(lambda: cell, steps, last=False)
    layer = net._children["cell"]
    values = np.unique(layer.rounded(mx.nd, layer.weight.data()).asnumpy())
    assert 2 <= len(values) <= steps + 1
    y = np.unique(net(mx.nd.array(images())).asnumpy())
    assert 2 <= len(y) <= steps + 1
    with pytest.raises(ConfigError, match="range must be a whole number from 1 to 65535, got 0"):
        weights(0)
