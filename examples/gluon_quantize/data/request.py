# SPDX-License-Identifier: MIT
"""Which images a run reads, and how it prepares them."""

import dataclasses
from typing import Optional

# for networks that do not say what they were made for
DATASET = "imagenet"


@dataclasses.dataclass(frozen=True)
class ImagesRequest:
    """The images to evaluate on.

    Parameters
    ----------
    dataset : {'imagenet', 'cifar10', 'mnist', 'digits'}, optional
        None: the one the network was made for, imagenet where that is unknown.
    folder : str or path, optional
        Of the files; see `gluon_quantize.data.datasets.open_dataset`.
    resize, crop : int, optional
        Pixels, 0: leave the step out; None: as the model says.
    count : int, optional
        Evaluate only the first so many images.
    batch_size : int
    workers : int
        Threads that decode images.
    """

    dataset: Optional[str] = None
    folder: Optional[str] = None
    resize: Optional[int] = None
    crop: Optional[int] = None
    count: Optional[int] = None
    batch_size: int = 128
    workers: int = 4

    def dataset_for(self, hint: Optional[str]) -> str:
        """The data set's name, for a network that was made for `hint`."""
        return self.dataset or hint or DATASET
