# SPDX-License-Identifier: MIT
"""Batches of preprocessed images, decoded ahead in threads."""

import collections
import concurrent.futures
from typing import TYPE_CHECKING, Callable, Deque, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.request import ImagesRequest
from quantize.errors import ConfigError, DataError

if TYPE_CHECKING:
    import mxnet as mx


class Batches:
    """An iterable, as often as wanted, of (images, labels); `len` is the number of batches.

    images is an mx.nd.NDArray float32 (N, C, H, W) on the CPU, labels a numpy int64 array (N,). See `batches`.
    """

    def __init__(self, dataset: ImageSet, preprocessing: Preprocessing, batch_size: int, indices: np.ndarray,
                 workers: int):
        self._dataset = dataset
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._indices = indices
        self._workers = workers

    @property
    def indices(self) -> np.ndarray:
        """The images, in order."""
        return self._indices

    def of(self, indices: np.ndarray) -> "Batches":
        """Batches of other images of the same data set."""
        return Batches(self._dataset, self._preprocessing, self._batch_size, indices, self._workers)

    @property
    def classes(self) -> Optional[int]:
        """How many the data have; None where that is open."""
        return self._dataset.exact_classes

    @property
    def metric(self) -> Optional[Callable]:
        """The data's own, where they have one."""
        return self._dataset.metric

    def identity(self, index: int) -> str:
        """What identifies an image on any machine."""
        return self._dataset.identity(index)

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> "Iterator[Tuple[mx.nd.NDArray, np.ndarray]]":
        import mxnet as mx  # where images are only compared there may be none
        for images, labels in self.arrays():
            yield mx.nd.array(images), labels

    def arrays(self) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """The same as NumPy arrays."""
        todo = iter(self._indices)
        ahead: Deque[concurrent.futures.Future] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            try:
                for start in range(0, len(self._indices), self._batch_size):
                    # The next batch is decoded while the caller computes on this one; more would only cost memory.
                    while len(ahead) < 2 * self._batch_size:
                        index = next(todo, None)
                        if index is None:
                            break
                        ahead.append(pool.submit(self._image, int(index)))
                    chosen = self._indices[start:start + self._batch_size]
                    images = [ahead.popleft().result() for _ in chosen]
                    yield self._stack(images, chosen), self._dataset.raw_labels(chosen)
            finally:
                for future in ahead:
                    future.cancel()

    def _image(self, index):
        """The float32 (C, H, W) array of one image."""
        return self._dataset.prepared(index, self._preprocessing)

    def _stack(self, images: List[np.ndarray], chosen: np.ndarray) -> np.ndarray:
        """One array of equally large images."""
        for image, index in zip(images, chosen):
            if image.shape != images[0].shape:
                raise DataError(f"{self._dataset.origin(index)}: {image.shape} after preprocessing, but "
                                f"{self._dataset.origin(chosen[0])} is {images[0].shape}; set a crop so that all "
                                "images of a batch are equally large")
        return np.stack(images)


def batches(dataset: ImageSet, preprocessing: Preprocessing, batch_size: int,
            indices: Union[None, Sequence[int], np.ndarray] = None, workers: int = 2) -> Batches:
    """Batches of a data set in a given order; the last one may be smaller.

    Parameters
    ----------
    dataset : ImageSet
    preprocessing : Preprocessing
    batch_size : int
    indices : sequence of int, optional
        The images, in order; all of them when None.
    workers : int
        Decoding threads.

    Returns
    -------
    Batches

    Raises
    ------
    ConfigError
        A batch size or number of workers below 1.
    DataError
        No image, or an index that does not exist; while iterating: an image that cannot be used.
    """
    for name, value in (("batch size", batch_size), ("number of workers", workers)):
        if value < 1:
            raise ConfigError(f"{name} {value}; want at least 1")
    chosen = np.arange(len(dataset)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= len(dataset):
        given = "none" if len(chosen) == 0 else f"{chosen.min()}..{chosen.max()}"
        raise DataError(f"{dataset.name}: want image indices 0..{len(dataset) - 1}, got {given}")
    return Batches(dataset, preprocessing, batch_size, chosen, workers)


def requested(request: ImagesRequest, images: ImageSet, steps: Preprocessing,
              indices: Union[None, Sequence[int], np.ndarray] = None) -> Batches:
    """Batches as the request has them: of `indices`, else of the first `request.count` images."""
    if indices is None and request.count is not None:
        indices = np.arange(min(request.count, len(images)))
    return batches(images, steps, request.batch_size, indices, request.workers)


def verification_batches(request: ImagesRequest, verified: int, images: ImageSet, steps: Preprocessing) -> Batches:
    """The images on which everything is compared: `verified` of those that are evaluated, 0: all of them."""
    count = min(request.count or len(images), verified or len(images), len(images))
    return requested(request, images, steps, np.arange(count))
