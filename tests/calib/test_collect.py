# SPDX-License-Identifier: MIT
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from calib.calibrators import CALIBRATORS, MinMax, Naive
from calib.collect import calibrate, collect, factories_for, observe
from calib.observers import EMAObserver, MinMaxObserver, MomentsObserver
from quantize.convert import convert_model, fake_bn
from quantize.errors import CalibrationError, ConfigError, DataError
from quantize.modes import quantizers


@pytest.fixture
def converted(small_net):
    return convert_model(small_net)


@pytest.mark.parametrize("hybridize", [False, True])
def test_observation_sees_the_float_network(small_net, images, hybridize):
    relu = small_net[:3](images).asnumpy()
    small_net.hybridize(hybridize, static_alloc=hybridize)
    convert_model(small_net)
    quantized = small_net(images).asnumpy()
    observers = observe(small_net, [images], MinMax())
    assert observers["0.input_quantizer"].range() == (images.asnumpy().min(), images.asnumpy().max())
    assert observers["3.input_quantizer"].range() == pytest.approx((0, relu.max()), rel=1e-6)
    np.testing.assert_array_equal(small_net(images).asnumpy(), quantized)  # modes and hybridization are back


def test_thresholds_are_stored_and_returned(converted, images):
    thresholds = calibrate(converted, observe(converted, [images], MinMax()), MinMax())
    assert thresholds["0.input_quantizer"] == pytest.approx(np.abs(images.asnumpy()).max(), rel=1e-6)
    assert converted[0].input_quantizer.calibrated


def test_pairs_batches_and_several_passes(converted, images):
    halves = [(images[:2], mx.nd.zeros(2)), (images[2:], mx.nd.zeros(2))]
    whole = observe(converted, [images], MinMax())
    split = observe(converted, halves, MinMax())
    assert {p: o.range() for p, o in whole.items()} == {p: o.range() for p, o in split.items()}
    again = observe(converted, [images], MinMax(), split)
    assert again["0.input_quantizer"].samples == 8


def test_folded_batchnorm_is_calibrated_too(small_net, images):
    convert_model(small_net)
    expected = calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    fake_bn(small_net)
    found = calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    assert found == pytest.approx(expected, rel=0.02)


def test_an_empty_set_is_an_error(converted):
    with pytest.raises(CalibrationError, match="empty"):
        observe(converted, [], Naive())


def test_nan_is_refused_with_the_layers_name(converted, images):
    images[0, 0, 0, 0] = float("nan")
    before = [converted[0].input_quantizer.mode, converted[0].weight_quantizer.mode]
    with pytest.raises(DataError, match="0.input_quantizer: 1 of 768 values are NaN"):
        observe(converted, [images], Naive())
    assert [converted[0].input_quantizer.mode, converted[0].weight_quantizer.mode] == before
    assert converted[0].input_quantizer.observer is None


def test_weights_only_networks_have_nothing_to_calibrate(small_net, images):
    convert_model(small_net, config_list=[{"input": "float"}])
    with pytest.raises(CalibrationError, match="nothing to calibrate"):
        observe(small_net, [images], Naive())


def test_a_missing_observer_is_named(converted, images):
    observers = observe(converted, [images], Naive())
    del observers["3.input_quantizer"]
    with pytest.raises(CalibrationError, match="3.input_quantizer: was not observed"):
        calibrate(converted, observers, Naive())


# --- one pass, several collectors ---------------------------------------------------------------------------------

EVERY = [CALIBRATORS.get(name)() for name in CALIBRATORS.names()]


def states(collected, without=("ema",)):
    return json.dumps({path: {name: observer.state() for name, observer in of_path.items() if name not in without}
                       for path, of_path in collected.items()}, sort_keys=True)


def batches_of(x, size):
    return [x[start:start + size] for start in range(0, len(x), size)]


@pytest.fixture
def many():
    return np.random.RandomState(0).randn(70, 3, 8, 8).astype(np.float32)


def test_one_pass_serves_all_calibrators(converted, many):
    collected = collect(converted, batches_of(many, 16), factories_for(EVERY))
    assert {name for of_path in collected.values() for name in of_path} == {"histogram", "minmax", "ema"}
    for calibrator in EVERY:
        alone = observe(converted, batches_of(many, 16), calibrator)
        assert calibrate(converted, collected, calibrator) == calibrate(converted, alone, calibrator)


@pytest.mark.parametrize("size", [1, 7, 64, 70])
def test_batches_and_order_and_shards_do_not_matter(converted, many, size):
    factories = dict(factories_for(EVERY), moments=MomentsObserver)
    whole = states(collect(converted, [many], factories))
    assert states(collect(converted, batches_of(many[::-1], size), factories)) == whole
    parts = [collect(converted, batches_of(many[i::4], size), factories) for i in range(4)]
    for path, of_path in parts[0].items():
        for name, observer in of_path.items():
            for part in parts[1:]:
                observer.merge(part[path][name])
    assert states(parts[0]) == whole


