# SPDX-License-Identifier: MIT
"""What is told of a processor, from Linux's lists of several."""

import pytest

from deploy.proof import machine

X86 = "processor : 0\nmodel name : AMD EPYC\nflags : fpu sse2 avx2 fma nx\n\nprocessor : 1\n"
PI = "processor : 0\nFeatures : fp asimd evtstrm asimddp\nCPU implementer : 0x41\nCPU part : 0xd0b\n"


@pytest.mark.parametrize("text, architecture, cpu, flags", [
    (X86, "x86_64", "AMD EPYC", ["avx2", "fma", "sse2"]),
    (PI, "aarch64", "implementer 0x41 part 0xd0b", ["asimd", "asimddp"]),
    (PI + "Model : Raspberry Pi 5\n", "aarch64", "Raspberry Pi 5", ["asimd", "asimddp"]),
    (X86, "aarch64", "emulated", None), (X86, "armv7l", "emulated", None),
    (PI.replace("asimd evtstrm asimddp", "neon vfpv4"), "armv7l", "implementer 0x41 part 0xd0b", ["neon", "vfpv4"])])
def test_processors(monkeypatch, tmp_path, text, architecture, cpu, flags):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: architecture)
    found = machine.machine()
    assert (found["cpu"], found["architecture"]) == (cpu, architecture)
    if flags is not None:
        assert found["flags"] == flags
    else:  # the kernel's own word, not the list of the other processor
        assert set(found["flags"]) <= set(machine.ARM_FLAGS)


def test_a_program_of_32_bits_on_a_kernel_of_64_has_an_architecture_of_its_own(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine.architecture() == "aarch64"
    monkeypatch.setattr("sys.maxsize", 2 ** 31 - 1)
    assert machine.architecture() == machine.machine()["architecture"] == "armv8l"
