# SPDX-License-Identifier: MIT
"""An ARM Linux with Python, NumPy and ncnn, run by QEMU's user-mode emulation: built once into a cache folder.

    python tests/deploy/targets/ncnn/aarch64/environment.py      builds it (about 60 MB are downloaded, two minutes)
    python tests/deploy/targets/ncnn/aarch64/environment.py armv7

No root, no chroot: Debian's packages and the wheels are unpacked side by side. The folder is $QUANTIZE_AARCH64, or
~/.cache/gluon-quantize/aarch64 ($QUANTIZE_ARMV7, .../armv7). Where apt or pip cannot get something, `Unavailable` says
what. NumPy has no wheels for armv7: it comes from Debian there.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from typing import Tuple

ROOT = pathlib.Path(__file__).resolve().parents[5]
CPUS = ("cortex-a53", "cortex-a76", "max")  # neither dot product nor fp16; both; i8mm, bf16 and SVE besides
PYTHON = "3.11"
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "libgomp1", "python3.11-minimal", "libpython3.11-minimal",
            "libpython3.11-stdlib", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1",
            "libsqlite3-0")
# what importing ncnn needs besides NumPy
PURE = ("tqdm", "requests", "portalocker", "urllib3", "idna", "certifi", "charset-normalizer")


@dataclass(frozen=True)
class Machine:
    """What differs between two kinds of ARM.

    Parameters
    ----------
    name : str
    architecture : str
        Debian's name.
    qemu : str
        The emulator.
    cpus : sequence of str
        Processors that it is to emulate.
    packages, wheels, platforms : sequence of str
        Debian's, PyPI's, and what the latter may be made for.
    paths, libraries : sequence of str
        Folders below the root that hold Python's modules and shared libraries besides the usual ones.
    """

    name: str
    architecture: str
    qemu: str
    cpus: Tuple[str, ...]
    packages: Tuple[str, ...]
    wheels: Tuple[str, ...]
    platforms: Tuple[str, ...]
    paths: Tuple[str, ...] = ()
    libraries: Tuple[str, ...] = ()

    def folder(self):
        """Where it is, or would be."""
        usual = pathlib.Path.home() / ".cache/gluon-quantize" / self.name
        return pathlib.Path(os.environ.get("QUANTIZE_" + self.name.upper()) or usual)


AARCH64 = Machine("aarch64", "arm64", "qemu-aarch64-static", CPUS, PACKAGES, ("numpy<1.24",),
                  ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"))
ARMV7 = Machine("armv7", "armhf", "qemu-arm-static", ("cortex-a15",),
                (*PACKAGES, "python3-numpy", "libblas3", "liblapack3", "libgfortran5"), (),
                ("manylinux_2_31_armv7l", "manylinux2014_armv7l"), ("usr/lib/python3/dist-packages",),
                ("usr/lib/arm-linux-gnueabihf/blas", "usr/lib/arm-linux-gnueabihf/lapack"))


class Unavailable(Exception):
    """The environment cannot be had here; the text says why."""


def chosen(arguments):
    """The machine that a command line names: nothing, or armv7."""
    return ARMV7 if arguments == [ARMV7.name] else AARCH64


def built(machine=AARCH64):
    """Whether it is there, with the ncnn that is installed here."""
    stamp = machine.folder() / "ncnn.txt"
    return stamp.is_file() and stamp.read_text() == ncnn_version()


def ncnn_version():
    try:
        return importlib.metadata.version("ncnn")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable("the ncnn wheel is not installed, so that there is no version to run") from None


def build(machine=AARCH64):
    """Make it, whole or not at all, where it is not there yet."""
    if built(machine):
        return
    target = machine.folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(target.parent)) as temporary:
        made = pathlib.Path(temporary) / "made"
        made.mkdir()
        _system(made, machine)
        _wheels(made, machine)
        (made / "ncnn.txt").write_text(ncnn_version())
        shutil.rmtree(str(target), ignore_errors=True)
        made.rename(target)


def command(cpu, machine=AARCH64):
    """The command line of the emulated Python, to which a script and its arguments are added."""
    folder, root = machine.folder(), machine.folder() / "root"
    modules = [folder / "site", *(root / path for path in machine.paths), ROOT, ROOT / "examples"]
    variables = {"PYTHONPATH": os.pathsep.join(map(str, modules)), "PYTHONHOME": str(root / "usr"),
                 "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if machine.libraries:
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(str(root / path) for path in machine.libraries)
    words = [_qemu(machine), "-cpu", cpu, "-L", str(root)]
    for name, value in variables.items():
        words += ["-E", f"{name}={value}"]
    return [*words, str(root / "usr/bin" / f"python{PYTHON}")]


def run(cpu, script, *arguments, check=True, machine=AARCH64):
    """A finished process of the emulated Python; its modules find the project."""
    found = subprocess.run([*command(cpu, machine), str(script), *map(str, arguments)], capture_output=True, text=True,
                           timeout=7200)
    if check and found.returncode:
        raise AssertionError(f"on {cpu}: exit code {found.returncode}\n{found.stdout[-2000:]}\n{found.stderr[-2000:]}")
    return found


def _qemu(machine):
    found = shutil.which(machine.qemu) or machine.folder() / "root-here/usr/bin" / machine.qemu
    if not pathlib.Path(found).exists():
        raise Unavailable(f"{machine.qemu} is missing")
    return str(found)


def _system(made, machine):
    """Debian's packages, in `root`, and the emulator in `root-here` where it is not installed."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"there is no {tool} here: the packages are Debian's")
    lists = made / "lists"
    (lists / "partial").mkdir(parents=True)
    options = [f"-oAPT::Architecture={machine.architecture}", f"-oAPT::Architectures={machine.architecture}",
               f"-oDir::State::Lists={lists}", f"-oDir::Cache={made}"]
    with contextlib.suppress(Unavailable):  # of one list of several: what is missing then, the download says
        _told(["apt-get", "-q"] + options + ["update"], made)
    _packages(made, made / "root", options, machine.packages)
    if shutil.which(machine.qemu) is None:
        _packages(made, made / "root-here", [], ["qemu-user-static"])
    shutil.rmtree(str(lists))


