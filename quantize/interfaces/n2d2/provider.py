# SPDX-License-Identifier: MIT
"""N2D2's stimuli provider: batches of a database's images behind its transformations."""

import concurrent.futures
from math import prod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from quantize.errors import ConfigError, DataError
from quantize.interfaces.n2d2.database import Database
from quantize.interfaces.n2d2.tensor import Tensor
from quantize.interfaces.n2d2.transform import Composite, Flip, RangeAffine, SliceExtraction, Transformation
from quantize.limits import claim

Batch = Tuple[np.ndarray, np.ndarray]
FULL = np.float32(255)
MOVING = (Flip, SliceExtraction)  # leave every pixel the number that it was, or cut it off


class DataProvider:
    """Images of a size, in batches.

    Parameters
    ----------
    database : Database
    size : (int, int, int)
        Width, height, channels.
    batch_size : int
    seed : int
    threads : int
        For images in files.

    Attributes
    ----------
    partition : str
        The one that is read from.
    """

    def __init__(self, database: Database, size: Sequence[int], batch_size: int = 1, seed: int = 1,
                 threads: int = 2) -> None:
        if len(size) != 3 or batch_size < 1:
            raise ConfigError(f"a provider wants a size (width, height, channels) and a batch size of at least 1, got "
                              f"{tuple(size)} and {batch_size}")
        self.database, self.batch_size = database, int(batch_size)
        width, height, channels = (int(side) for side in size)
        self.shape = (channels, height, width)
        claim(4 * self.batch_size * prod(self.shape), f"a batch of {batch_size} images of {width}x{height}",
              ConfigError)
        self.partition = "Learn"
        self._steps: List[Transformation] = []
        self._kept: Dict[str, np.ndarray] = {}
        self._random, self._threads = np.random.RandomState(seed), threads

    # ---- N2D2's calls

    def add_transformation(self, transformation: Union[Transformation, Composite]) -> None:
        """Put a transformation at the end; what draws nothing is computed once for images that are arrays."""
        new = transformation.transformations if isinstance(transformation, Composite) else [transformation]
        self._steps += new
        self._kept = {}

    #: there is no difference: what draws is drawn anew for every batch
    add_on_the_fly_transformation = add_transformation

    def set_partition(self, partition: str) -> None:
        """Read from ``Learn``, ``Validation`` or ``Test``."""
        self.database.part(partition)
        self.partition = partition

    def get_database(self) -> Database:
        """The database."""
        return self.database

    def read_random_batch(self) -> Tensor:
        """A batch of images drawn from the partition."""
        chosen = self._random.randint(0, self.database.get_nb_stimuli(self.partition), self.batch_size)
        return self._tensor(chosen)

    def read_batch(self, idx: int = 0) -> Tensor:
        """The batch that begins with an image."""
        end = min(idx + self.batch_size, self.database.get_nb_stimuli(self.partition))
        return self._tensor(np.arange(idx, end))

    def _tensor(self, chosen: np.ndarray) -> Tensor:
        images, labels = self.read(self.partition, chosen, self._random)
        return Tensor(mx.nd.array(images), labels)

    # ---- images

    def read(self, partition: str, chosen: np.ndarray, random: np.random.RandomState) -> Batch:
        """(float32 images (N, C, H, W), labels (N,)) of some images of a partition."""
        images, labels = self.database.part(partition)
        steps = [step for step in self._steps if step.applies(partition)]
        fixed = next((number for number, step in enumerate(steps) if step.random), len(steps))
        # drawn before the threads start: which of them is first must not decide
        seeds = random.randint(0, 2 ** 31, len(chosen)) if fixed < len(steps) else np.zeros(len(chosen), int)
        if isinstance(images, np.ndarray):
            kept = self._fixed(partition, steps[:fixed])
            if fixed == len(steps):
                return self._finished(kept[chosen], steps), labels[chosen]
            made = [_through(kept[number], steps[fixed:], seed) for number, seed in zip(chosen, seeds)]
        else:
            def image(number: int, seed: int) -> np.ndarray:
                return _through(self.database.image(partition, int(number)), steps, seed)
            with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
                made = list(pool.map(image, chosen, seeds))
        if len({image.shape for image in made}) > 1:
            raise DataError(f"images of a batch differ in size behind the transformations ({made[0].shape} and others);"
                            " rescale or cut them to one")
        return self._finished(np.stack(made), steps), labels[chosen]

    def bytes_scale(self, partition: str) -> Optional[float]:
        """What bytes of a partition's images are multiplied by, None where they are no bytes times one number."""
        scale, divided = float(1 / FULL), False
        for step in self._steps:
            if not step.applies(partition):
                continue
            if isinstance(step, RangeAffine):
                if divided or not step.divisor:
                    return None
                scale, divided = 1 / step.divisor, True
            elif divided and not isinstance(step, MOVING):  # makes numbers between the bytes
                return None
        return scale

    def _fixed(self, partition: str, steps: Sequence[Transformation]) -> np.ndarray:
        """All images of a partition behind the steps that draw nothing."""
        if partition not in self._kept:
            nothing = np.random.RandomState(0)
            count = self.database.get_nb_stimuli(partition)
            made = []
            for number in range(count):
                image = self.database.image(partition, number)
                for step in steps:
                    image = step(image, nothing)
                made.append(image)
            self._kept[partition] = np.stack(made)
        return self._kept[partition]

    def _finished(self, images: np.ndarray, steps: Sequence[Any]) -> np.ndarray:
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        if images.shape[1:] != self.shape:
            raise DataError(f"images are {images.shape[1:]} (channels, height, width) behind the transformations, the "
                            f"provider's size says {self.shape}; rescale them, or change their ColorSpace")
        # bytes become 0 to 1 unless a transformation has changed their range, as in N2D2
        scaled = any(isinstance(step, RangeAffine) for step in steps)
        images = np.ascontiguousarray(images, np.float32)
        return images if scaled else images / FULL

    def __repr__(self) -> str:
        return f"DataProvider({self.database}, shape={self.shape}, batch_size={self.batch_size}, {self._steps})"


def _through(image: np.ndarray, steps: Sequence[Transformation], seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    for step in steps:
        image = step(image, random)
    return image
