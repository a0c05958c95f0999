# SPDX-License-Identifier: MIT
"""What comparing the files of a deployment needs: their names, and the proof.

It loads nothing but NumPy and the engine, so that it runs where there is no MXNet: on a phone.
"""

import pathlib
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

import numpy as np

from deploy.ir import Model
from deploy.proof.certificate import JSON, TEXT
from deploy.proof.compare import Difference
from deploy.proof.machines import FOLDER
from deploy.proof.prove import Side, Subject, engine_sides, prove
from deploy.target import Target, find
from gluon_quantize.progress import Silent
from gluon_quantize.runs.outputs import RESULT
from gluon_quantize.runs.ownership import PAGE, PAGE_DATA

FLOAT, INTEGER = "float", "int8"
EARLIEST = "ncnn"  # the target of files whose version did not say it yet


def target_of(model: Model) -> Target:
    """The engine that a deployed model was written for; ConfigError for one that is not known here."""
    target: Target = find(model.metadata.get("target", EARLIEST))
    return target


def stem(name: str, kind: str) -> str:
    """What the files of a kind (`FLOAT`, `INTEGER`) of a network are called, before their suffixes."""
    return f"{name}-{kind}"


def paths(target: Target, name: str, folder: pathlib.Path, kind: str) -> Tuple[pathlib.Path, ...]:
    """The target's files of a kind in a folder."""
    return tuple(pathlib.Path(folder) / file for file in target.files(stem(name, kind)))


@dataclass(frozen=True)
class Compared:
    """What is compared.

    Parameters
    ----------
    name : str
        Of the network.
    target : Target
    model : Model
        As it was written.
    folder : path
    """

    name: str
    target: Target
    model: Model
    folder: pathlib.Path

    def in_engine(self) -> Dict[str, Side]:
        """The int8 files in the engine, a side for each of its ways."""
        return engine_sides(self.target, self.model, paths(self.target, self.name, self.folder, INTEGER))

    def files(self) -> Iterable[pathlib.Path]:
        """What the certificate is about: all but itself and those of other machines."""
        results = (JSON, TEXT, RESULT, PAGE, PAGE_DATA)
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name not in results
                      and FOLDER not in path.relative_to(self.folder).parts)


def compare(compared: Compared, sides: Mapping[str, Side], batches: Iterable[np.ndarray], data: Tuple[str, int],
            progress: Silent, *, versions: Optional[Mapping[str, str]] = None,
            export: Optional[Difference] = None) -> Dict[str, Any]:
    """Compare every blob with the integer engine; the contents of the certificate.

    Parameters
    ----------
    sides : dict
        Name -> Side.
    batches : iterable of array of float32, (images, ...)
        In the order of channels that the files want.
    data : (str, int)
        Fingerprint of the images, and their number.
    versions : dict, optional
        Of what computes beside the engine.
    export : Difference, optional
        Float files against the float network.
    """
    subject = Subject(compared.name, compared.target, compared.model, tuple(compared.files()), data[0])
    with progress.counter(data[1], "verification", "image") as count:
        return prove(subject, sides, batches, versions=versions, export=export, progress=count)
