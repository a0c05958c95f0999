# SPDX-License-Identifier: MIT
"""Small data sets that are arrays: CIFAR-10, MNIST and the embedded digits."""

import concurrent.futures
import contextlib
import io
import logging
import pathlib
from typing import Optional, Tuple

import numpy as np

from gluon_quantize.data.image_set import ArraySet
from quantize import npz
from quantize.errors import DataError

logger = logging.getLogger(__name__)

DATA = pathlib.Path(__file__).resolve().parent.parent / "assets"
CLASSES = 10
DIGITS = tuple(map(str, range(CLASSES)))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def open_cifar10(data_dir: Optional[pathlib.Path], split: str) -> ArraySet:
    """CIFAR-10 from npz pieces in `data_dir`, else from gluon's files there (downloaded when absent).

    Parameters
    ----------
    data_dir : pathlib.Path or None
        Folder of ``cifar10_train_*.npz`` and ``cifar10_test.npz`` (x, y), or gluon's root; None is gluon's default.
    split : {'train', 'test'}
    """
    pattern = "cifar10_train_*.npz" if split == "train" else "cifar10_test.npz"
    pieces = sorted(_existing(data_dir).glob(pattern)) if data_dir else []
    if not pieces:
        return _from_gluon("cifar10", "CIFAR10", data_dir, split, pattern)
    # LZMA decoding takes seconds a piece and releases the interpreter lock.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda path: read_npz(path, "x", "y", (32, 32, 3)), pieces))
    return ArraySet("cifar10", np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), CIFAR10)


def open_mnist(data_dir: Optional[pathlib.Path], split: str) -> ArraySet:
    """MNIST from ``mnist.npz`` (x_train, y_train, x_test, y_test), else from gluon's files, as for CIFAR-10."""
    folders = (_existing(data_dir), data_dir / "mnist") if data_dir else ()
    for path in (folder / "mnist.npz" for folder in folders):
        if path.is_file():
            images, labels = read_npz(path, "x_" + split, "y_" + split, (28, 28))
            return ArraySet("mnist", images, labels, DIGITS)
    return _from_gluon("mnist", "MNIST", data_dir, split, "mnist.npz")


def open_digits(data_dir: Optional[pathlib.Path], split: str) -> ArraySet:
    """The embedded 8x8 digits, or ``digits.npz`` of another folder with the same keys."""
    folder = _existing(data_dir) if data_dir else DATA
    images, labels = read_npz(folder / "digits.npz", "x", "y", (8, 8))
    chosen = is_digits_test(labels) == (split == "test")
    return ArraySet("digits", images[chosen], labels[chosen], DIGITS)


def is_digits_test(labels: np.ndarray) -> np.ndarray:
    """Mask of the test images: of each class every fifth image, starting with its first."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels == label
        rank[members] = np.arange(members.sum())
    return rank % 5 == 0


def read_npz(path: pathlib.Path, x_key: str, y_key: str,
             image_shape: Tuple[int, ...]) -> Tuple[np.ndarray, np.ndarray]:
    """Checked images and labels of an npz file.

    Parameters
    ----------
    path : pathlib.Path
    x_key, y_key : str
        Names of the arrays: uint8 images (N,) + `image_shape` and integer labels (N,).
    image_shape : tuple of int

    Returns
    -------
    (numpy.ndarray uint8, numpy.ndarray int64)

    Raises
    ------
    DataError
        A file that is missing or broken, or arrays of another kind.
    """
    x, y = _load_arrays(path, (x_key, y_key))
    for key, array in ((x_key, x), (y_key, y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{path}: array {key!r} holds NaN or infinity; write it again from good data")
    if x.dtype != np.uint8 or x.shape[1:] != image_shape or len(x) == 0:
        raise DataError(f"{path}: array {x_key!r} is {x.dtype} {x.shape}; want uint8 (N,"
                        f"{' ' + ', '.join(map(str, image_shape))})")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise DataError(f"{path}: array {y_key!r} is {y.dtype} {y.shape}; want {len(x)} integer labels")
    wrong = np.flatnonzero((y < 0) | (y >= CLASSES))
    if wrong.size:
        raise DataError(f"{path}: label {y[wrong[0]]} at position {wrong[0]} of {y_key!r}; labels are 0..{CLASSES - 1}")
    return x, y.astype(np.int64)


def _load_arrays(path, keys):
    """The named arrays of an npz file."""
    found = npz.read_npz(path, keys)
    return [np.atleast_1d(found[key]) for key in keys]


def _existing(folder):
    """`folder`, or DataError when it is not there."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --data-dir and --calib-data-dir want an existing one")
    return folder


def _from_gluon(name, class_name, data_dir, split, pattern):
    """The data set through gluon's loader, which downloads what its root folder lacks."""
    from mxnet.base import data_dir as mxnet_home  # 2 s, and not needed for arrays on disk
    from mxnet.gluon.data import vision
    root = data_dir or pathlib.Path(mxnet_home()) / "datasets" / name
    logger.info("%s: no %s in %s; using gluon's loader, which downloads the original files", name, pattern, root)
    try:
        # It prints every attempt, on standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            data = getattr(vision, class_name)(root=str(root), train=split == "train")
    # Download, unpacking and hash failures have no common base either.
    except Exception as err:
        raise DataError(f"{name}: no {pattern} in {root} and the download failed ({type(err).__name__}); put {pattern} "
                        "or the original files there, or name their folder with --data-dir"
                        ) from None
    # Item by item, the public way, takes 10 s for 50000 images.
    images = data._data.asnumpy()
    return ArraySet(name, images[..., 0] if images.shape[-1] == 1 else images, data._label,
                    CIFAR10 if name == "cifar10" else DIGITS)
