# SPDX-License-Identifier: MIT
"""The parts of the training loop: images, rates, metrics, sums of gradients."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from gluon_quantize.data import preprocess
from gluon_quantize.data.batches import batches
from gluon_quantize.data.image_set import ArraySet
from gluon_quantize.models.loading import open_model
from gluon_quantize.models.metrics import NAMES, class_metrics, mean_metrics
from gluon_quantize.models.request import NetworkRequest
from gluon_quantize.training.augmentation import Augmentation
from gluon_quantize.training.images import ArrayReader, FileReader, TrainingImages
from gluon_quantize.training.loop import Run, seed_epoch, train_epoch, where_not_finite
from gluon_quantize.training.optimizers import OptimizerChoice, Optimizers
from gluon_quantize.training.rates import Rates, restarted
from quantize.convert import convert_model, trace
from quantize.errors import ConfigError, DataError
from quantize.modes import set_mode, update_ema
from quantize.train import GradientSum, Hook, start_training


@pytest.fixture
def colours():
    """Nine 6x5 colour images, one of each class in turn of three."""
    images = np.random.RandomState(0).randint(0, 256, (9, 6, 5, 3)).astype(np.uint8)
    return ArraySet("colours", images, np.arange(9) % 3, list("abc"))


STEPS = preprocess.cifar10()


# --- images -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_plain_images_are_those_of_evaluation(colours, order):
    steps = preprocess.Preprocessing(order, 1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    expected = next(iter(batches(colours, steps, 9)))[0].asnumpy()
    for reader in (ArrayReader, FileReader):
        found = reader(colours, steps, Augmentation()).read(np.arange(9), np.random.RandomState(1))
        np.testing.assert_array_equal(found, expected)


def test_shifts_and_mirrors(colours):
    """Every augmented image is a crop of the bordered image, mirrored or not; all places and both ways come up."""
    reader = ArrayReader(colours, preprocess.Preprocessing(scale=1.0), Augmentation("crop-flip", 1))
    random, seen = np.random.RandomState(0), set()
    for _ in range(20):
        for index, found in enumerate(reader.read(np.arange(9), random)):
            bordered = np.pad(colours.images[index].transpose(2, 0, 1), ((0, 0), (1, 1), (1, 1)))
            fits = [(row, column, way) for row in range(3) for column in range(3) for way in (1, -1)
                    if (bordered[:, row:row + 6, column:column + 5][..., ::way] == found).all()]
            assert fits
            seen.update(fits)
    assert len(seen) == 18


def test_random_parts_of_files(colours):
    """Crops of files have the wanted size and come from the image: a flat image stays flat."""
    flat = ArraySet("flat", np.full((4, 40, 30, 3), 7, np.uint8), np.zeros(4), ["a"])
    steps = preprocess.Preprocessing(scale=1.0, resize=32, crop=(16, 24))
    found = FileReader(flat, steps, Augmentation("crop-flip")).read(np.arange(4), np.random.RandomState(0))
    assert found.shape == (4, 3, 16, 24) and (found == 7).all()
    ramp = ArraySet("ramp", np.tile(np.arange(40, dtype=np.uint8)[:, None, None], (6, 1, 30, 3)), np.zeros(6), ["a"])
    found = FileReader(ramp, steps, Augmentation("crop")).read(np.arange(6), np.random.RandomState(0))
    assert (np.diff(found, axis=2) >= 0).all() and len({image.tobytes() for image in found}) == 6


def test_epochs_depend_on_seed_and_number_alone(colours):
    def epoch(number, seed=0, ahead=0):
        images = TrainingImages(colours, STEPS, 4, Augmentation("crop-flip", 2), seed=seed)
        for other in range(ahead):
            list(images.epoch(other))
        return [(x.asnumpy().tobytes(), tuple(y.asnumpy())) for x, y in images.epoch(number)]
    assert len(epoch(0)) == 2
    assert epoch(2) == epoch(2, ahead=2)
    assert len({tuple(epoch(number, seed)) for number in (0, 1) for seed in (0, 1)}) == 4


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_augmentation_changes_from_epoch_to_epoch(kind, files):
    """All images are alike, so that their order says nothing."""
    alike = ArraySet("alike", np.tile(np.random.RandomState(1).randint(0, 256, (1, 12, 12, 3)).astype(np.uint8),
                                      (8, 1, 1, 1)), np.zeros(8), ["a"])
    steps = preprocess.Preprocessing(scale=1.0, resize=12, crop=8) if files else STEPS
    images = TrainingImages(alike, steps, 8, Augmentation(kind, 2))
    epochs = [next(images.epoch(number))[0].asnumpy() for number in (0, 1, 2, 0)]
    assert len({epoch.tobytes() for epoch in epochs[:3]}) == 3
    np.testing.assert_array_equal(epochs[0], epochs[3])


def test_random_numbers_of_an_epoch_depend_on_seed_and_number_alone():
    def drawn(seed, number):
        seed_epoch(seed, number)
        return np.random.rand(3).tobytes(), mx.nd.random.uniform(shape=(3,)).asnumpy().tobytes()
    first = drawn(7, 2)
    np.random.rand(5), mx.nd.random.uniform(shape=(5,)).asnumpy()
    assert drawn(7, 2) == first
    others = [drawn(seed, number) for seed, number in ((7, 3), (8, 2), (2, 7))]
    for part in (0, 1):
        assert len({first[part], *(other[part] for other in others)}) == 4


def test_dropout_of_a_resumed_epoch_is_the_same(colours):
    """What an epoch draws does not depend on what was drawn before it: `train_epoch` begins with `seed_epoch`."""
    def trained(drawn_before):
        mx.random.seed(drawn_before)
        net = nn.HybridSequential()
        net.add(nn.Flatten(), nn.Dropout(0.5), nn.Dense(3, in_units=90))
        net.initialize(mx.init.Constant(0.1))
        choice = OptimizerChoice("sgd", 0.1, {"wd": 0.0, "momentum": 0.0})
        run = Run(net, TrainingImages(colours, STEPS, 4), Optimizers.of(net, choice, choice), Hook(), lambda step: 1.0,
                  mx.cpu(), seed=5)
        train_epoch(run)
        return net[2].weight.data().asnumpy()
    np.testing.assert_array_equal(trained(1), trained(2))


def test_every_image_once(colours):
    images = TrainingImages(colours, STEPS, 3, indices=[0, 1, 2, 4, 5, 7])
    seen = np.concatenate([x.asnumpy() for x, _ in images.epoch(0)])
    expected = next(iter(batches(colours, STEPS, 9)))[0].asnumpy()[[0, 1, 2, 4, 5, 7]]
    assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in expected)


def test_images_that_do_not_fit(colours):
    with pytest.raises(DataError, match="9 training images do not fill a batch of 10"):
        TrainingImages(colours, STEPS, 10)
    with pytest.raises(DataError, match="3 channels, the network takes 1"):
        TrainingImages(colours, preprocess.mnist(), 3)
    with pytest.raises(ConfigError, match="augmentation"):
        Augmentation("mixup")


# --- rates --------------------------------------------------------------------------------------------------------

def test_cosine():
    rates = Rates("cosine", 100, 20)
    shares = [rates.share(step) for step in range(100)]
    assert shares[:3] == pytest.approx([1 / 21, 2 / 21, 3 / 21]) and shares[20] == 1 and 0 < shares[-1] < 1e-3
    assert shares[60] == pytest.approx(0.5) and (np.diff(shares[20:]) < 0).all()


def test_steps_and_constant():
    rates = Rates("step", 10, drops=(3, 6), decay=0.1)
    assert [rates.share(step) for step in (0, 2, 3, 5, 6, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert {Rates("constant", 10).share(step) for step in range(10)} == {1}


def test_rates_start_again():
    rate = restarted(Rates("cosine", 4), Rates("constant", 4), 5.0)
    assert [rate(step) for step in (0, 2, 4, 7)] == pytest.approx([5, 2.5, 1, 1])


@pytest.mark.parametrize("options", [("linear", 10), ("cosine", 10, 11)])
def test_bad_rates(options):
    with pytest.raises(ConfigError):
        Rates(*options)


# --- metrics ------------------------------------------------------------------------------------------------------

def test_metrics_by_counting():
    random = np.random.RandomState(2)
    truth, named = random.randint(0, 3, 50), random.randint(0, 4, 50)
    matrix = np.zeros((4, 4), int)
    np.add.at(matrix, (truth, named), 1)
    found = class_metrics(matrix)
    assert tuple(found) == NAMES
    for c in range(4):
        tp = sum((truth == c) & (named == c))
        fp = sum((truth != c) & (named == c))
        fn = sum((truth == c) & (named != c))
        tn = 50 - tp - fp - fn
        sensitivity, specificity = tp / (tp + fn) if tp + fn else 0, tn / (tn + fp)
        assert [found[name][c] for name in NAMES] == pytest.approx([
            sensitivity, specificity, tp / (tp + fp), (tp + tn) / 50, 2 * tp / (2 * tp + fp + fn),
            sensitivity + specificity - 1])
    # class 3 does not occur
    assert mean_metrics(matrix)["sensitivity"] == pytest.approx(found["sensitivity"][:3].mean())


# --- steps --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["ste", "lsq", "pact"])
def test_sum_of_gradients(method):
    """Gradients of two half batches, summed, are those of the whole batch (there is no BatchNorm here)."""
    mx.random.seed(1)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=2), nn.Activation("relu"), nn.Conv2D(4, 3, in_channels=4), nn.Flatten(),
            nn.Dense(3, in_units=4 * 16))
    net.initialize(mx.init.Xavier(magnitude=3))
    x, y = mx.nd.random.normal(shape=(8, 2, 8, 8)), mx.nd.array([0, 1, 2, 0, 1, 2, 0, 1])
    net = convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int4", "input": "auto4",
                                           "method": method}], example_input=x)
    net.hybridize(static_alloc=True, static_shape=True)
    start_training(net, x, "online")
    choice = OptimizerChoice("sgd", 0.1, {})
    optimizers = Optimizers.of(net, choice, choice)
    loss_of, total = gluon.loss.SoftmaxCrossEntropyLoss(), GradientSum(optimizers.parameters)

    def gradients():
        return {p.name: p.grad().asnumpy().copy() for p in optimizers.parameters if p.grad_req != "null"}

    def backward(x, y):
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
    if method == "ste":  # ranges of the whole batch for its halves, too
        set_mode(net, "ema", "activation")
        with autograd.train_mode():
            net(x)
        update_ema(net)
        set_mode(net, "offline", "activation")
    backward(x, y)
    whole = gradients()
    for half in (slice(0, 4), slice(4, 8)):
        backward(x[half], y[half])
        total.add()
    total.put()
    for name, gradient in gradients().items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_where_not_finite(small_net, images):
    small_net[3].weight.data()[0] = np.inf
    assert where_not_finite(small_net, images).endswith(" that of 3")
    small_net[3].weight.data()[0] = 0
    assert "finite" in where_not_finite(small_net, images) and "that of" not in where_not_finite(small_net, images)


def test_unknown_optimizer():
    with pytest.raises(ConfigError, match="unknown optimizer 'adm'"):
        OptimizerChoice("adm", 0.1, {})


def test_last_layers():
    graph = trace(open_model(NetworkRequest(model="digits_lenet")).net)
    assert (graph.first_layers(), graph.last_layers()) == (["features.0"], ["output"])
