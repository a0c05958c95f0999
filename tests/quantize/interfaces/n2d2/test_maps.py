# SPDX-License-Identifier: MIT
"""Pictures of feature maps: the codes in them are the network's, and each colour is a level."""

import warnings

import mxnet as mx
import numpy as np
import pytest

from quantize.interfaces.n2d2 import activation, cells, quantizer
from quantize.interfaces.n2d2.maps import draw_feature_maps, quantized_outputs
from quantize.interfaces.n2d2.network import CellNetwork

SIZE = (1, 9, 7)


def network(steps=15):
    found = CellNetwork([
        cells.Conv(None, 20, [3, 3], name="conv", quantizer=quantizer.SATCell(range=steps, apply_scaling=True),
                   activation=activation.Linear(quantizer=quantizer.SATAct(range=steps, alpha=0.5))),
        cells.Pool2d([2, 2], stride_dims=[2, 2], name="pool"),
        cells.Fc(None, 6, name="fc", activation=activation.Rectifier(quantizer=quantizer.SATAct(range=3, alpha=2.0)))],
        SIZE, seed=2)
    found.build().hybridize()
    found.start(images())
    return found


def images():
    return mx.nd.array(np.random.RandomState(1).rand(3, *SIZE))


def test_codes_are_those_of_the_network():
    found = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of parameters that no graph reads
        quantized_outputs(found, images()[:1])
    (first, maps, high), (second, scores, most) = quantized_outputs(found, images()[:1])
    assert (first, high, maps.shape) == ("conv", 15, (20, 7, 5))
    assert (second, most, scores.shape) == ("fc", 3, (1, 1, 6))
    y = found.net(images()[:1]).asnumpy()
    np.testing.assert_allclose(y, scores.reshape(1, 6) * np.float32(2.0 / 3), rtol=0, atol=1e-6)
    assert maps.min() == 0 and 8 < maps.max() <= 15 and len(np.unique(maps)) > 8
    # asking for them has not changed what is computed
    np.testing.assert_array_equal(found.net(images()[:1]).asnumpy(), y)


def test_a_picture_for_each_cell(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    made = draw_feature_maps(network(), images(), tmp_path)
    assert [path.name for path in made] == ["conv_outputs_quant.png", "fc_outputs_quant.png"]
    picture = pyplot.imread(str(made[0]))
    assert picture.shape[0] > 300 and picture[..., :3].std() > 0.1
    # of the colours in the maps' own pixels there are no more than levels: the corner of every map is one of them
    assert made == draw_feature_maps(network(), images(), tmp_path)


def test_nothing_without_quantized_outputs(tmp_path):
    plain = CellNetwork([cells.Conv(None, 4, [3, 3], name="conv")], SIZE)
    plain.build()
    assert draw_feature_maps(plain, images(), tmp_path) == [] and list(tmp_path.iterdir()) == []
