# SPDX-License-Identifier: MIT
"""Checkpoints of a training: one folder each, whole or not at all, of which the last ones are kept.

A checkpoint holds parameters, the optimizers' states as arrays, how far the training has come, and a manifest with the
size and the SHA-256 of each of these files: nothing in it is code, and nothing that changed is taken for whole.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any, List, Mapping

import mxnet as mx
from mxnet.gluon import Block

from gluon_quantize.models.params import save_params
from gluon_quantize.training.loop import Progress
from gluon_quantize.training.optimizers import Optimizers
from quantize.convert.net import QuantizedNet
from quantize.errors import ConfigError, DataError, ModelFileError, QuantizeError
from quantize.files import read_text

NET, PROGRESS, MANIFEST, FORMAT = "net.params", "progress.json", "manifest.json", 2
NAME = re.compile(r"epoch-(0|[1-9][0-9]{0,8})$")
PICKLES = "*.states"  # what checkpoints held before format 2
# settings that change nothing of what is computed, by the names of the command line's options and of the request
FREE = ("output", "resume", "num_workers", "images.workers", "no_plots", "csv", "list_models", "print_model")


REMEDY = "remove this checkpoint to go on from the one before"


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
        temporary = self._folder / (target.name + ".tmp")
        try:
            shutil.rmtree(str(temporary), ignore_errors=True)
            temporary.mkdir(parents=True)
            save_params(net, temporary / NET)
            optimizers.save(temporary)
            contents = {"settings": self._settings, "progress": dataclasses.asdict(progress)}
            (temporary / PROGRESS).write_text(json.dumps(contents, indent=1), encoding="utf-8")
            listed = {path.name: _facts(path) for path in sorted(temporary.iterdir())}
            (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": listed}, indent=1),
                                              encoding="utf-8")
            os.replace(str(temporary), str(target))
        except (OSError, mx.MXNetError) as error:
            raise DataError(f"{target}: the checkpoint cannot be written: {str(error).splitlines()[0]}") from None
        for old in self.folders()[:-self._keep]:
            shutil.rmtree(str(old), ignore_errors=True)

    def check(self) -> None:
        """ConfigError when the last checkpoint is of a run with other settings; nothing without a checkpoint."""
        if not self.folders():
            return
        found = self._read(self.folders()[-1])["settings"]
        for name in sorted(set(found) | set(self._settings)):
            if found.get(name) != self._settings.get(name):
                raise ConfigError(f"--resume: {self.folders()[-1]} was made with --{name.replace('_', '-')} "
                                  f"{found.get(name)}, now it is {self._settings.get(name)}; resume with the same "
                                  "options, or take another --output")

    def load(self, net: Block, optimizers: Optimizers) -> Progress:
        """Put the last checkpoint into a network and its optimizers; how far it had come (0 epochs without one)."""
        if not self.folders():
            return Progress()
        self.check()
        folder = self.folders()[-1]
        try:
            net.load_parameters(str(folder / NET), **({"modes_follow": True} if isinstance(net, QuantizedNet) else {}))
            optimizers.load(folder)
            return Progress(**self._read(folder)["progress"])
        except (OSError, EOFError, ValueError, TypeError, AssertionError, mx.MXNetError, QuantizeError) as error:
            raise ModelFileError(f"{folder}: cannot be read: {str(error).splitlines()[0]}; {REMEDY}") from None

    @staticmethod
    def _read(folder):
        """The contents of progress.json, once the manifest has vouched for all files."""
        _verify(folder)
        try:
            found = json.loads(read_text(folder / PROGRESS))
            if isinstance(found["settings"], dict) and isinstance(found["progress"], dict):
                return found
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ModelFileError(f"{folder / PROGRESS}: is damaged; {REMEDY}")


def _facts(path):
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _verify(folder):
    """ModelFileError unless the files are, bit for bit, those that were written."""
    if not (folder / MANIFEST).is_file():
        if any(folder.glob(PICKLES)):
            raise ModelFileError(f"{folder}: is of an earlier version, whose optimizer states are pickles: they could "
                                 "run code. Start anew from its net.params")
        raise ModelFileError(f"{folder}: has no {MANIFEST}; {REMEDY}")
    try:
        contents = json.loads(read_text(folder / MANIFEST))
        version, stated = contents["format"], dict(contents["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelFileError(f"{folder / MANIFEST}: is damaged; {REMEDY}") from None
    if version != FORMAT:
        raise ModelFileError(f"{folder / MANIFEST}: format {version!r}, this version reads {FORMAT}")
    for path in (folder / name for name in (NET, PROGRESS)):
        if path.name not in stated:
            raise ModelFileError(f"{folder / MANIFEST}: does not list {path.name}; {REMEDY}")
    there = {path.name: path for path in folder.iterdir() if path.name != MANIFEST}
    for name in sorted({*stated, *there}):
        if name not in stated or name not in there or not there[name].is_file() or _facts(there[name]) != stated[name]:
            how = "not listed in its manifest" if name not in stated else "damaged" if name in there else "missing"
            raise ModelFileError(f"{folder / name}: is {how}; {REMEDY}")
