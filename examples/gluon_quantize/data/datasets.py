# SPDX-License-Identifier: MIT
"""The data sets of the examples, by name."""

import pathlib
from typing import Optional, Union

from gluon_quantize.data.arrays import open_cifar10, open_digits, open_mnist
from gluon_quantize.data.batches import batches
from gluon_quantize.data.folder import has_labels, open_image_folder, open_unlabelled
from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.loader import open_loader
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.data.sampling import balanced_indices
from quantize.errors import ConfigError, DataError
from quantize.files import PathLike
from quantize.registry import closest

__all__ = ["DATASETS", "balanced_indices", "batches", "open_calibration", "open_dataset", "open_images"]


def open_imagenet(data_dir: Optional[pathlib.Path], split: str) -> ImageSet:
    """ImageNet from `data_dir`; see `gluon_quantize.data.folder`."""
    if data_dir is None:
        raise DataError("imagenet is not downloaded: name its folder with --data-dir")
    return open_image_folder(data_dir, split)


DATASETS = {"cifar10": open_cifar10, "digits": open_digits, "imagenet": open_imagenet, "mnist": open_mnist}


def open_dataset(name: str, data_dir: Union[None, str, pathlib.Path] = None, split: str = "test") -> ImageSet:
    """One split of a data set.

    Parameters
    ----------
    name : {'imagenet', 'cifar10', 'mnist', 'digits'}
    data_dir : str or path, optional
        Folder of the files. Needless for 'digits', which is embedded; 'cifar10' and 'mnist' are downloaded without it.
    split : {'train', 'test'}
        ImageNet's ``val`` is 'test'.

    Returns
    -------
    ImageSet

    Raises
    ------
    ConfigError
        A name or split that does not exist.
    DataError
        Files that are missing or unusable, named.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; known: {', '.join(sorted(DATASETS))}{closest(name, DATASETS)}")
    if split not in ("train", "test"):
        raise ConfigError(f"unknown split {split!r}; use 'train' or 'test'")
    return DATASETS[name](None if data_dir is None else _possible(data_dir), split)


def _possible(data_dir: PathLike) -> pathlib.Path:
    """The folder; DataError for a name that no system could have."""
    folder = pathlib.Path(data_dir).expanduser()
    try:
        folder.exists()
    except (OSError, ValueError) as error:  # too long, or with a zero in it
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{str(data_dir):.100}: is no folder's name: {reason}") from None
    return folder


def open_images(request: ImagesRequest, dataset: str, split: str, labels: bool = True) -> ImageSet:
    """One split of what a request names: a loader's, or a data set's; without `labels` any folder of images will do.

    Raises as `open_dataset`.
    """
    if request.loader:
        return open_loader(request.loader, split)
    folder = request.folder
    if dataset == "imagenet" and folder is not None and not labels:
        path = pathlib.Path(folder).expanduser()
        return open_dataset(dataset, folder, split) if has_labels(path, split) else open_unlabelled(path, split)
    return open_dataset(dataset, folder, split)


def open_calibration(name: str, data_dir: Union[None, str, pathlib.Path] = None) -> ImageSet:
    """Images to calibrate on: the training part of a data set, or any folder of images, since they need no labels.

    Raises as `open_dataset`.
    """
    folder = None if data_dir is None else pathlib.Path(data_dir).expanduser()
    if name == "imagenet" and folder is not None and not has_labels(folder, "train"):
        return open_unlabelled(folder, "train")
    return open_dataset(name, folder, "train")
