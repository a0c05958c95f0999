# SPDX-License-Identifier: MIT
"""What a data set is to the examples: labels known at once, images decoded one by one."""

import os
from typing import Callable, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from gluon_quantize.data.depth import in_bytes
from gluon_quantize.data.preprocess import Preprocessing
from quantize.errors import DataError, QuantizeError
from quantize.escape import shown
from quantize.files import opened
from quantize.limits import claim

# whatever the name ends in: others start interpreters (EPS), or are seldom read and seldom looked at
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000")
BYTES_OF_PIXEL = 8 * (3 + 4 * 3 * 3)  # one in eight of the memory at most, since several threads decode at once

class ImageSet:
    """Labelled images of one split.

    Parameters
    ----------
    name : str
        Name of the data set.
    labels : sequence of int
        Class index of every image.
    num_classes : int
        Number of classes; labels are 0..num_classes-1.

    Attributes
    ----------
    labelled : bool
        False: nothing is known of classes, and all labels are 0. Such images calibrate; they say nothing of accuracy.
    metric : callable or None
        Of the data's own; see `gluon_quantize.data.loader`.
    class_names : tuple of str or None
        Where the data name their classes.
    """

    labelled = True
    metric: Optional[Callable] = None
    class_names: Optional[Tuple[str, ...]] = None

    @property
    def exact_classes(self) -> Optional[int]:
        """How many classes there are where all of them occur; None for folders, which may hold some of a thousand."""
        return None

    def __init__(self, name: str, labels: Union[Sequence[int], np.ndarray], num_classes: int):
        self.name = name
        self.labels = np.asarray(labels, dtype=np.int64)
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Union[Image.Image, np.ndarray]:
        """Image `index`: a decoded PIL image or a uint8 array (H, W) or (H, W, 3) in RGB order."""
        raise NotImplementedError

    @property
    def decoded(self) -> bool:
        """Whether these are images, which preprocessing is for; not so: arrays that are taken as they are."""
        return True

    def prepared(self, index: int, steps: Preprocessing) -> np.ndarray:
        """float32 (C, H, W): image `index` as the network takes it."""
        return steps.apply(self.load(index), self.origin(index))

    def shapes(self, index: int, steps: Preprocessing) -> List[Tuple[int, ...]]:
        """Shape of what image `index` consists of, for each input of a network: those of `prepared` are joined."""
        return [self.prepared(index, steps).shape]

    def raw_labels(self, indices: np.ndarray) -> np.ndarray:
        """The labels of some images."""
        return self.labels[indices]

    def origin(self, index: int) -> str:
        """What to call image `index` in a message."""
        return f"{self.name} image {index}"

    def identity(self, index: int) -> str:
        """What identifies image `index` on any machine: its number and its label."""
        return f"{index} {self.labels[index]}"


class ArraySet(ImageSet):
    """Images held in one uint8 array `images`, (N, H, W) or (N, H, W, 3), of classes with names."""

    def __init__(self, name: str, images: np.ndarray, labels: Union[Sequence[int], np.ndarray],
                 class_names: Sequence[str]):
        super().__init__(name, labels, len(class_names))
        self.images, self.class_names = images, tuple(class_names)

    @property
    def exact_classes(self) -> Optional[int]:
        """All of them occur."""
        return self.num_classes

    def load(self, index: int) -> np.ndarray:
        """The uint8 array of image `index`."""
        return self.images[index]


class FileSet(ImageSet):
    """Images in files, decoded when asked for; without `labels` they are unlabelled."""

    def __init__(self, name: str, paths: Iterable[Union[str, os.PathLike]],
                 labels: Union[None, Sequence[int], np.ndarray], num_classes: int):
        self._paths = list(paths)
        super().__init__(name, np.zeros(len(self._paths)) if labels is None else labels, num_classes)
        self.labelled = labels is not None

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image of file `index`, in bytes (`in_bytes`); DataError names a file that is not whole."""
        path = self._paths[index]
        # Importing gluoncv switches this on for the whole process, and half an image would pass for a whole one.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            with opened(path) as stream, Image.open(stream, formats=FORMATS) as image:
                claim(BYTES_OF_PIXEL * image.width * image.height, f"{path}: {image.width}x{image.height} pixels")
                image.load()
                return in_bytes(image, str(path)).convert("RGB")
        except QuantizeError:
            raise
        # Pillow raises SyntaxError, ValueError, struct.error and others by format for a broken file.
        except Exception as err:
            reason = shown(err).replace(str(path), "the file")[:300]
            if isinstance(err, UnidentifiedImageError):
                reason = f"it is none of {', '.join(FORMATS)}, whatever its name"
            raise DataError(f"{path}: cannot be decoded ({reason}); replace or remove the file") from None

    def origin(self, index: int) -> str:
        """The path of file `index`."""
        return str(self._paths[index])

    def identity(self, index: int) -> str:
        """The file's name without folders, and its label."""
        return f"{os.path.basename(str(self._paths[index]))} {self.labels[index]}"
