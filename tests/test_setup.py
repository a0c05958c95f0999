# SPDX-License-Identifier: MIT
"""A wheel that holds a compiled library says so in its name."""

import pathlib
import runpy
import sys
import types

import pytest
import setuptools

from quantize.ops import build

SETUP = pathlib.Path(__file__).resolve().parent.parent / "setup.py"


@pytest.mark.parametrize("compiler, compiled, holds", [
    (None, False, False), ("g++", False, True), (None, True, True), ("g++", True, True)])
def test_a_library_makes_the_wheel_one_for_a_platform(monkeypatch, compiler, compiled, holds):
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    # the build has a newer setuptools than this environment may have
    command = types.ModuleType("setuptools.command.bdist_wheel")
    command.bdist_wheel = setuptools.Command
    monkeypatch.setitem(sys.modules, command.__name__, command)
    runpy.run_path(str(SETUP))
    monkeypatch.setattr(build, "find_compiler", lambda: compiler)
    monkeypatch.setattr(build, "up_to_date", lambda: compiled)
    assert given["distclass"]().has_ext_modules() == holds
