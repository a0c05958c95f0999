# SPDX-License-Identifier: MIT
"""`deploy --target` for whichever engine, and `recheck` as a command of its own."""

import json
import re

import pytest

from gluon_quantize.commands import deploy, recheck
from gluon_quantize.commands.main import COMMANDS, module_of

FEW = ("--model", "digits_lenet", "--num-images", "20", "--latency-runs", "1")


def stopped(main, *arguments):
    """Exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def test_a_target_without_an_engine_writes_its_files(tmp_path, capsys):
    folder = tmp_path / "out"
    assert stopped(deploy.main, *FEW, "--target", "caffe", "-v", "--output", folder) == 0
    out = capsys.readouterr().out
    assert "Nothing is compared: caffe has neither an engine nor an exact simulation here" in out
    assert re.search("\n  target +caffe\n", out) and "\nlatency" not in out
    names = {path.name for path in folder.iterdir()}
    assert {"digits_lenet-int8.prototxt", "digits_lenet-int8.caffemodel", "plan.txt", "result.json"} <= names
    assert not {"certificate.json", "run_ncnn.py", "ncnn.table"} & names
    result = json.loads((folder / "result.json").read_text())
    assert list(result["accuracy"]) == ["simulated"] and result["verification"] == {}


def test_a_target_says_what_it_offers(capsys):
    offered = {}
    for target in ("caffe", "ncnn"):
        assert stopped(deploy.main, "--target", target, "--help") == 0
        offered[target] = capsys.readouterr().out
    for flag in ("--keep-winograd", "--caffe", "--winograd-report"):
        assert f"  {flag} " in offered["ncnn"] and f"  {flag} " not in offered["caffe"]
    assert stopped(deploy.main, *FEW, "--target", "caffe", "--keep-winograd", "--output", "o") == 2
    assert "unrecognized arguments: --keep-winograd" in capsys.readouterr().err
    assert stopped(deploy.main, *FEW, "--target", "caff", "--output", "o") == 2
    assert "unknown target 'caff'; known: c, caffe, mxnet, ncnn, onnx; did you mean 'caffe'?" in capsys.readouterr().err


def test_single_layers_can_be_kept_from_16_bit_floats(tmp_path, capsys):
    few = (*FEW, "--num-sample", "2", "--verify-images", "4")
    folder = tmp_path / "out"
    assert stopped(deploy.main, *few, "--no-fp16-layers", "feature.4", "--output", folder) == 2
    found = capsys.readouterr()
    assert "feature.4: --no-fp16-layers names a layer that is not there; did you mean 'features.4'?" in found.err
    assert "Stability" not in found.out and not folder.exists()  # before anything is calibrated
    pytest.importorskip("ncnn")
    assert stopped(deploy.main, *few, "--no-fp16-layers", "features.8", "out*", "--output", folder) == 0
    lines = (folder / "digits_lenet-int8.param").read_text().splitlines()
    kept = {line.split()[1] for line in lines if re.search(r" 31=(7|71)( |$)", line)}
    assert {"features.4", "features.8", "features.12", "output"} <= kept and "features.0" not in kept
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["sides"]["ncnn exact"]["codes"]["share"] == 1
    again = tmp_path / "again"  # a checkpoint remembers what its target was told
    assert stopped(deploy.main, folder, *FEW[2:], "--verify-images", "4", "--output", again) == 0
    assert (again / "digits_lenet-int8.param").read_text().splitlines() == lines


def test_recheck_is_a_command(tmp_path, capsys):
    pytest.importorskip("ncnn")
    folder, again = tmp_path / "out", tmp_path / "again"
    assert deploy.main([*FEW, "--output", str(folder)]) == 0
    capsys.readouterr()
    assert stopped(recheck.main, folder, "--verify-images", 10, "--output", again) == 0
    alone = capsys.readouterr()
    assert stopped(deploy.main, "--recheck", folder, "--verify-images", 10, "--output", again, "--force") == 0
    assert capsys.readouterr() == alone and f"written to {again}" in alone.out
    assert sorted(path.name for path in again.iterdir()) == ["certificate.json", "certificate.md"]
    assert stopped(recheck.main, folder, "--verify-images", 10, "--output", again) == 2
    assert "exists and is not empty; --force replaces it" in capsys.readouterr().err
    assert stopped(recheck.main, tmp_path) == 2 and "0 .ir files" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_default(name):
    for action in module_of(name).build_parser()._actions:
        help = module_of(name).build_parser()._get_formatter()._get_help_string(action)
        assert action.dest == "help" or action.required or action.nargs == "..." or "default: " in help, action.dest