def _packages(made, root, options, names):
    with tempfile.TemporaryDirectory(dir=str(made)) as downloads:
        os.chmod(downloads, 0o777)  # apt drops its rights
        _told(["apt-get", "-q"] + options + ["download"] + list(names), downloads)
        for package in sorted(pathlib.Path(downloads).glob("*.deb")):
            _told(["dpkg-deb", "-x", str(package), str(root)], downloads)


def _wheels(made, machine):
    """NumPy and ncnn for the machine, and what importing ncnn needs, in `site`."""
    with tempfile.TemporaryDirectory(dir=str(made)) as downloads:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", downloads]
        native = ["--python-version", PYTHON, "--implementation", "cp"]
        for platform in machine.platforms:
            native += ["--platform", platform]
        _told(pip + native + [f"ncnn=={ncnn_version()}", *machine.wheels], downloads)
        _told(pip + ["--python-version", PYTHON, "--platform", "any"] + list(PURE), downloads)
        for wheel in pathlib.Path(downloads).glob("*.whl"):
            with zipfile.ZipFile(str(wheel)) as content:
                content.extractall(str(made / "site"))


def _told(command, where):
    """Run a command; `Unavailable` with its last words where it fails."""
    try:
        subprocess.run(command, cwd=str(where), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
                       timeout=900)
    except subprocess.CalledProcessError as error:
        last = (error.stdout.strip().splitlines() or ["it says nothing"])[-1]
        raise Unavailable(f"{' '.join(command[:1])} cannot get what is needed: {last}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from None


if __name__ == "__main__":
    wanted = chosen(sys.argv[1:])
    try:
        build(wanted)
    except Unavailable as why:
        sys.exit(str(why))
    print(wanted.folder())