def test_the_moving_average_sees_the_batches_as_they_came(converted, many):
    expected = EMAObserver()
    for size in (20, 5, 45):
        expected.update(many[expected.samples:expected.samples + size])
    batches = [many[:20], many[20:25], many[25:]]
    assert observe(converted, batches, Naive())["0.input_quantizer"].state() == expected.state()


class Plain(gluon.Block):
    """A network that cannot be traced."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x * float(x.asnumpy().any()))


def test_a_network_that_cannot_be_traced_gives_the_same(small_net, converted, many, caplog):
    graph = states(collect(converted, batches_of(many, 9), factories_for(EVERY)))
    with caplog.at_level("INFO", "calib.collect"):
        eager = collect(Plain(converted), batches_of(many, 9), factories_for(EVERY))
    assert "cannot be traced" in caplog.text
    assert states({path.replace("body.", "", 1): of_path for path, of_path in eager.items()}) == graph


def test_layers_that_read_one_tensor_share_their_observers(many):
    class Fork(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (gluon.nn.Conv2D(4, 3, in_channels=channels) for channels in (3, 3, 4))

        def hybrid_forward(self, F, x):
            return self.c(self.a(x)) + self.c(self.b(x))
    net = Fork()
    net.initialize()
    convert_model(net)
    collected = collect(net, [many], factories_for(EVERY))
    inputs = [of_path for path, of_path in collected.items() if not path.startswith("c")]
    assert all(of_path["minmax"] is inputs[0]["minmax"] for of_path in inputs)
    assert inputs[0]["minmax"].samples == 70
    assert collected["c.input_quantizer"]["minmax"].samples == 140  # called twice, on two tensors


def test_a_users_own_collector(converted, many):
    class Mean:
        def __init__(self):
            self.sum, self.images = 0.0, 0

        def update(self, array):
            assert array.dtype == np.float32 and array.shape[1:] == (3, 8, 8) or array.ndim in (2, 4)
            self.sum += array.mean(axis=tuple(range(1, array.ndim)), dtype=float).sum()
            self.images += len(array)
    found = collect(converted, [(many, np.zeros(70))], {"mean": Mean, "minmax": MinMaxObserver})
    mean = found["0.input_quantizer"]["mean"]
    assert mean.images == 70 and mean.sum / 70 == pytest.approx(many.mean(), abs=1e-6)


def test_a_users_collector_may_keep_what_it_is_given(converted, many):
    class Keep(list):
        update = list.append
    found = collect(converted, batches_of(many, 7), {"keep": Keep})["0.input_quantizer"]["keep"]
    np.testing.assert_array_equal(np.concatenate(found), many)


def test_data_iterators_and_loaders(converted, many):
    whole = states(collect(converted, [many], factories_for(EVERY)))
    labels = np.arange(70)
    padded = mx.io.NDArrayIter(many, labels, batch_size=16)  # the last batch is filled up with the first images
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(many, labels), batch_size=16)
    for source in (padded, loader, iter(batches_of(many, 3)), (mx.nd.array(part) for part in batches_of(many, 40))):
        assert states(collect(converted, source, factories_for(EVERY))) == whole


@pytest.mark.parametrize("batches, says", [
    ([np.zeros((2, 3, 8, 8)), np.zeros((2, 3, 9, 8))], r"batch 2 holds images of shape \(3, 9, 8\), those before"),
    (["images"], "batch 1 is a str"), ([None], "batch 1 is a NoneType"), ([np.zeros((0, 3, 8, 8))], "batch 1 has the"),
    ([np.zeros(3)], r"shape \(3,\)"), ([[]], "batch 1 is a list"), ([np.array(["a"], object)], "batch 1")])
def test_batches_that_cannot_be_used(converted, batches, says):
    with pytest.raises(DataError, match=says):
        collect(converted, batches, factories_for(EVERY))
    assert {quantizer.mode for _, quantizer in quantizers(converted)} == {"online"}


def test_observers_of_another_network_do_not_go_on(converted, images):
    with pytest.raises(CalibrationError, match="0.input_quantizer: no observer goes on here.*theirs: other"):
        collect(converted, [images], {}, {"other": {"minmax": MinMaxObserver()}})


def test_two_moving_averages_need_two_passes():
    with pytest.raises(ConfigError, match="naive: needs another ema observer"):
        factories_for([Naive(0.9), Naive(0.5)])
    assert factories_for([CALIBRATORS.get("kl")()], 100)["histogram"]().per_image == 100
