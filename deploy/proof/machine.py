# SPDX-License-Identifier: MIT
"""What results depend on besides the files: the processor and its instruction sets."""

import pathlib
import platform
from typing import Dict

import numpy as np

CPU_FACTS = pathlib.Path("/proc/cpuinfo")
# instruction sets that decide which kernels an engine takes, and how these round
TELLING = ("sse", "avx", "fma", "f16c", "amx", "neon", "asimd", "sve", "i8mm", "bf16", "vfp")


def machine() -> Dict[str, object]:
    """`cpu`, `architecture`, `flags` (empty where the system does not tell), and versions."""
    facts = _cpu_facts()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {"cpu": facts.get("model name") or platform.processor() or platform.machine(),
            "architecture": platform.machine(), "flags": sorted(flag for flag in flags if _tells(flag)),
            "python": platform.python_version(), "numpy": np.__version__}


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
