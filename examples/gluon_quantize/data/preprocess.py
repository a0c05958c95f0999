# SPDX-License-Identifier: MIT
"""From a decoded image to the array a network was trained on: resize, centre crop, normalise."""

import dataclasses
import math
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

import msgspec
import numpy as np
from PIL import Image
from typing_extensions import Annotated

from gluon_quantize.data.depth import in_bytes
from quantize.documents import checked
from quantize.errors import ConfigError, DataError, ModelFileError
from quantize.limits import claim

CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}
LONGEST_SIDE = 8192  # pixels
BYTES_OF_PIXEL = 3 + 4 * 3 * 3  # as it is decoded, and float32 three times while it is scaled
Side = Annotated[int, msgspec.Meta(ge=0, le=LONGEST_SIDE)]
Values = Annotated[List[float], msgspec.Meta(min_length=1, max_length=3)]


class Document(msgspec.Struct):
    """What a model file states under the key ``preprocessing``; `Preprocessing` says what it means."""

    colour_order: str
    scale: float
    mean: Values
    std: Values
    resize_short_side: Optional[Side] = None
    crop: Union[None, Side, Annotated[List[Side], msgspec.Meta(min_length=2, max_length=2)]] = None
    layout: str = "NCHW"
    crop_position: str = "centre"
    resize_filter: str = "bilinear"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """data = (u8 * scale - mean) / std, per channel in `colour_order`, after resize and centre crop.

    Parameters
    ----------
    colour_order : {'RGB', 'BGR', 'L'}
        Order of the channels the network expects; 'L' is one grey channel.
    scale : float
        Factor on the bytes.
    mean, std : tuple of float
        One value per channel, in `colour_order`, in units of the scaled bytes.
    resize : int
        Length in pixels the short side is brought to (Pillow's bilinear filter, which antialiases); 0 = no resize.
    crop : int or (int, int)
        Side, or (height, width), of the centre crop in pixels; 0 = no crop.
    layout : {'NCHW'}
        The only layout there is; kept because model files state it.
    origins : tuple of (str, str)
        Where each value came from, by the names of `values`; see `gluon_quantize.data.steps`.

    Raises
    ------
    ConfigError
        A value that cannot be.
    """

    colour_order: str = "RGB"
    scale: float = 1 / 255
    mean: Tuple[float, ...] = (0.0, 0.0, 0.0)
    std: Tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: int = 0
    crop: Union[int, Tuple[int, int]] = 0
    layout: str = "NCHW"
    origins: Tuple[Tuple[str, str], ...] = dataclasses.field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        # Lists come from JSON; tuples keep the object hashable.
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if isinstance(self.crop, (list, tuple)):
            object.__setattr__(self, "crop", tuple(self.crop))
        if self.colour_order not in CHANNELS:
            raise ConfigError(f"preprocessing: colour_order {self.colour_order!r}; use one of {', '.join(CHANNELS)}")
        if self.layout != "NCHW":
            raise ConfigError(f"preprocessing: layout {self.layout!r}; only 'NCHW' is supported")
        channels = CHANNELS[self.colour_order]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ConfigError(f"preprocessing: colour_order {self.colour_order} needs {channels} values of mean and "
                              f"std, got {len(self.mean)} and {len(self.std)}")
        if not np.all(np.isfinite((self.scale,) + self.mean + self.std)) or 0.0 in self.std or self.scale == 0:
            raise ConfigError("preprocessing: scale, mean and std must be finite, scale and std not 0; got "
                              f"{(self.scale, self.mean, self.std)}")
        if isinstance(self.crop, tuple) and 0 in self.crop:
            raise ConfigError(f"preprocessing: crop {self.crop!r} has a side of 0 pixels; crop 0 is none")
        sizes = (self.resize,) + (self.crop if isinstance(self.crop, tuple) else (self.crop,))
        if len(sizes) > 3 or not all(isinstance(s, int) and 0 <= s <= LONGEST_SIDE for s in sizes):
            raise ConfigError(f"preprocessing: resize {self.resize!r} and crop {self.crop!r} must be whole numbers of "
                              f"pixels up to {LONGEST_SIDE}, 0 = none")

    @classmethod
    def from_onnx_metadata(cls, metadata: Mapping[str, Any]) -> "Preprocessing":
        """The preprocessing a model file states.

        Parameters
        ----------
        metadata : dict
            The JSON object under the key ``preprocessing`` of an ONNX file's metadata_props, or `to_dict`'s.

        Raises
        ------
        ModelFileError
            A missing entry, or a resize filter or crop position we do not do.
        """
        if not isinstance(metadata, dict):
            raise ModelFileError(f"preprocessing metadata is {str(metadata)[:40]!r}; it must be a JSON object")
        missing = [key for key in ("colour_order", "scale", "mean", "std") if key not in metadata]
        if missing:
            raise ModelFileError(f"preprocessing metadata lacks {', '.join(missing)}; add it to the model file's "
                                 "metadata_props")
        for key, only in (("crop_position", "centre"), ("resize_filter", "bilinear")):
            if metadata.get(key, only) != only:
                raise ModelFileError(f"preprocessing metadata: {key} {metadata[key]!r}; only {only!r} is supported")
        found = checked(metadata, Document, "preprocessing metadata", ModelFileError)
        crop: Any = tuple(found.crop) if isinstance(found.crop, list) else found.crop or 0
        return cls(found.colour_order, found.scale, tuple(found.mean), tuple(found.std), found.resize_short_side or 0,
                   crop, found.layout)

    def to_dict(self) -> Dict[str, Any]:
        """The same facts under the keys of the ONNX metadata; JSON can hold it, `from_onnx_metadata` reads it."""
        return {"layout": self.layout, "colour_order": self.colour_order, "resize_short_side": self.resize or None,
                "crop": list(self.crop) if isinstance(self.crop, tuple) else self.crop or None,
                "scale": self.scale, "mean": list(self.mean), "std": list(self.std)}

    def values(self) -> Dict[str, Any]:
        """Every value by the name of the option that states it."""
        colour = {"RGB": "rgb", "BGR": "bgr", "L": "grey"}[self.colour_order]
        return {"colour": colour, "scale": self.scale, "mean": list(self.mean), "std": list(self.std),
                "resize": self.resize, "crop": list(self.crop) if isinstance(self.crop, tuple) else self.crop}

    def override(self, resize: Optional[int] = None,
                 crop: Union[None, int, Tuple[int, int]] = None) -> "Preprocessing":
        """A copy with another resize or crop; None keeps the value, 0 switches the step off."""
        changes: Dict[str, Any] = {key: value for key, value in (("resize", resize), ("crop", crop))
                                   if value is not None}
        return dataclasses.replace(self, **changes)

    def apply(self, image: Union[Image.Image, np.ndarray], origin: str = "image") -> np.ndarray:
        """The array of one image.

        Parameters
        ----------
        image : PIL.Image.Image or numpy.ndarray
            A decoded image, or uint8 (H, W), (H, W, 1) or (H, W, 3) in RGB order.
        origin : str
            What to call the image in an error message, e.g. its file name.

        Returns
        -------
        numpy.ndarray, float32 (C, H, W)

        Raises
        ------
        DataError
            An array that is no uint8 image, or an image smaller than the crop.
        """
        image = in_bytes(image, origin) if isinstance(image, Image.Image) else _to_pil(image, origin)
        image = image.convert("L" if self.colour_order == "L" else "RGB")
        if self.resize:
            image = _resize_short_side(image, self.resize, origin)
        if self.crop:
            image = _centre_crop(image, self.crop, origin)
        pixels = np.asarray(image, dtype=np.float32)
        pixels = pixels.reshape(pixels.shape[:2] + (-1,))
        if self.colour_order == "BGR":
            pixels = pixels[:, :, ::-1]
        data = (pixels * np.float32(self.scale) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(data.transpose(2, 0, 1))


def _to_pil(array, origin):
    """The Pillow image of a uint8 array."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3):
        raise DataError(f"{origin}: {array.dtype} array of shape {array.shape}; an image is uint8 (H, W), (H, W, 1) or "
                        "(H, W, 3)")
    return Image.fromarray(array)


def _resize_short_side(image, size, origin):
    """`image` with its short side `size` pixels long and the same aspect ratio."""
    width, height = image.size
    short = min(width, height)
    if short == size:
        return image
    sides = max(width * size // short, size), max(height * size // short, size)
    claim(BYTES_OF_PIXEL * sides[0] * sides[1], f"{origin}: {width}x{height} pixels, resized to {sides[0]}x{sides[1]},")
    return image.resize(sides, Image.BILINEAR)  # type: ignore[attr-defined]  # Pillow puts it there by name


def _centre_crop(image, crop, origin):
    """The middle of `image`; an odd rest goes to the right and the bottom."""
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    if image.width < width or image.height < height:
        raise DataError(f"{origin}: {image.width}x{image.height} pixels, smaller than the {width}x{height} crop; "
                        "resize the short side to at least the crop, or crop less")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def imagenet(crop: int = 224) -> Preprocessing:
    """gluoncv's evaluation preprocessing of ImageNet networks; the short side is crop / 0.875, rounded up."""
    return Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), math.ceil(crop / 0.875), crop)


def cifar10() -> Preprocessing:
    """gluoncv's evaluation preprocessing of its CIFAR-10 networks."""
    return Preprocessing("RGB", 1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def mnist() -> Preprocessing:
    """Bytes to 0..1."""
    return Preprocessing("L", 1 / 255, (0.0,), (1.0,))


def digits() -> Preprocessing:
    """The 17 grey levels of the embedded digits to 0..1."""
    return Preprocessing("L", 1 / 16, (0.0,), (1.0,))


PRESETS: Dict[str, Callable[[], Preprocessing]] = {"imagenet": imagenet, "cifar10": cifar10, "mnist": mnist,
                                                   "digits": digits}
