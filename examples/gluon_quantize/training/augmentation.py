# SPDX-License-Identifier: MIT
"""What is done to training images at random, as a value."""

import dataclasses

from gluon_quantize.training.request import AUGMENTATIONS
from quantize.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What changes from epoch to epoch in an image.

    Parameters
    ----------
    kind : {"none", "crop", "crop-flip"}
        Images of arrays are padded with black and cropped to their size at random; those of files are cropped at random
        (8 to 100 % of the area, sides 3:4 to 4:3) and resized, as for ImageNet. Then half of them are mirrored.
    pad : int
        Pixels on each side.
    """

    kind: str = "none"
    pad: int = 4

    def __post_init__(self) -> None:
        if self.kind not in AUGMENTATIONS:
            raise ConfigError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {self.kind!r}")

    @classmethod
    def for_dataset(cls, name: str) -> "Augmentation":
        """gluoncv's for CIFAR-10 and ImageNet; two pixels of shift for MNIST; none for the small digits."""
        return {"cifar10": cls("crop-flip"), "imagenet": cls("crop-flip"), "mnist": cls("crop", 2)}.get(name, PLAIN)


PLAIN = Augmentation()
