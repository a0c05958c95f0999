# SPDX-License-Identifier: MIT
"""What programs that are written beside files must know of a network's images."""

from typing import NamedTuple, Optional, Protocol, Sequence, Tuple, Union


class ImageSteps(Protocol):
    """How a network wants its images: resized, cropped, then (byte * scale - mean) / std in an order of colours."""

    @property
    def resize(self) -> Optional[int]:
        """Length of the short side, or None."""

    @property
    def crop(self) -> Union[None, int, Tuple[int, int]]:
        """Side, or (height, width), of the centre that is kept; or None."""

    @property
    def colour_order(self) -> str:
        """RGB, BGR or L (grey)."""

    @property
    def scale(self) -> float:
        """What a byte is multiplied by."""

    @property
    def mean(self) -> Sequence[float]:
        """One for each channel, in the order of colours."""

    @property
    def std(self) -> Sequence[float]:
        """One for each channel, in the order of colours."""


class Prepared(NamedTuple):
    """Steps that do more than a network's own: they end where its first layers would."""

    resize: Optional[int]
    crop: Union[None, int, Tuple[int, int]]
    colour_order: str
    scale: float
    mean: Sequence[float]
    std: Sequence[float]
    instead_of: Tuple[str, ...]  # names of those layers


class Front(NamedTuple):
    """The blob that a program hands an image to, and what it does with the image before."""

    blob: str
    steps: ImageSteps
