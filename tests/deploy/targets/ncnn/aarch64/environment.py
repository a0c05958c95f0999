# SPDX-License-Identifier: MIT
"""An aarch64 Linux with Python, NumPy and ncnn, run by QEMU's user-mode emulation: built once into a cache folder.

    python tests/deploy/targets/ncnn/aarch64/environment.py      builds it (about 60 MB are downloaded, two minutes)

No root, no chroot: Debian's arm64 packages and the aarch64 wheels are unpacked side by side. The folder is
$QUANTIZE_AARCH64, or ~/.cache/gluon-quantize/aarch64. Where apt or pip cannot get something, `Unavailable` says what.
armv7 could be had the same way (a manylinux_2_31_armv7l wheel, qemu-arm-static, python3-numpy of Debian's armhf), but
how ncnn rounds there is not known here.
"""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[5]
CPUS = ("cortex-a53", "cortex-a76", "max")  # neither dot product nor fp16; both; i8mm, bf16 and SVE besides
QEMU = "qemu-aarch64-static"
PYTHON = "3.11"
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "libgomp1", "python3.11-minimal", "libpython3.11-minimal",
            "libpython3.11-stdlib", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1",
            "libsqlite3-0")
# what importing ncnn needs besides NumPy
PURE = ("tqdm", "requests", "portalocker", "urllib3", "idna", "certifi", "charset-normalizer")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


class Unavailable(Exception):
    """The environment cannot be had here; the text says why."""


def folder():
    """Where it is, or would be."""
    return pathlib.Path(os.environ.get("QUANTIZE_AARCH64") or pathlib.Path.home() / ".cache/gluon-quantize/aarch64")


def built():
    """Whether it is there, with the ncnn that is installed here."""
    stamp = folder() / "ncnn.txt"
    return stamp.is_file() and stamp.read_text() == ncnn_version()


def ncnn_version():
    try:
        return importlib.metadata.version("ncnn")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable("the ncnn wheel is not installed, so that there is no version to run") from None


def build():
    """Make it, whole or not at all, where it is not there yet."""
    if built():
        return
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(target.parent)) as temporary:
        made = pathlib.Path(temporary) / "made"
        made.mkdir()
        _system(made)
        _wheels(made)
        (made / "ncnn.txt").write_text(ncnn_version())
        shutil.rmtree(str(target), ignore_errors=True)
        made.rename(target)


def command(cpu):
    """The command line of the emulated Python, to which a script and its arguments are added."""
    site = os.pathsep.join(map(str, (folder() / "site", ROOT, ROOT / "examples")))
    variables = {"PYTHONPATH": site, "PYTHONHOME": str(folder() / "root/usr"), "PYTHONDONTWRITEBYTECODE": "1",
                 "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [_qemu(), "-cpu", cpu, "-L", str(folder() / "root")]
    for name, value in variables.items():
        words += ["-E", f"{name}={value}"]
    return [*words, str(folder() / "root/usr/bin" / f"python{PYTHON}")]


def run(cpu, script, *arguments, check=True, seconds=7200):
    """A finished process of the emulated Python; its modules find the project."""
    found = subprocess.run([*command(cpu), str(script), *map(str, arguments)], capture_output=True, text=True,
                           timeout=seconds)
    if check and found.returncode:
        raise AssertionError(f"on {cpu}: exit code {found.returncode}\n{found.stdout[-2000:]}\n{found.stderr[-2000:]}")
    return found


def _qemu():
    found = shutil.which(QEMU) or folder() / "root-here/usr/bin" / QEMU
    if not pathlib.Path(found).exists():
        raise Unavailable(f"{QEMU} is missing")
    return str(found)


def _system(made):
    """Debian's packages, in `root`, and the emulator in `root-here` where it is not installed."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"there is no {tool} here: the packages are Debian's")
    lists = made / "lists"
    (lists / "partial").mkdir(parents=True)
    options = ["-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64", f"-oDir::State::Lists={lists}",
               f"-oDir::Cache={made}"]
    _told(["apt-get", "-q"] + options + ["update"], made)
    _packages(made, made / "root", options, PACKAGES)
    if shutil.which(QEMU) is None:
        _packages(made, made / "root-here", [], ["qemu-user-static"])
    shutil.rmtree(str(lists))


def _packages(made, root, options, names):
    with tempfile.TemporaryDirectory(dir=str(made)) as downloads:
        os.chmod(downloads, 0o777)  # apt drops its rights
        _told(["apt-get", "-q"] + options + ["download"] + list(names), downloads)
        for package in sorted(pathlib.Path(downloads).glob("*.deb")):
            _told(["dpkg-deb", "-x", str(package), str(root)], downloads)


def _wheels(made):
    """NumPy and ncnn for aarch64, and what importing ncnn needs, in `site`."""
    with tempfile.TemporaryDirectory(dir=str(made)) as downloads:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", downloads]
        native = ["--python-version", PYTHON, "--implementation", "cp"]
        for platform in PLATFORMS:
            native += ["--platform", platform]
        _told(pip + native + [f"ncnn=={ncnn_version()}", "numpy<1.24"], downloads)
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
    try:
        build()
    except Unavailable as why:
        sys.exit(str(why))
    print(folder())
