# SPDX-License-Identifier: MIT
"""Images from a function of one's own: ``--data module:function``.

    def images(split):                # "train" (to calibrate or train on) or "test"
        return MyData(split)          # len(data), data[i] -> (image, label) or image

An image is a decoded one (uint8 (H, W), (H, W, 3) or Pillow's), which is prepared as the options say, or an array of
float32 (C, H, W), which is taken as it is. Of a network with several inputs it is a tuple of such, in their
order. Labels are class indices, or anything that the data's own metric reads:

    class MyData:
        labels = [...]                # optional: class indices, so that not every image is read to know them
        classes = 10                  # optional
        class_names = [...]           # optional: what the generated programs print
        def metric(self, outputs, labels):    # optional: arrays (images, ...) and labels of a batch
            return {"mIoU": ...}              # name -> mean over the batch

A list of batches (images, labels), such as Gluon's DataLoader, will do, too; it is then read into memory.
"""

import importlib
import importlib.util
import os
from typing import Any, Callable, List, Tuple

import numpy as np
from PIL import Image

from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.preprocess import Preprocessing
from quantize.errors import ConfigError, DataError

GROUP = "gluon_quantize.data"


def find_loader(name: str) -> Callable[[str], Any]:
    """The function that a name stands for.

    Parameters
    ----------
    name : str
        ``module:function``, ``file.py:function``, or an entry point of the group ``gluon_quantize.data``.

    Raises
    ------
    ConfigError
        Where there is none.
    """
    place, _, function = name.rpartition(":")
    if not place:
        return _entry_point(name)
    try:
        module = _module(place)
    except (ImportError, OSError, SyntaxError) as error:
        raise ConfigError(f"--data {name}: {place} cannot be imported: {error}") from None
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"--data {name}: {place} has no function {function!r}")
    return found


def _entry_point(name):
    from importlib import metadata
    points: Any = metadata.entry_points()
    group = points.select(group=GROUP) if hasattr(points, "select") else points.get(GROUP, ())
    known = {point.name: point for point in group}
    if name not in known:
        raise ConfigError(f"--data {name}: write MODULE:FUNCTION or FILE.py:FUNCTION, or name an entry point of the "
                          f"group {GROUP} (installed: {', '.join(sorted(known)) or 'none'})")
    return known[name].load()


def _module(place):
    if not place.endswith(".py"):
        beside = place.replace(".", os.sep) + ".py"
        if not os.path.isfile(beside):
            return importlib.import_module(place)
        place = beside
    spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(place))[0], place)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_loader(name: str, split: str) -> "LoadedSet":
    """The images that a loader gives for a split; DataError where it fails, or gives something else."""
    try:
        data = find_loader(name)(split)
    except (ConfigError, DataError):
        raise
    except Exception as error:  # it is the user's own
        raise DataError(f"--data {name}: {type(error).__name__} for {split!r}: {error}") from error
    return LoadedSet(name, data if hasattr(data, "__getitem__") and not isinstance(data, (list, tuple)) else _read(
        name, data))


def _read(name, batches) -> List[Tuple[Any, Any]]:
    """The items of batches, in memory."""
    items: List[Tuple[Any, Any]] = []
    try:
        for batch in batches:
            labels: Any
            images, labels = batch if isinstance(batch, (list, tuple)) and len(batch) == 2 else (batch, None)
            parts = [_array(part) for part in images] if isinstance(images, (list, tuple)) else _array(images)
            images = list(zip(*parts)) if isinstance(parts, list) else parts
            labels = labels.asnumpy() if hasattr(labels, "asnumpy") else labels
            items += [(image, None if labels is None else labels[row]) for row, image in enumerate(images)]
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"--data {name}: gives neither items nor batches of (images, labels): {error}") from None
    return items


def _is_decoded(image):
    """Whether preprocessing is for it."""
    return isinstance(image, Image.Image) or np.asarray(image).dtype == np.uint8


class LoadedSet(ImageSet):
    """Images of a loader.

    Attributes
    ----------
    metric : callable or None
        ``metric(outputs, labels) -> {name: value}``, the data's own.
    """

    def __init__(self, name: str, data: Any):
        self._data, self.metric, self._origin = data, getattr(data, "metric", None), name
        try:
            count = len(data)
            raw = getattr(data, "labels", None)
            self._raw = [self._item(index)[1] for index in range(count)] if raw is None else list(raw)
        except (TypeError, KeyError, IndexError) as error:
            raise DataError(f"--data {name}: what it gives has no len() and [i]: {error}") from None
        if not count or len(self._raw) != count:
            raise DataError(f"--data {name}: {count} images with {len(self._raw)} labels")
        whole = all(isinstance(_plain(label), (int, np.integer)) for label in self._raw)
        super().__init__(name, [int(_plain(label)) for label in self._raw] if whole else np.zeros(count),
                         getattr(data, "classes", 0) or 0)
        self.labelled = whole
        names = getattr(data, "class_names", None)
        self.class_names = None if names is None else tuple(map(str, names))

    def _item(self, index):
        item = self._data[int(index)]
        return item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)

    @property
    def decoded(self) -> bool:
        """See `ImageSet.decoded`: of the first of them."""
        first = self.load(0)
        return any(map(_is_decoded, first if isinstance(first, tuple) else (first,)))

    def raw_labels(self, indices: Any) -> Any:
        """Labels as the loader gives them, an array of class indices where they are such."""
        if self.labelled:
            return self.labels[indices]
        found = np.empty(len(indices), object)
        found[:] = [self._raw[int(index)] for index in indices]
        return found

    def load(self, index: int) -> Any:
        """The image as the loader gives it."""
        image = self._item(index)[0]
        return tuple(map(_plainly, image)) if isinstance(image, (list, tuple)) else _plainly(image)

    def prepared(self, index: int, steps: Preprocessing) -> np.ndarray:
        """float32 (C, H, W): as the loader gives it, or of a decoded image as the steps say; several joined, (n,)."""
        parts = self._parts(index, steps)
        return parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])

    def shapes(self, index: int, steps: Preprocessing) -> List[Tuple[int, ...]]:
        """See `ImageSet.shapes`."""
        return [part.shape for part in self._parts(index, steps)]

    def _parts(self, index, steps):
        """What each input of the network gets of an image."""
        image = self.load(index)
        return [self._part(index, each, steps) for each in (image if isinstance(image, tuple) else (image,))]

    def _part(self, index, image, steps):
        if _is_decoded(image):
            return steps.apply(image, self.origin(index))
        array = np.ascontiguousarray(image, np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{self.origin(index)}: {int((~np.isfinite(array)).sum())} of {array.size} values are NaN "
                            "or infinite; look at how the loader reads and prepares it")
        return array


def _plainly(image):
    """An image that is no NDArray."""
    return image.asnumpy() if hasattr(image, "asnumpy") else image


def _array(images):
    return images.asnumpy() if hasattr(images, "asnumpy") else np.asarray(images)


def _plain(label):
    """A number of an array of one."""
    return label.item() if isinstance(label, np.ndarray) and label.size == 1 and label.dtype.kind in "iu" else label
