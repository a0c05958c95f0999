# SPDX-License-Identifier: MIT
"""Compile the native operators (``python -m quantize.ops build``). Needs g++ or clang++ and an installed MXNet."""

import concurrent.futures
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List, Optional

from quantize.errors import ConfigError

SOURCES = Path(__file__).resolve().parent / "csrc"
LIBRARY = Path(__file__).resolve().parent / "_native" / "libquantize_ops.so"
# contraction off: a fused multiply-add would differ from the reference in the last bit
CFLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
MARK = "quantize-ops-build:"


def mxnet_folder() -> Path:
    """Folder of the installed MXNet, found without importing it; ConfigError when there is none."""
    spec = importlib.util.find_spec("mxnet")
    if spec is None:
        raise ConfigError("MXNet is not installed: pip install mxnet==1.9.1")
    return Path(list(spec.submodule_search_locations)[0])


def fingerprint() -> str:
    """What a library must have been built from to fit: MXNet's version and interface, and our sources."""
    mxnet = mxnet_folder()
    version = re.search(r"__version__ = ['\"]([^'\"]+)", (mxnet / "libinfo.py").read_text()).group(1)
    digest = hashlib.sha256((mxnet / "include" / "mxnet" / "lib_api.h").read_bytes())
    for source in sorted(SOURCES.glob("*.h")) + sorted(SOURCES.glob("*.cc")):
        digest.update(source.name.encode() + source.read_bytes())
    digest.update(" ".join(CFLAGS).encode())
    return "{}mxnet-{};{};".format(MARK, version, digest.hexdigest()[:16])


def built_from(library: Path) -> str:
    """The fingerprint inside a library file, "" when it holds none."""
    found = re.search(re.escape(MARK).encode() + rb"[^;]*;[^;]*;", library.read_bytes())
    return found.group(0).decode() if found else ""


def up_to_date() -> bool:
    """Whether the library is there and fits MXNet and the sources."""
    return LIBRARY.is_file() and built_from(LIBRARY) == fingerprint()


def find_compiler() -> Optional[str]:
    """The C++ compiler: $CXX, g++ or clang++; None when there is none."""
    return next((path for path in map(shutil.which, (os.environ.get("CXX") or "g++", "clang++")) if path), None)


def build(force: bool = False) -> Path:
    """Compile the library unless the present one fits; the file appears whole or not at all.

    Raises ConfigError when there is no compiler or it fails.
    """
    if not force and up_to_date():
        return LIBRARY
    mark = fingerprint()
    compiler = find_compiler()
    if compiler is None:
        raise ConfigError("no C++ compiler found (g++ or clang++): install one (Debian, Ubuntu: apt-get install g++) "
                          "and run python -m quantize.ops build")
    mxnet = mxnet_folder()
    LIBRARY.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(LIBRARY.parent)) as folder:
        sources = sorted(SOURCES.glob("*.cc")) + [mxnet / "src" / "lib_api.cc"]
        flags = [*CFLAGS, "-I", str(mxnet / "include"), "-I", str(SOURCES), "-DFQ_BUILD=\"{}\"".format(mark)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: _compile(compiler, flags, source, Path(folder)), sources))
        whole = Path(folder) / LIBRARY.name
        _run([compiler, "-shared", "-fopenmp", *map(str, objects), "-o", str(whole)])
        os.replace(whole, LIBRARY)
    return LIBRARY


def _compile(compiler: str, flags: List[str], source: Path, folder: Path) -> Path:
    target = folder / (source.stem + ".o")
    _run([compiler, *flags, "-c", str(source), "-o", str(target)])
    return target


def _run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if done.returncode:
        raise ConfigError("the compiler failed: {}\n{}".format(" ".join(command), done.stdout))
