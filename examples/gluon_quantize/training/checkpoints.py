# SPDX-License-Identifier: MIT
"""Checkpoints of a training: one folder each, whole or not at all, of which the last ones are kept.

A checkpoint holds parameters, the optimizers' states as arrays, how far the training has come, and a manifest with the
size and the SHA-256 of each of these files: nothing in it is code, and nothing that changed is taken for whole.
"""

import dataclasses
import json
import os
import pathlib
import re
import secrets
import shutil
from typing import Any, Dict, List, Mapping, Type, TypeVar

import msgspec
import mxnet as mx
from mxnet.gluon import Block
from typing_extensions import Annotated

from gluon_quantize.models.params import save_params
from gluon_quantize.training.loop import Progress
from gluon_quantize.training.optimizers import Optimizers
from quantize.convert.net import QuantizedNet
from quantize.documents import checked, read_json
from quantize.errors import ConfigError, DataError, ModelFileError, QuantizeError
from quantize.escape import shown
from quantize.files import check_within, size_and_digest

NET, PROGRESS, MANIFEST, FORMAT = "net.params", "progress.json", "manifest.json", 2
NAME = re.compile(r"epoch-(0|[1-9][0-9]{0,8})$")
PICKLES = "*.states"  # what checkpoints held before format 2
# settings that change nothing of what is computed, by the names of the command line's options and of the request
FREE = ("output", "resume", "num_workers", "images.workers", "no_plots", "csv", "list_models", "print_model",
        "report", "command_line")

REMEDY = "remove this checkpoint to go on from the one before"

T = TypeVar("T")


class Checkpoints:
    """The checkpoints in a folder.

    A checkpoint is written under a temporary name and renamed when it is complete, so a killed process leaves the one
    before it.

    Parameters
    ----------
    folder : path
    settings : dict
        Of the run, as JSON can hold them; a resumed run must have the same.
    keep : int
        How many are kept.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any], keep: int = 2):
        self._folder = pathlib.Path(folder)
        self._settings = json.loads(json.dumps({name: v for name, v in settings.items() if name not in FREE}))
        self._keep = keep

    def folders(self) -> List[pathlib.Path]:
        """Complete checkpoints, the oldest first; what is called otherwise than epoch-N is none."""
        named = [(NAME.match(path.name), path) for path in self._folder.glob("epoch-*")]
        found = [(int(match.group(1)), path) for match, path in named if match and path.is_dir()]
        return [path for _, path in sorted(found, key=lambda pair: pair[0])]

    def save(self, net: Block, optimizers: Optimizers, progress: Progress) -> None:
        """Write a checkpoint; older ones are removed afterwards. DataError when it cannot be written."""
        target = self._folder / f"epoch-{progress.epoch}"
        temporary = self._folder / f"{target.name}.{secrets.token_hex(8)}.tmp"
        try:
            temporary.mkdir(parents=True)
            save_params(net, temporary / NET)
            optimizers.save(temporary)
            contents = {"settings": self._settings, "progress": dataclasses.asdict(progress)}
            (temporary / PROGRESS).write_text(json.dumps(contents, indent=1), encoding="utf-8")
            listed = {path.name: size_and_digest(path) for path in sorted(temporary.iterdir())}
            (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": listed}, indent=1),
                                              encoding="utf-8")
            os.replace(str(temporary), str(target))
        except (OSError, DataError, mx.MXNetError) as error:
            raise DataError(f"{target}: the checkpoint cannot be written: {str(error).splitlines()[0]}") from None
        finally:
            shutil.rmtree(str(temporary), ignore_errors=True)
        for old in self.folders()[:-self._keep]:
            shutil.rmtree(str(old), ignore_errors=True)

    def check(self) -> None:
        """ConfigError when the last checkpoint is of a run with other settings; nothing without a checkpoint."""
        if not self.folders():
            return
        found = self._read(self.folders()[-1]).settings
        for name in sorted(set(found) | set(self._settings)):
            if found.get(name) != self._settings.get(name):
                given = f"--{shown(name.replace('_', '-')):.60} {shown(found.get(name)):.200}"
                raise ConfigError(f"--resume: {self.folders()[-1]} was made with {given}, now it is "
                                  f"{self._settings.get(name)}; resume with the same options, or take another --output")

    def load(self, net: Block, optimizers: Optimizers) -> Progress:
        """Put the last checkpoint into a network and its optimizers; how far it had come (0 epochs without one)."""
        if not self.folders():
            return Progress()
        self.check()
        folder = self.folders()[-1]
        try:
            net.load_parameters(str(folder / NET), **({"modes_follow": True} if isinstance(net, QuantizedNet) else {}))
            optimizers.load(folder)
            return self._read(folder).progress
        except (OSError, EOFError, ValueError, TypeError, AssertionError, mx.MXNetError, QuantizeError) as error:
            raise ModelFileError(f"{folder}: cannot be read: {str(error).splitlines()[0]}; {REMEDY}") from None

    @staticmethod
    def _read(folder: pathlib.Path) -> "Contents":
        """The contents of progress.json, once the manifest has vouched for all files."""
        _verify(folder)
        return _document(folder / PROGRESS, Contents)


Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class File(msgspec.Struct, forbid_unknown_fields=True):
    """What the manifest says of a file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Digest


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """manifest.json."""

    format: int
    files: Dict[str, File]


class Contents(msgspec.Struct, forbid_unknown_fields=True):
    """progress.json."""

    settings: Dict[str, Any]
    progress: Progress


def _document(path: pathlib.Path, schema: Type[T]) -> T:
    """What a JSON file of a checkpoint holds; ModelFileError says what does not fit."""
    try:
        return checked(read_json(path, ModelFileError, infinite=True), schema, str(path), ModelFileError)
    except QuantizeError as error:
        raise ModelFileError(f"{error}; {REMEDY}") from None


def _verify(folder: pathlib.Path) -> None:
    """ModelFileError unless the files are, bit for bit, those that were written."""
    check_within(folder.parent.parent, [folder, *folder.iterdir()], ModelFileError)  # the run's folder
    if not (folder / MANIFEST).is_file():
        if any(folder.glob(PICKLES)):
            raise ModelFileError(f"{folder}: is of an earlier version, whose optimizer states are pickles: they could "
                                 "run code. Start anew from its net.params")
        raise ModelFileError(f"{folder}: has no {MANIFEST}; {REMEDY}")
    manifest = _document(folder / MANIFEST, Manifest)
    stated = manifest.files
    if manifest.format != FORMAT:
        raise ModelFileError(f"{folder / MANIFEST}: format {manifest.format!r}, this version reads {FORMAT}")
    for path in (folder / name for name in (NET, PROGRESS)):
        if path.name not in stated:
            raise ModelFileError(f"{folder / MANIFEST}: does not list {path.name}; {REMEDY}")
    there = {path.name: path for path in folder.iterdir() if path.name != MANIFEST}
    for name in sorted({*stated, *there}):
        if name not in stated or name not in there or not _is_same(there[name], stated[name]):
            how = "not listed in its manifest" if name not in stated else "damaged" if name in there else "missing"
            raise ModelFileError(f"{folder / shown(name)}: is {how}; {REMEDY}")


def _is_same(path: pathlib.Path, stated: File) -> bool:
    """Whether a file is what the manifest says; one of another size is not even read."""
    return (path.is_file() and path.stat().st_size == stated.bytes
            and size_and_digest(path)["sha256"] == stated.sha256)
