# SPDX-License-Identifier: MIT
"""`recheck` as somebody uses it who copied a deployment to another machine, and what it must not let pass."""

import json
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from deploy.proof import samples
from deploy.proof.certificate import file_facts
from gluon_quantize.commands import deploy, recheck
from tests.examples import unprovided

ROOT = pathlib.Path(__file__).resolve().parents[2]
FEW = ["--model", "digits_lenet", "--num-images", "20", "--num-sample", "4", "--verify-images", "10",
       "--latency-runs", "1"]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A folder, not to be written to."""
    pytest.importorskip("ncnn")
    folder = tmp_path_factory.mktemp("recheck") / "out"
    assert deploy.main([*FEW, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(deployed, tmp_path):
    """A copy."""
    shutil.copytree(str(deployed), str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture
def bare(monkeypatch):
    """No embedded images: as on a machine without Pillow."""
    monkeypatch.setattr("gluon_quantize.runs.recheck.EMBEDDED", ())


def certify(folder, *names):
    """Let the certificate state the files as they are."""
    path = folder / "certificate.json"
    contents = json.loads(path.read_text())
    contents["files"].update(file_facts([folder / name for name in names]))
    path.write_text(json.dumps(contents))


def run(folder, *options):
    return recheck.main([str(folder), *options])


def test_the_stored_images_serve_without_others(folder, bare, capsys):
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "Every quantized blob of 4 images" in out and "| ncnn exact " in out
    kept = list((folder / "certificates").glob("*.json"))
    assert len(kept) == 1 and json.loads(kept[0].read_text())["data"] == "4 stored"
    assert out.count("ncnn 1.") == 2  # two machines as rows: the one that deployed, and this one
    assert (folder / "certificates" / "machines.md").read_text().startswith("# Machines")


def test_the_same_machine_again_replaces_its_certificate(folder, bare):
    assert run(folder) == run(folder) == 0
    assert len(list((folder / "certificates").glob("*.json"))) == 1


def test_what_is_stored_is_hashed_and_small(deployed):
    contents = json.loads((deployed / "certificate.json").read_text())
    assert samples.FILE in contents["files"] and (deployed / samples.FILE).stat().st_size < 20000


def test_python_numpy_and_the_engine_are_enough(folder):
    """Nothing else can be imported, and nothing of the machine that deployed is there."""
    program = textwrap.dedent("""
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in %r:
                    raise ModuleNotFoundError(name + " is not here", name=name)
        sys.meta_path.insert(0, Refuse())
        from gluon_quantize.commands.main import main
        sys.exit(main(["recheck", %r]))
    """) % (unprovided.MODULES, str(folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=str(folder.parent), env={"PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"})
    assert done.returncode == 0, done.stderr
    assert "Every quantized blob of 4 images" in done.stdout and "100 %" in done.stdout


# ---- what must not pass

def names_elsewhere(folder):
    from deploy.ir import file
    model = file.load(folder / "digits_lenet.ir")
    model.metadata["name"] = "../elsewhere/digits_lenet"
    file.save(model, folder / "digits_lenet.ir")
    certify(folder, "digits_lenet.ir")


def states_no_files(folder):
    path = folder / "certificate.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), files={})))


def scales_to_infinity(folder):
    with np.load(str(folder / samples.FILE)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["inputs"] = np.full_like(arrays["inputs"], np.nan)
    np.savez(str(folder / samples.FILE), **arrays)
    certify(folder, samples.FILE)


def replaces_the_samples(folder):
    (folder / samples.FILE).write_bytes(b"no archive")
    certify(folder, samples.FILE)


def forgets_the_samples(folder):
    path = folder / "certificate.json"
    contents = json.loads(path.read_text())
    del contents["files"][samples.FILE]
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("change, says", [
    (names_elsewhere, "digits_lenet.ir: calls itself '../elsewhere/digits_lenet'"),
    (states_no_files, "the certificate says nothing about this file"),
    (forgets_the_samples, "verification.npz: the certificate says nothing about this file"),
    (replaces_the_samples, "verification.npz: not a complete npz file"),
    (scales_to_infinity, "verification.npz")])
def test_it_is_not_led_astray(folder, bare, capsys, change, says):
    change(folder)
    assert run(folder) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_images_that_are_no_numbers_prove_nothing(folder, capsys):
    from deploy.ir import file
    model = file.load(folder / "digits_lenet.ir")
    steps = json.loads(model.metadata["preprocessing"])
    model.metadata["preprocessing"] = json.dumps(dict(steps, scale=1e308, std=[1e-308]))
    file.save(model, folder / "digits_lenet.ir")
    certify(folder, "digits_lenet.ir")
    assert run(folder) == 2 and "no numbers" in capsys.readouterr().err


def test_a_machine_that_deviates_is_an_error(folder, capsys):
    """The weights in the engine's file are not those of the model, and the certificate says they are right."""
    path = folder / "digits_lenet-int8.bin"
    content = bytearray(path.read_bytes())
    content[9] ^= 64
    path.write_bytes(content)
    certify(folder, path.name)
    assert run(folder) == 1
    assert "computes something else" in capsys.readouterr().err


def test_changed_circumstances_are_told(folder, bare, capsys):
    path = folder / "certificate.json"
    contents = json.loads(path.read_text())
    contents["machine"].update(ncnn="1.0.1", architecture="aarch64", flags=["neon"])
    path.write_text(json.dumps(contents))
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "the certificate was made with 1.0.1" in out and "the integer engine rounded as ncnn" in out


def test_a_folder_that_cannot_be_written_to(folder, bare, monkeypatch, capsys):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    assert run(folder) == 2 and "--output DIR takes the certificate elsewhere" in capsys.readouterr().err
