# SPDX-License-Identifier: MIT
"""What pip installs works without the source tree; it takes minutes and a package index."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = {"quantize": "quantize", "calib": "calib", "deploy": "deploy", "gluon_quantize": "examples/gluon_quantize"}
NEEDED = ("quantize", "calib", "deploy", "examples", "setup.py", "pyproject.toml", "README.md", "LICENSE")
BUILD_PRODUCTS = shutil.ignore_patterns("__pycache__", "_native", "*.egg-info", "build", "dist")


class Environment:
    """A virtual environment, and commands in it that see nothing of the one this test runs in."""

    def __init__(self, folder):
        self.folder = folder
        self.elsewhere = folder.with_name(folder.name + "-work")
        self.elsewhere.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    def run(self, program, *arguments):
        """The finished process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run([str(self.folder / "bin" / program), *map(str, arguments)], cwd=str(self.elsewhere),
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def pip(self, *arguments):
        """Install; the whole log is the message when it fails."""
        done = self.run("python", "-m", "pip", "install", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One without the project."""
    made = Environment(tmp_path_factory.mktemp("install") / "venv")
    probe = made.run("python", "-m", "pip", "install", "--disable-pip-version-check", "--retries", "0", "build")
    if probe.returncode:
        pytest.skip(f"no package index: {probe.stdout.strip().splitlines()[-1]}")
    return made


@pytest.fixture
def tree(tmp_path):
    """A copy of the sources, as a fresh clone has them."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(str(source), str(folder / name), ignore=BUILD_PRODUCTS)
        else:
            shutil.copy(str(source), str(folder / name))
    return folder


def check_commands(environment, output):
    """Simulate and deploy the embedded network."""
    done = environment.run("gluon-quantize", "simulate", "--model", "digits_lenet", "--num-images", "64")
    assert done.returncode == 0 and "quantized" in done.stdout, done.stdout
    done = environment.run("gluon-quantize", "deploy", "--model", "digits_lenet", "--output", output, "--num-images",
                           "64", "--verify-images", "4", "--latency-runs", "1")
    assert done.returncode == 0, done.stdout
    assert {"certificate.json", "result.json"} <= {path.name for path in (environment.elsewhere / output).iterdir()}
    done = environment.run("python", "-m", "quantize.ops")
    if shutil.which("g++"):
        assert "native    available" in done.stdout and str(environment.folder) in done.stdout, done.stdout


def test_installed_from_the_tree(environment, tree):
    environment.pip(f"{tree}[ncnn]")
    shutil.rmtree(str(tree))
    check_commands(environment, "from_tree")


def test_installed_from_a_wheel(environment, tree):
    done = environment.run("python", "-m", "build", "--outdir", tree.parent / "dist", tree)
    assert done.returncode == 0, done.stdout
    sources = {f"{package}/{path.relative_to(tree / folder).as_posix()}"
               for package, folder in PACKAGES.items() for path in (tree / folder).rglob("*.py")}
    shutil.rmtree(str(tree))
    wheel, = (tree.parent / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl") != bool(shutil.which("g++"))
    names = set(zipfile.ZipFile(str(wheel)).namelist())
    assert len(sources) > 100 and sources | {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"gluon_quantize/assets/digits.npz", "gluon_quantize/assets/digits_lenet.params",
            "deploy/targets/ncnn/templates/run_ncnn.cpp.txt", "quantize/ops/csrc/op.h"} <= names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    environment.pip("--force-reinstall", "--no-deps", wheel)
    environment.pip(f"{wheel}[ncnn]")
    check_commands(environment, "from_wheel")
