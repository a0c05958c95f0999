# SPDX-License-Identifier: MIT
"""Epochs of an N2D2 provider: order and augmentation by the seed and the number of the epoch alone."""

import numpy as np
import pytest
from PIL import Image

from gluon_quantize.training.provided import ProvidedBatches, ProvidedTraining
from quantize.errors import DataError
from quantize.interfaces.n2d2 import transform
from quantize.interfaces.n2d2.database import DIR, MNIST
from quantize.interfaces.n2d2.provider import DataProvider

COUNT = 12


@pytest.fixture(params=["arrays", "files"])
def alike(request, tmp_path):
    """function(*transformations) -> provider of images that are all alike, but for their labels."""
    image = np.random.RandomState(1).randint(0, 256, (28, 28)).astype(np.uint8)
    if request.param == "arrays":
        labels = np.arange(COUNT, dtype=np.uint8)
        np.savez(tmp_path / "mnist.npz", x_train=np.stack([image] * COUNT), y_train=labels, x_test=image[None],
                 y_test=labels[:1])
        database = MNIST(data_path=tmp_path)
    else:
        for label in range(COUNT):
            (tmp_path / f"{label:02}").mkdir()
            Image.fromarray(image).save(tmp_path / f"{label:02}" / "a.png")
        database = DIR(1.0, data_path=tmp_path)

    def provider(*transformations):
        made = DataProvider(database, [8, 8, 1], COUNT // 2)
        for each in (transform.ColorSpace("Gray"), *transformations):
            made.add_transformation(each)
        return made
    return provider


def epoch(provider, number, seed=3):
    """(Labels in their order, label -> image) of an epoch."""
    order, images = [], {}
    for x, y in ProvidedTraining(provider, seed).epoch(number):
        order += list(y.asnumpy())
        images.update(zip(y.asnumpy(), x.asnumpy()))
    return order, images


def test_augmentation_and_order_change_from_epoch_to_epoch(alike):
    provider = alike(transform.SliceExtraction(8, 8, random_offset_x=True, random_offset_y=True, apply_to="LearnOnly"),
                     transform.Flip(random_horizontal_flip=True, apply_to="LearnOnly"))
    epochs = [epoch(provider, number) for number in (0, 1, 2, 0)]
    orders = [order for order, _ in epochs]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len(set(map(tuple, orders))) == 3 and orders[0] == orders[3]
    # the images of an epoch, whatever their order: others in each epoch, and each drawn by itself
    drawn = [frozenset(image.tobytes() for image in images.values()) for _, images in epochs]
    assert len(set(drawn)) == 3 and all(len(images) > COUNT // 2 for images in drawn)
    assert len(drawn[0] & drawn[1]) < COUNT // 2
    assert all(np.array_equal(epochs[0][1][label], epochs[3][1][label]) for label in range(COUNT))
    assert epoch(provider, 0, seed=4)[0] != orders[0]


def test_what_draws_nothing_is_the_same_in_every_epoch(alike):
    provider = alike(transform.Rescale(8, 8))
    first = {image.tobytes() for image in epoch(provider, 0)[1].values()}
    assert len(first) == 1 and first == {image.tobytes() for image in epoch(provider, 1)[1].values()}


def test_images_in_order_and_batches_that_are_not_filled(alike):
    provider = alike(transform.Rescale(8, 8))
    labels = [label for _, batch in ProvidedBatches(provider, "Learn") for label in batch]
    assert labels == list(range(COUNT)) and len(ProvidedBatches(provider, "Learn")) == 2
    provider.batch_size = COUNT + 1
    with pytest.raises(DataError, match="do not fill a batch of 13; set a smaller BatchSize"):
        ProvidedTraining(provider, 1)
