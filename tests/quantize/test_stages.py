# SPDX-License-Identifier: MIT
import glob
import tempfile

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.convert import convert_model
from quantize.errors import CalibrationError
from quantize.stages import Chain, LayerGraph, product


class Branches(nn.HybridBlock):
    """A stem whose output two convolutions read; added, concatenated with the stem, then a Dense."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.stem, self.left, self.right = nn.Conv2D(4, 3, padding=1), nn.Conv2D(4, 1), nn.Conv2D(4, 3, padding=1)
            self.out = nn.Dense(3)

    def hybrid_forward(self, F, x):
        stem = F.relu(self.stem(x))
        both = F.clip(self.left(stem) + self.right(stem), 0, 6)
        return self.out(F.Pooling(F.concat(both, stem, dim=1), kernel=(2, 2), stride=(2, 2), pool_type="max"))


@pytest.fixture
def net():
    mx.random.seed(1)
    net = Branches()
    net.initialize(mx.init.Uniform(0.5))
    net(mx.nd.zeros((1, 2, 6, 6)))
    return net


def as_it_is(graph):
    def compute(step, x):
        layer = graph.layers[step.layer]
        return product(step, x, layer.weight.data(), layer.bias.data())
    return compute


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_an_output_reached_in_stages_is_the_networks(net, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    batches = [mx.nd.random.normal(shape=(3, 2, 6, 6)), mx.nd.random.normal(shape=(2, 2, 6, 6))]
    graph = LayerGraph(net)
    chain = Chain(graph, batches, as_it_is(graph), memory)
    for path, calls in graph.calls.items():
        chain.advance(calls[0])
        first = next(iter(chain.inputs_of(graph.steps[calls[0]])))
        assert len(first) == 3, path
        assert bool(glob.glob(str(tmp_path / "feature_map_*"))) == (memory == 0)
    expected = np.concatenate([net(batch).asnumpy() for batch in batches])
    np.testing.assert_allclose(chain.outputs(), expected, rtol=1e-5, atol=1e-5)
    del chain
    assert glob.glob(str(tmp_path / "*")) == []


def test_a_copy_goes_its_own_way(net):
    graph = LayerGraph(net)
    batch = mx.nd.random.normal(shape=(3, 2, 6, 6))
    chain = Chain(graph, [batch], as_it_is(graph))
    chain.advance(graph.calls["right"][0])

    def doubled(step, x):
        return 2 * as_it_is(graph)(step, x)

    other = chain.copy(doubled).outputs()
    np.testing.assert_allclose(chain.outputs(), net(batch).asnumpy(), rtol=1e-5, atol=1e-5)
    assert np.abs(other - chain.outputs()).max() > 0.1


def test_a_converted_network_is_seen_as_it_is_in_float(net):
    float_graph = LayerGraph(net)
    convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int4/channel", "input": "auto4"}])
    graph = LayerGraph(net)
    assert list(graph.calls) == list(float_graph.calls) == ["stem", "left", "right", "out"]
    assert {q.mode for layer in graph.layers.values() for _, q in layer.quantizers()} == {"online"}


def test_what_only_a_relu_reads_is_rectified(net):
    graph = LayerGraph(net)
    assert [path for path, calls in graph.calls.items() if graph.is_rectified(graph.steps[calls[0]])] == ["stem"]


def test_a_network_that_looks_at_values_is_refused():
    class Looking(nn.HybridBlock):
        def hybrid_forward(self, F, x):
            return x if x.asnumpy().sum() > 0 else -x

    with pytest.raises(CalibrationError, match="cannot be traced"):
        LayerGraph(Looking())
