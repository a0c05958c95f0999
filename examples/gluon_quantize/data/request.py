# SPDX-License-Identifier: MIT
"""Which images a run reads, and how it prepares them."""

import dataclasses
from typing import Optional, Tuple, Union

from quantize.errors import ConfigError

# for networks that do not say what they were made for
DATASET = "imagenet"
TOP1, AGREEMENT, AUTO = "top1", "agreement", "auto"
METRICS = (AUTO, TOP1, AGREEMENT)
COLOURS = ("rgb", "bgr", "grey")


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
        Pixels, 0: leave the step out; None: as the model says. `crop` may be (height, width).
    mean, std : tuple of float, optional
        In units of the scaled bytes: one value, or one for each channel in the order of `colour`.
    scale : float, optional
        Factor on the bytes.
    colour : {'rgb', 'bgr', 'grey'}, optional
        The channels that the network takes.
    loader : str, optional
        A function of one's own instead of a data set; see `gluon_quantize.data.loader`.
    metric : {'auto', 'top1', 'agreement'}
        What is said of the network's answers: how often they are the label, or how close they are to the float
        network's. auto: the latter for networks that do not classify and for images without labels.
    count : int, optional
        Evaluate only the first so many images.
    batch_size : int
    workers : int
        Threads that decode images.
    """

    dataset: Optional[str] = None
    folder: Optional[str] = None
    resize: Optional[int] = None
    crop: Union[None, int, Tuple[int, int]] = None
    count: Optional[int] = None
    batch_size: int = 128
    workers: int = 4
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None
    scale: Optional[float] = None
    colour: Optional[str] = None
    loader: Optional[str] = None
    metric: str = AUTO

    def __post_init__(self) -> None:
        if self.loader and (self.dataset or self.folder):
            raise ConfigError("--data reads images by a function; leave out --dataset and --data-dir")
        if self.colour not in (None, *COLOURS):
            raise ConfigError(f"colour {self.colour!r}; use one of {', '.join(COLOURS)}")

    def dataset_for(self, hint: Optional[str]) -> str:
        """The data set's (or loader's) name, for a network that was made for `hint`."""
        stated = self.loader or self.dataset
        if not stated and self.folder and hint != DATASET:
            from gluon_quantize.data.folder import holds_images
            stated = DATASET if holds_images(self.folder) else None  # whatever its images' size reminds of
        return stated or hint or DATASET
