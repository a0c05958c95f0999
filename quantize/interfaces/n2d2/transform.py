# SPDX-License-Identifier: MIT
"""N2D2's transformations of images: (H, W) or (H, W, 3) arrays, bytes until a range is changed.

Images come in bytes as N2D2 reads them, colours in the order blue, green, red, which ColorSpace changes.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from quantize.errors import ConfigError, DataError
from quantize.limits import claim
from quantize.registry import closest

PARTITIONS = ("Learn", "Validation", "Test")
APPLY_TO = {"All": PARTITIONS, "LearnOnly": ("Learn",), "ValidationOnly": ("Validation",), "TestOnly": ("Test",),
            "NoLearn": ("Validation", "Test"), "NoValidation": ("Learn", "Test"), "NoTest": ("Learn", "Validation")}
OPERATORS: Dict[str, np.ufunc] = {"Plus": np.add, "Minus": np.subtract, "Multiplies": np.multiply, "Divides": np.divide}
SPACES = ("BGR", "RGB", "Gray", "GRAY")
BORDERS = {"ConstantBorder": "constant", "ReplicateBorder": "edge", "ReflectBorder": "symmetric", "WrapBorder": "wrap",
           "MinusOneReflectBorder": "reflect"}


def chosen(name: str, value: str, known: Any) -> str:
    """The value; ConfigError where it is none of those known."""
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}{closest(value, known)}")
    return value
PLAIN_BYTES = 64  # per pixel, of an image and what follows of it


class Transformation:
    """One step.

    Parameters
    ----------
    apply_to : str
        One of `APPLY_TO`.

    Attributes
    ----------
    random : bool
        Whether it draws: then no result is kept for the next epoch.
    """

    random = False

    def __init__(self, apply_to: str = "All") -> None:
        self.apply_to = chosen("apply_to (ApplyTo)", apply_to, APPLY_TO)

    def applies(self, partition: str) -> bool:
        """Whether images of a partition pass through."""
        return partition in APPLY_TO[self.apply_to]

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """The image behind the step."""
        raise NotImplementedError

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({said})"


class Composite:
    """Several, one behind the other."""

    def __init__(self, transformations: Sequence[Transformation]) -> None:
        self.transformations = list(transformations)

    def __repr__(self) -> str:
        return f"Composite({self.transformations})"


class Rescale(Transformation):
    """In another size, bilinear.

    Parameters
    ----------
    keep_aspect_ratio, resize_to_fit : bool
        Both sides by one factor: so that the image fits inside the size, or (False) covers it.
    """

    def __init__(self, width: int, height: int, keep_aspect_ratio: bool = False, resize_to_fit: bool = True,
                 apply_to: str = "All") -> None:
        super().__init__(apply_to)
        self.width, self.height = int(width), int(height)
        self.keep_aspect_ratio, self.resize_to_fit = bool(keep_aspect_ratio), bool(resize_to_fit)

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        width, height = self.width, self.height
        if self.keep_aspect_ratio:
            factors = (width / image.shape[1], height / image.shape[0])
            factor = min(factors) if self.resize_to_fit else max(factors)
            width, height = (max(int(round(side * factor)), 1) for side in (image.shape[1], image.shape[0]))
        return resized(image, width, height)


def resized(image: np.ndarray, width: int, height: int,
            box: Optional[Tuple[int, int, int, int]] = None) -> np.ndarray:
    """The image, or the part in a box (left, top, right, bottom), in another size."""
    if image.shape[:2] == (height, width) and box is None:
        return image
    claim(PLAIN_BYTES * width * height, f"an image of {width}x{height}")
    if image.dtype == np.uint8:
        # mypy: Pillow puts these constants there by name
        return np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR,  # type: ignore[attr-defined]
                                                        box=box))
    parts = image if image.ndim == 3 else image[..., None]
    done = [np.asarray(Image.fromarray(np.ascontiguousarray(parts[..., number], np.float32)).resize(
        (width, height), Image.BILINEAR, box=box)) for number in range(parts.shape[2])]  # type: ignore[attr-defined]
    return np.stack(done, -1) if image.ndim == 3 else done[0]


class ColorSpace(Transformation):
    """Colours as RGB, BGR or Gray."""

    def __init__(self, color_space: str = "RGB", apply_to: str = "All") -> None:
        super().__init__(apply_to)
        self.color_space = chosen("color_space (ColorSpace)", color_space, SPACES)

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        if self.color_space in ("Gray", "GRAY"):
            if image.ndim == 2:
                return image
            gray = image @ np.array([0.114, 0.587, 0.299], np.float32)  # ITU-R 601, of B, G, R
            return gray.round().astype(np.uint8) if image.dtype == np.uint8 else gray
        if image.ndim == 2:
            return np.repeat(image[..., None], 3, axis=2)
        return image[..., ::-1] if self.color_space == "RGB" else image


class RangeAffine(Transformation):
    """(x first_operator first_value) second_operator second_value, values for all channels or one for each."""

    def __init__(self, first_operator: str, first_value: Union[float, Sequence[float]], second_operator: str = "Plus",
                 second_value: Union[float, Sequence[float]] = 0.0, apply_to: str = "All") -> None:
        super().__init__(apply_to)
        self.operations: List[Tuple[str, np.ndarray]] = [
            (chosen("operator of RangeAffine", operator, OPERATORS), np.atleast_1d(np.asarray(value, np.float32)))
            for operator, value in ((first_operator, first_value), (second_operator, second_value))]
        if any(operator == "Divides" and (value == 0).any() for operator, value in self.operations):
            raise ConfigError("RangeAffine: divides by 0")

    @property
    def divisor(self) -> float:
        """What all values are divided by, 0 where anything else is done."""
        (operator, value), (_, second) = self.operations
        return float(value[0]) if operator == "Divides" and len(value) == 1 and not second.any() else 0.0

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        image = image.astype(np.float32)
        for operator, value in self.operations:
            image = OPERATORS[operator](image, value if image.ndim == 3 else value[0])
        return image


class RandomResizeCrop(Transformation):
    """A random part of the image in a size: its area and its sides' ratio are drawn."""

    random = True

    def __init__(self, width: int, height: int, scale_min: float = 1.0, scale_max: float = 1.0, ratio_min: float = 1.0,
                 ratio_max: float = 1.0, apply_to: str = "All") -> None:
        super().__init__(apply_to)
        self.width, self.height = int(width), int(height)
        self.scale, self.ratio = (float(scale_min), float(scale_max)), (float(ratio_min), float(ratio_max))
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ConfigError(f"RandomResizeCrop: {name} must be 0 < minimum <= maximum, got {low} and {high}")

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        height, width = image.shape[:2]
        for _ in range(10):
            area = height * width * random.uniform(*self.scale)
            ratio = np.exp(random.uniform(*np.log(self.ratio)))
            wide, high = int(round((area * ratio) ** 0.5)), int(round((area / ratio) ** 0.5))
            if 0 < wide <= width and 0 < high <= height:
                left, top = random.randint(0, width - wide + 1), random.randint(0, height - high + 1)
                return resized(image, self.width, self.height, (left, top, left + wide, top + high))
        return resized(image, self.width, self.height)


