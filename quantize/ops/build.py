# SPDX-License-Identifier: MIT
"""Compile the native operators (``python -m quantize.ops build``). Needs g++ or clang++ and an installed MXNet."""

import concurrent.futures
import hashlib
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from quantize.errors import ConfigError

SOURCES = Path(__file__).resolve().parent / "csrc"
LIBRARY = Path(__file__).resolve().parent / "_native" / "libquantize_ops.so"
# contraction off: a fused multiply-add would differ from the reference in the last bit
CFLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
# the same for the device; code for these architectures where nvcc knows them, and portable code for the newest
NVCC_FLAGS = ("-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fPIC", "-DFQ_CUDA")
ARCHITECTURES = (60, 70, 75, 80, 86, 90)
MARK = "quantize-ops-build:"
CUDA_MARK = b"quantize-ops-with-cuda"


def mxnet_folder() -> Path:
    """Folder of the installed MXNet, found without importing it; ConfigError when there is none."""
    spec = importlib.util.find_spec("mxnet")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("MXNet is not installed: pip install mxnet==1.9.1")
    return Path(list(spec.submodule_search_locations)[0])


def fingerprint() -> str:
    """What a library must have been built from to fit: MXNet's version and interface, and our sources."""
    mxnet = mxnet_folder()
    version = re.findall(r"__version__ = ['\"]([^'\"]+)", (mxnet / "libinfo.py").read_text())[0]
    digest = hashlib.sha256((mxnet / "include" / "mxnet" / "lib_api.h").read_bytes())
    for source in sorted(SOURCES.glob("*.*")):
        digest.update(source.name.encode() + source.read_bytes())
    # flags decide about last bits as sources do
    digest.update(" ".join(CFLAGS + NVCC_FLAGS).encode())
    return f"{MARK}mxnet-{version};{digest.hexdigest()[:16]};"


def built_from(library: Path) -> str:
    """The fingerprint inside a library file, "" when it holds none."""
    found = re.search(re.escape(MARK).encode() + rb"[^;]*;[^;]*;", library.read_bytes())
    return found.group(0).decode() if found else ""


def is_whole(library: Path) -> bool:
    """Whether a library's file is as long as its own header says: one that was cut off kills the process (SIGBUS).

    Linkers put the table of sections last (ELF-64: its place is at byte 40, size and number of entries at 58 and 60).
    """
    content = library.read_bytes()
    if content[:5] != b"\x7fELF\x02" or len(content) < 64:
        return content[:4] != b"\x7fELF"  # another system's
    place, = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    return place + size * count <= len(content)


def up_to_date() -> bool:
    """Whether the library is there, whole, and fits MXNet and the sources."""
    return LIBRARY.is_file() and built_from(LIBRARY) == fingerprint() and is_whole(LIBRARY)


def find_compiler() -> Optional[str]:
    """The C++ compiler: $CXX, g++ or clang++; None when there is none."""
    return next((path for path in map(shutil.which, (os.environ.get("CXX") or "g++", "clang++")) if path), None)


def has_cuda(library: Path) -> bool:
    """Whether a library was built with the CUDA kernels."""
    return CUDA_MARK in library.read_bytes()


def find_nvcc() -> Optional[str]:
    """nvcc, where there is one and the installed MXNet is a GPU wheel; else None."""
    names = {found.metadata["Name"] or "" for found in metadata.distributions()}
    return shutil.which("nvcc") if any(name.startswith("mxnet-cu") for name in names) else None


def build(force: bool = False) -> Path:
    """Compile the library unless the present one fits; the file appears whole or not at all.

    The CUDA kernels are built in where `find_nvcc` finds a compiler. Raises ConfigError when there is no C++ compiler,
    or a compiler fails.
    """
    if not force and up_to_date():
        return LIBRARY
    compiler = find_compiler()
    if compiler is None:
        raise ConfigError("no C++ compiler found (g++ or clang++): install one (Debian, Ubuntu: apt-get install g++) "
                          "and run python -m quantize.ops build")
    LIBRARY.parent.mkdir(exist_ok=True)
    # beside its place, since a rename across file systems would be a copy that can be cut off
    with tempfile.TemporaryDirectory(dir=str(LIBRARY.parent)) as folder:
        commands = compile_commands(compiler, find_nvcc(), Path(folder))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands.values()))
        whole = Path(folder) / LIBRARY.name
        _run([*link_command(compiler, find_nvcc()), *map(str, commands), "-o", str(whole)])
        os.replace(whole, LIBRARY)
    return LIBRARY


def compile_commands(compiler: str, nvcc: Optional[str], folder: Path) -> Dict[Path, List[str]]:
    """Object file -> the command that makes it; CUDA sources only where `nvcc` is given."""
    mxnet = mxnet_folder()
    flags = [*CFLAGS, "-I", str(mxnet / "include"), "-I", str(SOURCES), f"-DFQ_BUILD=\"{fingerprint()}\""]
    if nvcc:
        flags += ["-DFQ_CUDA", "-I", str(cuda_include(nvcc))]
    commands = {}
    # MXNet's own half of the interface is compiled in: the wheel has it as a source only
    for source in sorted(SOURCES.glob("*.cc")) + [mxnet / "src" / "lib_api.cc"]:
        commands[folder / (source.stem + ".o")] = [compiler, *flags, "-c", str(source)]
    if nvcc:
        for source in sorted(SOURCES.glob("*.cu")):
            commands[folder / (source.stem + ".cu.o")] = [nvcc, *NVCC_FLAGS, *_architectures(nvcc), "-c", str(source)]
    return {target: [*command, "-o", str(target)] for target, command in commands.items()}


def cuda_include(nvcc: str) -> Path:
    """The header folder of the toolkit that an nvcc belongs to (nvcc itself may be a link or a script elsewhere)."""
    listing = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True).stdout
    found = re.search(r'INCLUDES="-I([^"]+)"', listing)
    return Path(found.group(1)) if found else Path(nvcc).resolve().parent.parent / "include"


def _architectures(nvcc: str) -> List[str]:
    known = subprocess.run([nvcc, "--list-gpu-arch"], stdout=subprocess.PIPE, text=True).stdout
    chosen = [number for number in ARCHITECTURES if f"compute_{number}" in known.split()] or [80]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen]
    return flags + [f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"]


def link_command(compiler: str, nvcc: Optional[str]) -> List[str]:
    """What links the objects; with CUDA, nvcc and its run time inside the library, so that running needs no toolkit."""
    if nvcc:
        return [nvcc, "-shared", "-cudart", "static", "-Xcompiler", "-fopenmp,-fPIC"]
    return [compiler, "-shared", "-fopenmp"]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ConfigError(f"the compiler failed: {' '.join(command)}\n{done.stdout}")
