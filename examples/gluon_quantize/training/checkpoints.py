# SPDX-License-Identifier: MIT
"""Checkpoints of a training: one folder each, whole or not at all, of which the last ones are kept."""

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any, List, Mapping

import mxnet as mx
from mxnet.gluon import Block

from gluon_quantize.training.loop import Progress
from gluon_quantize.training.optimizers import Optimizers
from quantize.errors import ConfigError, DataError, ModelFileError
from quantize.files import read_text

NET, PROGRESS, PREFIX = "net.params", "progress.json", "epoch-"
# settings that change nothing of what is computed, by the names of the command line's options and of the request
FREE = ("output", "resume", "num_workers", "images.workers", "no_plots", "list_models", "print_model")


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
        """Complete checkpoints, the oldest first."""
        return sorted((path for path in self._folder.glob(PREFIX + "*") if path.suffix != ".tmp"),
                      key=lambda path: int(path.name[len(PREFIX):]))

    def save(self, net: Block, optimizers: Optimizers, progress: Progress) -> None:
        """Write a checkpoint; older ones are removed afterwards. DataError when it cannot be written."""
        target = self._folder / f"{PREFIX}{progress.epoch}"
        temporary = self._folder / (target.name + ".tmp")
        try:
            shutil.rmtree(str(temporary), ignore_errors=True)
            temporary.mkdir(parents=True)
            net.save_parameters(str(temporary / NET))
            optimizers.save(temporary)
            contents = {"settings": self._settings, "progress": dataclasses.asdict(progress)}
            (temporary / PROGRESS).write_text(json.dumps(contents, indent=1), encoding="utf-8")
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
            net.load_parameters(str(folder / NET))
            optimizers.load(folder)
        except (OSError, EOFError, ValueError, AssertionError, mx.MXNetError) as error:
            raise ModelFileError(f"{folder}: cannot be read: {str(error).splitlines()[0]}; remove it to go on from the "
                                 "one before") from None
        return Progress(**self._read(folder)["progress"])

    @staticmethod
    def _read(folder):
        try:
            return json.loads(read_text(folder / PROGRESS))
        except json.JSONDecodeError as error:
            raise ModelFileError(f"{folder / PROGRESS}: is damaged: {error}; remove the checkpoint to go on from the "
                                 "one before") from None
