# SPDX-License-Identifier: MIT
"""`fuse_qat` as N2D2's scripts call it: the network goes on as whole numbers, without BatchNorms and quantizers."""

import mxnet as mx
import numpy as np
import pytest

from quantize.errors import ConfigError
from quantize.interfaces import n2d2
from quantize.interfaces.n2d2 import activation, cells, quantizer, transform

SIZE = (1, 14, 14)


@pytest.fixture
def provider(tmp_path):
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (40, 28, 28)).astype(np.uint8), np.arange(40, dtype=np.uint8) % 4
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images[:16], y_test=labels[:16])
    made = n2d2.provider.DataProvider(n2d2.database.MNIST(data_path=tmp_path), [14, 14, 1], 8)
    made.add_transformation(transform.Rescale(14, 14))
    return made


def act(steps=15):
    return activation.Linear(quantizer=quantizer.SATAct(range=steps, alpha=1.5))


def weights(**options):
    return quantizer.SATCell(range=15, **options)


@pytest.fixture
def model(provider):
    """A network after two steps, with BatchNorms that do something."""
    found = n2d2.cells.Sequence([
        cells.Conv(1, 4, [3, 3], no_bias=True, quantizer=weights(), name="conv1"),
        cells.BatchNorm2d(4, activation=act(), name="bn1"), cells.Pool2d([2, 2], stride_dims=[2, 2], name="pool1"),
        cells.Conv(4, 6, [3, 3], no_bias=True, quantizer=weights(), name="conv2"),
        cells.BatchNorm2d(6, activation=act(), name="bn2"),
        cells.Fc(None, 4, quantizer=weights(apply_scaling=True), name="fc")])
    softmax, loss = n2d2.cells.Softmax(with_loss=True), n2d2.target.Score(provider)
    for _ in range(2):
        x = loss(softmax(found(provider.read_random_batch())))
        x.back_propagate()
        x.update()
    provider.set_partition("Test")
    return found.test()


def test_the_network_goes_on_without_batchnorms_and_quantizers(model, provider, tmp_path):
    before = model(provider.read_batch(0))
    quantizer.fuse_qat(before.get_deepnet(), provider, "NONE")
    after = model(provider.read_batch(0))
    assert after.get_deepnet() is model and np.array_equal(after.labels, before.labels)
    scale = np.abs(before.to_numpy()).max()
    # the simulation is float32: next to the middle between two codes it may take the other one
    assert (np.abs(after.to_numpy() - before.to_numpy()).max(axis=1) <= 1e-4 * scale).mean() > 0.7
    success = n2d2.target.Score(provider)
    success(n2d2.cells.Softmax(with_loss=True)(after))
    assert 0 <= success.get_average_success() <= 1
    text = model.fused.dot()
    assert "BatchNorm" not in text and "bn1" not in text and text.count("weights of 4 bits") == 3
    assert text.count('label="uint4"') == 3 and text.count('label="uint8"') == 1 and "pool1" in text
    model.draw_graph(tmp_path / "lenet_quant.py")
    assert list(tmp_path.glob("lenet_quant.py.*"))
    # the network that trains is still there
    assert np.array_equal(model.learn().test()(provider.read_batch(0)).to_numpy(), before.to_numpy())
    assert model.fused is None


def test_weights_and_biases_are_those_that_compute(model, provider, tmp_path):
    fused = model.fuse(provider)
    images = provider.read_batch(0).to_numpy()
    model.export_network_free_parameters(tmp_path / "weights_quantized")
    assert sorted(path.name for path in (tmp_path / "weights_quantized").iterdir()) == ["conv1.npz", "conv2.npz",
                                                                                       "fc.npz"]
    codes = fused.codes(images)
    for name, reads in (("conv1", "conv2"), ("fc", None)):
        found = np.load(tmp_path / "weights_quantized" / f"{name}.npz")
        assert found["weights"].dtype == np.int8 and (np.abs(found["weights"]) <= 15).all()
        assert codes[name].min() >= found["input_range"][0] and codes[name].max() <= found["input_range"][1]
        if reads is None:
            sums = codes[name].reshape(8, -1).astype(np.int64) @ found["weights"].astype(np.int64).T
            np.testing.assert_allclose(sums * found["scale"] + found["biases"], fused(images), rtol=1e-5, atol=1e-5)
        else:
            sums = mx.nd.Convolution(mx.nd.array(codes[name]), mx.nd.array(found["weights"]), kernel=(3, 3),
                                     num_filter=4, no_bias=True).asnumpy()
            real = sums * found["scale"].reshape(-1, 1, 1) + found["biases"].reshape(-1, 1, 1)
            step = np.load(tmp_path / "weights_quantized" / f"{reads}.npz")["input_scale"]
            made = np.clip(np.floor(real / step + 0.5), 0, 15).reshape(8, 4, 6, 2, 6, 2).max(axis=(3, 5))
            assert (made == codes[reads]).mean() > 0.999
        assert np.abs(found["biases_q"] * found["scale"] - found["biases"]).max() <= np.abs(found["scale"]).max() / 2


def test_what_the_images_are_multiplied_by(provider):
    def scale(*steps):
        made = n2d2.provider.DataProvider(provider.database, [14, 14, 1], 8)
        for step in steps:
            made.add_transformation(step)
        return made.bytes_scale("Test")
    sixteen, rescale = transform.RangeAffine("Divides", 16.0), transform.Rescale(14, 14)
    assert scale() == pytest.approx(1 / 255) and scale(rescale, sixteen) == 1 / 16
    assert scale(sixteen, transform.Flip(horizontal_flip=True)) == 1 / 16
    assert scale(sixteen, rescale) is None and scale(transform.RangeAffine("Minus", 3.0)) is None
    assert scale(sixteen, sixteen) is None
    assert scale(transform.Rescale(14, 14, apply_to="LearnOnly"), sixteen) == 1 / 16


def test_what_cannot_be_fused_is_said(model, provider):
    with pytest.raises(ConfigError, match="scaling must be one of NONE, .* got 'FLOAT'"):
        quantizer.fuse_qat(model, provider, "FLOAT")
    assert model.fused is None


@pytest.mark.parametrize("steps", [1, 15, 255])
def test_lsq_networks_are_fused_too(provider, steps):
    made = n2d2.cells.Sequence([
        cells.Conv(1, 4, [3, 3], no_bias=True, quantizer=quantizer.LSQCell(range=steps)),
        cells.BatchNorm2d(4, activation=activation.Linear(quantizer=quantizer.LSQAct(range=steps))),
        cells.Fc(None, 4, quantizer=quantizer.LSQCell(range=steps))]).test()
    before = made(provider.read_batch(0)).to_numpy()
    fused = quantizer.fuse_qat(made, provider, "NONE")
    assert all(found["weights"].min() >= -(steps + 1) / 2 for found in fused.numbers().values())
    after = made(provider.read_batch(0)).to_numpy()
    assert (np.abs(after - before).max(axis=1) <= 0.02 * np.abs(before).max()).mean() > 0.7