class PadCrop(Transformation):
    """Cut or padded to a size, the centre staying in the centre."""

    def __init__(self, width: int, height: int, border_type: str = "MinusOneReflectBorder", border_value: float = 0.0,
                 apply_to: str = "All") -> None:
        super().__init__(apply_to)
        self.width, self.height, self.border_value = int(width), int(height), border_value
        self.border_type = chosen("border_type (BorderType)", border_type, BORDERS)

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        for axis, size in ((0, self.height), (1, self.width)):
            missing = size - image.shape[axis]
            if missing > 0:
                image = padded(image, axis, missing // 2, missing - missing // 2, self.border_type, self.border_value)
            elif missing < 0:
                image = np.take(image, np.arange(-missing // 2, -missing // 2 + size), axis=axis)
        return image


def padded(image: np.ndarray, axis: int, before: int, after: int, border: str, value: float) -> np.ndarray:
    """The image with a border on both sides of one axis."""
    sizes = list(image.shape)
    sizes[axis] += before + after
    claim(PLAIN_BYTES * sizes[0] * sizes[1], f"an image padded to {sizes[1]}x{sizes[0]}")
    widths = [(before, after) if number == axis else (0, 0) for number in range(image.ndim)]
    mode = BORDERS[border]
    more = {"constant_values": value} if mode == "constant" else {}
    return np.pad(image, widths, mode=mode, **more)  # type: ignore[call-overload]


class SliceExtraction(Transformation):
    """A part of a size: from a place, or a random one.

    Parameters
    ----------
    options
        `random_offset_x`, `random_offset_y`: draw the place; `border_type`, `border_value`: of what is padded.
    """

    OPTIONS = {"random_offset_x": False, "random_offset_y": False, "border_type": "MinusOneReflectBorder",
               "border_value": 0.0}

    def __init__(self, width: int, height: int, offset_x: int = 0, offset_y: int = 0, allow_padding: bool = False,
                 apply_to: str = "All", **options: Any) -> None:
        super().__init__(apply_to)
        for name in options:
            chosen("option of SliceExtraction", name, self.OPTIONS)
        options = {**self.OPTIONS, **options}
        drawn = bool(options["random_offset_x"]), bool(options["random_offset_y"])
        self.sides = ((int(height), int(offset_y), drawn[1]), (int(width), int(offset_x), drawn[0]))
        self.allow_padding, self.border_value = bool(allow_padding), options["border_value"]
        self.border_type = chosen("border_type (BorderType)", options["border_type"], BORDERS)
        self.random = any(drawn)

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        for axis, (size, offset, drawn) in enumerate(self.sides):
            missing = size - image.shape[axis]
            if missing > 0:
                if not self.allow_padding:
                    raise DataError(f"SliceExtraction: a side of {size} does not fit into an image of "
                                    f"{image.shape[1]}x{image.shape[0]}; set AllowPadding=1, or rescale before")
                image = padded(image, axis, missing // 2, missing - missing // 2, self.border_type, self.border_value)
            start = random.randint(0, image.shape[axis] - size + 1) if drawn else offset
            if not 0 <= start <= image.shape[axis] - size:
                raise DataError(f"SliceExtraction: offset {start} and side {size} reach beyond an image of "
                                f"{image.shape[1]}x{image.shape[0]}")
            image = np.take(image, np.arange(start, start + size), axis=axis)
        return image


class Flip(Transformation):
    """Mirrored, always or at random."""

    def __init__(self, horizontal_flip: bool = False, vertical_flip: bool = False, random_horizontal_flip: bool = False,
                 random_vertical_flip: bool = False, apply_to: str = "All") -> None:
        super().__init__(apply_to)
        self.always = (bool(vertical_flip), bool(horizontal_flip))
        self.drawn = (bool(random_vertical_flip), bool(random_horizontal_flip))
        self.random = any(self.drawn)

    def __call__(self, image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """See `Transformation`."""
        for axis in (0, 1):
            if self.always[axis] or (self.drawn[axis] and random.rand() < 0.5):
                image = np.flip(image, axis)
        return image


TRANSFORMATIONS = {f"{kind.__name__}Transformation": kind for kind in (
    ColorSpace, Flip, PadCrop, RandomResizeCrop, RangeAffine, Rescale, SliceExtraction)}
