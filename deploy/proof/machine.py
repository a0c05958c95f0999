# SPDX-License-Identifier: MIT
"""What results depend on besides the files: the processor and its instruction sets."""

import ctypes
import pathlib
import platform
import sys
from typing import Dict

import numpy as np

CPU_FACTS = pathlib.Path("/proc/cpuinfo")
# instruction sets that decide which kernels an engine takes, and how these round
# what the kernel tells a process of an ARM processor: flag -> (entry of the auxiliary vector, bit)
ARM_FLAGS = {"asimd": (16, 1), "fphp": (16, 9), "asimdhp": (16, 10), "asimddp": (16, 20), "sve": (16, 22),
             "asimdfhm": (16, 23), "sve2": (26, 1), "i8mm": (26, 13), "bf16": (26, 14)}
TELLING = ("sse", "avx", "fma", "f16c", "amx", "neon", "asimd", "sve", "i8mm", "bf16", "vfp")


def architecture() -> str:
    """As Python calls it; but a program of 32 bits on a kernel of 64 is told the kernel's, and gets its own name."""
    found = platform.machine()
    return "armv8l" if found == "aarch64" and sys.maxsize < 2 ** 32 else found


def machine() -> Dict[str, object]:
    """`cpu`, `architecture`, `flags` (empty where the system does not tell), and versions."""
    facts = _cpu_facts()
    name = architecture()
    if name == "aarch64" or name.startswith("armv"):
        cpu, flags = _arm(facts)
    else:
        cpu, flags = facts.get("model name"), (facts.get("flags") or facts.get("Features") or "").split()
    return {"cpu": cpu or platform.processor() or name, "architecture": name,
            "flags": sorted(flag for flag in flags if _tells(flag)),
            "python": platform.python_version(), "numpy": np.__version__}


def _arm(facts):
    """Name and flags; an emulator shows the list of the processor it runs on, so that only flags are known."""
    flags = (facts.get("Features") or "").split() or (_told_flags() if sys.maxsize > 2 ** 32 else [])
    if "CPU part" not in facts:
        return "emulated", flags
    part = f"implementer {facts.get('CPU implementer')} part {facts['CPU part']}"
    return facts.get("Model") or facts.get("model name") or facts.get("Hardware") or part, flags


def _told_flags():
    try:
        ask = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError):
        return []
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return [flag for flag, (entry, bit) in ARM_FLAGS.items() if ask(entry) >> bit & 1]


def _tells(flag) -> bool:
    return any(word in flag for word in TELLING)


def _cpu_facts():
    """The first processor's lines of Linux's list."""
    try:
        text = CPU_FACTS.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
