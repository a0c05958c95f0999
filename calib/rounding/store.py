# SPDX-License-Identifier: MIT
"""Finished layers in a folder, so that a run that was killed goes on where it was."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from calib.rounding.problem import Solution
from quantize.documents import read_json
from quantize.errors import ConfigError
from quantize.files import PathLike, write_whole
from quantize.npz import read_npz

HEADER = "rounding.json"


class Progress:
    """The folder of a run.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    identity : str
        Fingerprint of everything that the result depends on.

    Raises
    ------
    ConfigError
        For a folder of another run.
    """

    def __init__(self, folder: PathLike, identity: str) -> None:
        self._folder = Path(folder)
        header = self._folder / HEADER
        if header.exists():
            found = read_json(header, ConfigError)
            if not isinstance(found, dict) or found.get("identity") != identity:
                raise ConfigError(f"{self._folder}: holds the progress of another run (other network, ranges, images, "
                                  "method or seed); choose another folder, or remove this one")
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(header, json.dumps({"identity": identity}) + "\n")

    def read(self, number: int) -> Optional[Solution]:
        """The solution of a layer that was finished before, None for others."""
        path = self._path(number)
        if not path.exists():
            return None
        arrays = read_npz(path, ("codes", "scale", "bias", "error", "nearest_error"))
        if any(values.dtype.kind not in "if" for values in arrays.values()) or arrays["error"].size != 1 or arrays[
                "nearest_error"].size != 1:
            raise ConfigError(f"{path}: holds no layer's codes, scales and errors; remove it, and the layer is "
                              "computed again")
        return Solution(arrays["codes"].astype(np.float64), arrays["scale"], arrays["bias"], float(arrays["error"]),
                        float(arrays["nearest_error"]))

    def write(self, number: int, solution: Solution) -> None:
        """Keep a finished layer."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **dict(solution._asdict(), codes=solution.codes.astype(np.int32)))
        write_whole(self._path(number), buffer.getvalue())

    def _path(self, number):
        return self._folder / f"layer_{number:04d}.npz"


def fingerprint(net: Any, images: Sequence[Any], settings: str) -> str:
    """Of a converted network with its ranges, of images (NDArrays), and of what else decides on the result."""
    digest = hashlib.sha256(settings.encode())
    for name, parameter in sorted(net._collect_params_with_prefix().items()):
        if parameter._data is not None:
            digest.update(name.encode() + parameter.data().asnumpy().tobytes())
    for part in images:
        digest.update(part.asnumpy().tobytes())
    return digest.hexdigest()[:32]
