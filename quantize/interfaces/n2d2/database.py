# SPDX-License-Identifier: MIT
"""N2D2's databases: labelled images in three partitions, as arrays or as files that are decoded when asked for."""

import gzip
import io
import os
import pathlib
import re
import struct
import zlib
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from quantize import npz
from quantize.errors import ConfigError, DataError
from quantize.escape import shown
from quantize.files import read_bytes, read_text
from quantize.interfaces.n2d2.transform import PARTITIONS
from quantize.limits import claim, limit

PathLike = Union[str, "os.PathLike[str]"]
Images = Union[np.ndarray, List[pathlib.Path]]
Part = Tuple[Images, np.ndarray]
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "BMP", "PPM")
PLAIN_BYTES = 64  # per pixel, of decoding and what follows
CLASS = re.compile(r"[0-9]{1,10}")
MOST_CLASSES = 2 ** 31  # a class's number beyond it is none


class Database:
    """Images, labels and partitions.

    Parameters
    ----------
    learn : float
        Share of the images for learning; what is left is not used where the set brings test images of its own.
    validation : float
        Share of the learning images that are held out.
    random_partitioning : bool
        Draw them, instead of taking the last ones.
    seed : int
    """

    folder = ""
    #: whether `load("")` needs no folder
    embedded = False

    def __init__(self, learn: float = 1.0, validation: float = 0.0, random_partitioning: bool = True,
                 data_path: Optional[PathLike] = None, seed: int = 1) -> None:
        for name, value in (("learn", learn), ("validation", validation)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be a share from 0 to 1, got {value!r}")
        self.learn, self.validation, self.random_partitioning, self.seed = learn, validation, random_partitioning, seed
        self._parts: Dict[str, Part] = {}
        if data_path is not None:
            self.load(data_path)

    def load(self, data_path: PathLike, label_path: Optional[PathLike] = None) -> None:
        """Read the images' list or arrays from a folder."""
        folder = pathlib.Path(data_path).expanduser()
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; the database {type(self).__name__} is read from there")
        learn, test = self._read(folder, None if label_path is None else pathlib.Path(label_path))
        self._partition(learn, test)

    def _read(self, folder: pathlib.Path, label_path: Optional[pathlib.Path]) -> Tuple[Part, Part]:
        raise NotImplementedError

    def _partition(self, learn: Part, test: Part) -> None:
        images, labels = learn
        order = np.arange(len(labels))
        if self.random_partitioning:
            order = np.random.RandomState(self.seed).permutation(order)
        kept = order[:int(round(len(order) * self.learn))]
        held = int(round(len(kept) * self.validation))
        parts = {"Learn": np.sort(kept[:len(kept) - held]), "Validation": np.sort(kept[len(kept) - held:])}
        self._parts = {name: (_taken(images, chosen), labels[chosen]) for name, chosen in parts.items()}
        self._parts["Test"] = test

    def part(self, partition: str) -> Part:
        """(Images, labels) of a partition; ConfigError before `load`, or for an unknown one."""
        if partition not in PARTITIONS:
            raise ConfigError(f"partition must be one of {', '.join(PARTITIONS)}, got {partition!r}")
        if not self._parts:
            raise ConfigError(f"the database {type(self).__name__} is not loaded yet: call load(folder)")
        return self._parts[partition]

    def get_nb_stimuli(self, partition: str) -> int:
        """How many images a partition has."""
        return len(self.part(partition)[1])

    def get_partition_summary(self) -> Dict[str, int]:
        """Partition -> images."""
        return {name: self.get_nb_stimuli(name) for name in PARTITIONS}

    def image(self, partition: str, number: int) -> np.ndarray:
        """An image in bytes, colours in the order blue, green, red; DataError for a file that cannot be decoded."""
        found = self.part(partition)[0][number]
        image = found if isinstance(found, np.ndarray) else decoded(found)
        return image[..., ::-1] if image.ndim == 3 else image

    def __repr__(self) -> str:
        said = ", ".join(f"{name}: {count}" for name, count in self.get_partition_summary().items()) if self._parts \
            else "not loaded"
        return f"{type(self).__name__}({said})"


def _taken(images: Images, chosen: np.ndarray) -> Images:
    return images[chosen] if isinstance(images, np.ndarray) else [images[number] for number in chosen]


def decoded(path: pathlib.Path) -> np.ndarray:
    """The image of a file in RGB, (H, W, 3) bytes."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            claim(PLAIN_BYTES * image.width * image.height, f"{path}: {image.width}x{image.height} pixels")
            return np.asarray(image.convert("RGB"))
    # Pillow raises SyntaxError, ValueError, struct.error and others by format for a broken file
    except Exception as error:
        raise DataError(f"{path}: cannot be decoded ({shown(error):.200}); replace or remove the file") from None


class MNIST(Database):
    """MNIST from ``train-images-idx3-ubyte`` and its kin, packed (.gz) or not, or from ``mnist.npz``."""

    folder = "mnist"

    def _read(self, folder: pathlib.Path, label_path: Optional[pathlib.Path]) -> Tuple[Part, Part]:
        for path in (folder / "mnist.npz", folder / "mnist" / "mnist.npz"):
            if path.is_file():
                found = npz.read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
                return _checked(path, found["x_train"], found["y_train"]), _checked(path, found["x_test"],
                                                                                    found["y_test"])
        parts = [(_idx(folder, f"{name}-images-idx3-ubyte", 3), _idx(folder, f"{name}-labels-idx1-ubyte", 1))
                 for name in ("train", "t10k")]
        return _checked(folder, *parts[0]), _checked(folder, *parts[1])


def _idx(folder: pathlib.Path, name: str, axes: int) -> np.ndarray:
    """An array of an IDX file: a magic number, sizes, bytes."""
    plain, packed = folder / name, folder / (name + ".gz")
    if not plain.is_file() and not packed.is_file():
        raise DataError(f"{folder}: holds neither mnist.npz nor {name}, packed or not; name the folder of MNIST with "
                        "--data-dir or DataPath")
    content = read_bytes(plain) if plain.is_file() else _unpacked(packed)
    head = 4 + 4 * axes
    if len(content) < head or content[:4] != bytes((0, 0, 8, axes)):
        raise DataError(f"{plain if plain.is_file() else packed}: is no IDX file of bytes in {axes} axes")
    sizes = struct.unpack(f">{axes}I", content[4:head])
    if len(content) - head != int(np.prod(sizes, dtype=np.int64)):
        raise DataError(f"{plain if plain.is_file() else packed}: says {sizes} and holds {len(content) - head} bytes")
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


def _unpacked(path: pathlib.Path) -> bytes:
    """What a .gz file holds; no more of it is unpacked than memory is allowed."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(read_bytes(path))) as stream:
            content = stream.read(limit() + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({shown(error):.200}); fetch it again") from None
    claim(len(content), f"{path}: unpacked")
    return content


def _checked(path: Any, images: np.ndarray, labels: np.ndarray) -> Part:
    labels = np.atleast_1d(labels)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels) or not len(labels):
        raise DataError(f"{path}: want uint8 images (N, H, W) or (N, H, W, 3) and as many labels, got {images.dtype} "
                        f"{images.shape} and {labels.shape}")
    return images, labels.astype(np.int64)


class CIFAR10(Database):
    """CIFAR-10 from ``data_batch_1.bin`` and its kin, or from ``cifar10_train_*.npz`` and ``cifar10_test.npz``."""

    folder = "cifar-10-batches-bin"

    def _read(self, folder: pathlib.Path, label_path: Optional[pathlib.Path]) -> Tuple[Part, Part]:
        pieces = sorted(folder.glob("cifar10_train_*.npz"))
        if pieces and (folder / "cifar10_test.npz").is_file():
            return _npz_pieces(pieces), _npz_pieces([folder / "cifar10_test.npz"])
        found = sorted(folder.glob("data_batch_*.bin"))
        if not found or not (folder / "test_batch.bin").is_file():
            raise DataError(f"{folder}: holds neither cifar10_train_*.npz nor data_batch_*.bin and test_batch.bin")
        return _binary(found), _binary([folder / "test_batch.bin"])


def _npz_pieces(paths: Sequence[pathlib.Path]) -> Part:
    pieces = [npz.read_npz(path, ("x", "y")) for path in paths]
    return _checked(paths[0].parent, np.concatenate([piece["x"] for piece in pieces]),
                    np.concatenate([np.atleast_1d(piece["y"]) for piece in pieces]))


def _binary(paths: Sequence[pathlib.Path]) -> Part:
    rows = []
    for path in paths:
        content = np.frombuffer(read_bytes(path), np.uint8)
        if not len(content) or len(content) % 3073:
            raise DataError(f"{path}: holds {len(content)} bytes, which is no multiple of 3073 (label and 3x32x32)")
        rows.append(content.reshape(-1, 3073))
    joined = np.concatenate(rows)
    return joined[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), joined[:, 0].astype(np.int64)


class ILSVRC2012(Database):
    """ImageNet's layout: ``train`` and ``val`` with a folder of images for each class, in the order of their names.

    ``val`` are the test images; without validation images of their own they are the validation images, too. Instead of
    folders there may be images and a ``labels.txt`` with lines ``file class``.

    Parameters
    ----------
    label_path (of `load`) : path
        A file with a class's folder in each line, in the order of the classes.
    """

    folder = "ILSVRC2012"

    def _read(self, folder: pathlib.Path, label_path: Optional[pathlib.Path]) -> Tuple[Part, Part]:
        train, test = folder / "train", next((folder / name for name in ("val", "validation", "test")
                                              if (folder / name).is_dir()), folder / "val")
        for part in (train, test):
            if not part.is_dir():
                raise DataError(f"{folder}: has no folder {part.name!r}; ImageNet's layout is wanted: train and val, "
                                "each with a folder of images for every class")
        classes = _classes(train, label_path)
        return _files(train, classes), _files(test, classes)

    def _partition(self, learn: Part, test: Part) -> None:
        super()._partition(learn, test)
        if not self.validation:
            self._parts["Validation"] = test


class DIR(Database):
    """A folder of images for each class: `learn` and `validation` are shares, what is left is for tests."""

    def _read(self, folder: pathlib.Path, label_path: Optional[pathlib.Path]) -> Tuple[Part, Part]:
        found = _files(folder, _classes(folder, label_path))
        return found, found

    def _partition(self, learn: Part, test: Part) -> None:
        images, labels = learn
        order = np.arange(len(labels))
        if self.random_partitioning:
            order = np.random.RandomState(self.seed).permutation(order)
        ends = [int(round(len(order) * share)) for share in (self.learn, min(self.learn + self.validation, 1.0))]
        chosen = dict(zip(PARTITIONS, np.split(order, ends)))
        self._parts = {name: (_taken(images, np.sort(part)), labels[np.sort(part)]) for name, part in chosen.items()}


def _classes(folder: pathlib.Path, label_path: Optional[pathlib.Path]) -> Dict[str, int]:
    if label_path is not None:
        lines = read_text(label_path).splitlines()
        return {line.split()[0]: number for number, line in enumerate(line for line in lines if line.strip())}
    return {path.name: number for number, path in enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))}


def _files(folder: pathlib.Path, classes: Dict[str, int]) -> Part:
    listed = folder / "labels.txt"
    if listed.is_file():
        rows = [line.rsplit(None, 1) for line in read_text(listed).splitlines() if line.strip()]
        if any(len(row) != 2 or not CLASS.fullmatch(row[1]) or int(row[1]) >= MOST_CLASSES for row in rows):
            raise DataError(f"{listed}: lines 'file class' are wanted, the class a number")
        return [folder / name for name, _ in rows], np.array([int(number) for _, number in rows], np.int64)
    images: List[pathlib.Path] = []
    labels: List[int] = []
    for name, number in classes.items():
        found = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in ENDINGS)
        images += found
        labels += [number] * len(found)
    if not images:
        raise DataError(f"{folder}: holds no images in folders of classes")
    return images, np.array(labels, np.int64)


DATABASES = {"MNIST_IDX_Database": MNIST, "CIFAR10_Database": CIFAR10, "ILSVRC2012_Database": ILSVRC2012,
             "DIR_Database": DIR}
