# SPDX-License-Identifier: MIT
"""Training images: shuffled and augmented anew in every epoch, by the seed and the number of the epoch alone."""

import concurrent.futures
import copy
from typing import Any, Iterator, Sequence, Tuple, Union

import mxnet as mx
import numpy as np
from PIL import Image

from gluon_quantize.data.image_set import ArraySet, ImageSet
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.training.augmentation import PLAIN, Augmentation
from gluon_quantize.training.workers import Workers
from quantize.errors import DataError

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


class TrainingImages:
    """Epochs of batches of (images NDArray float32 (N, C, H, W), labels NDArray float32 (N,)).

    Parameters
    ----------
    dataset : ImageSet
    preprocessing : Preprocessing
    batch_size : int
        Images that do not fill the last batch are left out of the epoch.
    augmentation : Augmentation
    seed : int
    indices : array of int, optional
        The images to train on; all of them when None.
    threads : int
        For decoding files.
    """

    def __init__(self, dataset: ImageSet, preprocessing: Preprocessing, batch_size: int,
                 augmentation: Augmentation = PLAIN, *, seed: int = 0,
                 indices: Union[None, Sequence[int], np.ndarray] = None, threads: int = 1):
        self.indices = np.arange(len(dataset)) if indices is None else np.asarray(indices)
        if len(self.indices) < batch_size:
            raise DataError(f"{dataset.name}: {len(self.indices)} training images do not fill a batch of {batch_size}; "
                            "use a smaller --batch-size")
        # resized or cropped images go one by one through Pillow, in exactly the arithmetic of validation
        vectorised = isinstance(dataset, ArraySet) and not preprocessing.resize and not preprocessing.crop
        reader: Any = ArrayReader if vectorised else FileReader
        self._reader = reader(dataset, preprocessing, augmentation, threads)
        self.batch_size, self._seed = batch_size, seed
        self._labels, self._workers = dataset.labels, Workers()

    def shared_by(self, workers: Workers) -> "TrainingImages":
        """The same images as one of several workers sees them: batches of all together are the batches of one."""
        shared = copy.copy(self)
        shared.batch_size, shared._workers = workers.batch_size(self.batch_size), workers
        return shared

    def __len__(self) -> int:
        return len(self.indices) // (self.batch_size * self._workers.count)

    def epoch(self, number: int) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        """The batches of an epoch; the next one is made while the caller computes on this one."""
        # every worker draws the same order and takes its part: nothing is sent between them
        order = self._workers.share(np.random.RandomState((self._seed, number, 0)).permutation(self.indices))
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            made = ahead.submit(self._batch, order, number, 0)
            for position in range(len(self)):
                images, labels = made.result()
                if position + 1 < len(self):
                    # one thread ahead: more would only wait, since NumPy holds the interpreter for most of it
                    made = ahead.submit(self._batch, order, number, position + 1)
                # made here and not in the thread: MXNet's arrays are made where they are used
                yield mx.nd.array(images), mx.nd.array(labels)

    def _batch(self, order, epoch, position):
        chosen = order[position * self.batch_size:(position + 1) * self.batch_size]
        seed = (self._seed, epoch, position + 1) + ((self._workers.rank,) if self._workers.rank else ())
        return self._reader.read(chosen, np.random.RandomState(seed)), self._labels[chosen]


class ArrayReader:
    """Batches of an `ArraySet`, augmented without a loop over images."""

    def __init__(self, dataset: ArraySet, preprocessing: Preprocessing, augmentation: Augmentation, threads: int = 1):
        images = dataset.images if dataset.images.ndim == 4 else dataset.images[..., None]
        if images.shape[-1] != len(preprocessing.mean):
            raise DataError(f"{dataset.name}: images have {images.shape[-1]} channels, the network takes "
                            f"{len(preprocessing.mean)}; check --dataset")
        self._images, self._preprocessing, self._augmentation = images, preprocessing, augmentation

    def read(self, chosen: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """float32 (N, C, H, W) of some images.

        Parameters
        ----------
        chosen : array of int, (N,)
        random : numpy.random.RandomState
        """
        kind, pad = self._augmentation.kind, self._augmentation.pad
        images = self._images[chosen].transpose(0, 3, 1, 2)
        if kind != "none":
            images = _shifted(images, pad, random)
        if kind == "crop-flip":
            mirrored = random.rand(len(images)) < 0.5
            images[mirrored] = images[mirrored, ..., ::-1]
        steps = self._preprocessing
        if steps.colour_order == "BGR":
            images = images[:, ::-1]
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (steps.mean, steps.std))
        return (images.astype(np.float32) * np.float32(steps.scale) - mean) / std


def _shifted(images, pad, random):
    """Crops of (N, C, H, W) images with a black border, at random places, in their old size."""
    height, width = images.shape[2:]
    # in bytes, before the mean is subtracted: the border is black and not grey
    bordered = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(bordered, (height, width), axis=(2, 3))  # type: ignore
    rows, columns = random.randint(0, 2 * pad + 1, (2, len(images)))
    return windows[np.arange(len(images)), :, rows, columns]


class FileReader:
    """Batches of images that are decoded one by one, in threads."""

    def __init__(self, dataset: ImageSet, preprocessing: Preprocessing, augmentation: Augmentation, threads: int = 1):
        self._dataset, self._preprocessing, self._augmentation = dataset, preprocessing, augmentation
        self._threads = threads

    def read(self, chosen: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """As `ArrayReader.read`."""
        # drawn before the threads start: which of them is first must not decide
        seeds = random.randint(0, 2 ** 31, len(chosen))
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            images = list(pool.map(self._image, chosen, seeds))
        if len({image.shape for image in images}) > 1:
            raise DataError(f"{self._dataset.name}: images of a batch differ in size after preprocessing; set --crop")
        return np.stack(images)

    def _image(self, index, seed):
        image, origin = self._dataset.load(int(index)), self._dataset.origin(int(index))
        if self._augmentation.kind == "none":
            return self._preprocessing.apply(image, origin)
        random = np.random.RandomState(seed)
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        size = self._preprocessing.crop or min(image.size)
        height, width = size if isinstance(size, tuple) else (size, size)
        box = _random_box(image.width, image.height, random)
        # mypy: Pillow puts these constants there by name
        image = image.resize((width, height), Image.BILINEAR, box=box)  # type: ignore[attr-defined]
        if self._augmentation.kind == "crop-flip" and random.rand() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)  # type: ignore[attr-defined]
        return self._preprocessing.override(resize=0, crop=0).apply(image, origin)


def _random_box(width, height, random):
    """(left, top, right, bottom) of a random part of an image; the whole image when ten tries do not fit."""
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        aspect = np.exp(random.uniform(*np.log(ASPECT)))
        w, h = int(round((area * aspect) ** 0.5)), int(round((area / aspect) ** 0.5))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w + 1), random.randint(0, height - h + 1)
            return left, top, left + w, top + h
    return 0, 0, width, height
