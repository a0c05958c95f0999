# SPDX-License-Identifier: MIT
"""The embedded data set, as an N2D2 database: ``Type=Digits_Database`` in the section [database]."""

import pathlib
from typing import Optional

import numpy as np

from gluon_quantize.data.arrays import open_digits
from quantize.files import PathLike
from quantize.interfaces.n2d2.database import DATABASES, Database, Part


class Digits(Database):
    """The embedded 8x8 digits, or ``digits.npz`` of another folder with the same keys."""

    embedded = True

    def load(self, data_path: PathLike = "", label_path: Optional[PathLike] = None) -> None:
        """See `Database.load`; no folder is needed."""
        folder = pathlib.Path(data_path).expanduser() if data_path else None
        self._partition(_part(folder, "train"), _part(folder, "test"))


def _part(folder: Optional[pathlib.Path], split: str) -> Part:
    found = open_digits(folder, split)
    return found.images, np.asarray(found.labels, np.int64)


def register() -> None:
    """Let INI files name it: nothing below the examples holds data."""
    DATABASES["Digits_Database"] = Digits
