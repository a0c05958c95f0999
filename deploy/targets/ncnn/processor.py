# SPDX-License-Identifier: MIT
"""Which arithmetic ncnn has on which processor."""

from typing import Any, Iterable, Mapping, Tuple

from deploy.arithmetic import Arithmetic
from deploy.proof.machine import machine
from deploy.targets.ncnn.aarch64 import Aarch64Arithmetic
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.armv7 import Armv7Arithmetic
from deploy.targets.ncnn.avx2 import Avx2Arithmetic
from deploy.targets.ncnn.deviations import AARCH64, ARMV7
from deploy.targets.ncnn.winograd import WinogradArithmetic

# what ncnn asks of a processor before it takes kernels compiled for AVX-512
AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})
X86 = ("x86_64", "AMD64", "amd64", "i686", "i386", "x86")  # as Linux, Windows and macOS call it


def arithmetics() -> Tuple[Arithmetic, ...]:
    """Those of x86 with and without AVX-512, of aarch64, and of 32-bit ARM."""
    return (WinogradArithmetic(), Avx2Arithmetic(), Aarch64Arithmetic(), Armv7Arithmetic())


def arithmetic_on(processor: Mapping[str, Any]) -> Arithmetic:
    """See `deploy.target.Target.arithmetic_on`; what is neither x86 nor ARM is taken for x86 with AVX-512."""
    if processor["architecture"] in AARCH64:
        return Aarch64Arithmetic()
    if processor["architecture"] in ARMV7:
        return Armv7Arithmetic()
    return Avx2Arithmetic() if _without_avx512(processor["architecture"], processor["flags"]) else WinogradArithmetic()


def x86_here() -> NcnnArithmetic:
    """The arithmetic of this machine, of the two that the exact simulation can compute with."""
    found = arithmetic_on(machine())
    return found if isinstance(found, WinogradArithmetic) else WinogradArithmetic()


def _without_avx512(architecture: str, flags: Iterable[str]) -> bool:
    """Also where a system does not tell its processor's flags: most of those have none."""
    return architecture in X86 and not AVX512.issubset(flags)
