# SPDX-License-Identifier: MIT
"""Images of an N2D2 provider, as the training loop and the evaluation read them."""

import concurrent.futures
from typing import Any, Iterator, Optional, Tuple

import mxnet as mx
import numpy as np

from quantize.errors import DataError
from quantize.interfaces.n2d2.provider import DataProvider


class ProvidedTraining:
    """Epochs of a provider's learning images, shuffled and varied by the seed and the number of the epoch alone.

    Images that do not fill the last batch are left out of the epoch. Attributes as those of `TrainingImages`.
    """

    def __init__(self, provider: DataProvider, seed: int):
        self._provider, self._seed = provider, seed
        self.batch_size = provider.batch_size
        self.indices = np.arange(provider.database.get_nb_stimuli("Learn"))
        if len(self.indices) < self.batch_size:
            raise DataError(f"{provider.database}: {len(self.indices)} images to learn from do not fill a batch of "
                            f"{self.batch_size}; set a smaller BatchSize")

    def __len__(self) -> int:
        return len(self.indices) // self.batch_size

    def epoch(self, number: int) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        """The batches of an epoch; the next one is made while the caller computes on this one."""
        order = np.random.RandomState((self._seed, number, 0)).permutation(self.indices)

        def batch(position: int) -> Tuple[np.ndarray, np.ndarray]:
            chosen = order[position * self.batch_size:(position + 1) * self.batch_size]
            return self._provider.read("Learn", chosen, np.random.RandomState((self._seed, number, position + 1)))
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            made = ahead.submit(batch, 0)
            for position in range(len(self)):
                images, labels = made.result()
                if position + 1 < len(self):
                    made = ahead.submit(batch, position + 1)
                yield mx.nd.array(images), mx.nd.array(labels)


class ProvidedBatches:
    """A partition of a provider, in order and as often as wanted: (images NDArray, labels array)."""

    metric: Any = None
    classes: Optional[int] = None

    def __init__(self, provider: DataProvider, partition: str):
        self._provider, self.partition = provider, partition
        self._images = provider.database.get_nb_stimuli(partition)

    def __len__(self) -> int:
        return -(-self._images // self._provider.batch_size)

    def __iter__(self) -> Iterator[Tuple[mx.nd.NDArray, np.ndarray]]:
        size, random = self._provider.batch_size, np.random.RandomState(0)
        for start in range(0, self._images, size):
            images, labels = self._provider.read(self.partition, np.arange(start, min(start + size, self._images)),
                                                 random)
            yield mx.nd.array(images), labels
