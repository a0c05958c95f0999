# SPDX-License-Identifier: MIT
"""The CUDA code where no GPU is: nvcc takes it, its index arithmetic is right, and g++'s emulation gives the reference.

Whether a card gives it too is for tests/bench/cuda/run_harness.py.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantize import reference_trained
from quantize.ops import build

ROOT = Path(__file__).resolve().parents[3]
HARNESS = ROOT / "tests" / "bench" / "cuda"
KERNELS = ROOT / "quantize" / "ops" / "csrc"
QUICK = ("-Xcicc", "-O0", "-Xptxas", "-O0")  # a quarter of the time; whether it compiles is the same


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is absent")
@pytest.mark.parametrize("source", [*sorted(KERNELS.glob("*.cu")), HARNESS / "harness.cu", HARNESS / "bandwidth.cu"],
                         ids=lambda source: source.name)
def test_nvcc_compiles(source, tmp_path):
    done = subprocess.run(["nvcc", "-std=c++17", "--fmad=false", "-arch=sm_90", "-Werror", "all-warnings", "-Xcompiler",
                           "-Wall", *QUICK, "-I", str(KERNELS), "-c", str(source), "-o", str(tmp_path / "object.o")],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is absent")
def test_positions_in_huge_views(tmp_path):
    program = tmp_path / "positions"
    subprocess.run(["g++", "-O2", "-std=c++17", "-I", str(HARNESS / "emulated"), "-I", str(KERNELS),
                    str(HARNESS / "positions.cc"), "-o", str(program)], check=True)
    assert subprocess.run([str(program)]).returncode == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is absent")
def test_emulated_slopes_of_pact_and_cg_pact(tmp_path):
    """Sign and size of dalpha, without the whole emulated harness: each element by itself, then all of them."""
    program, random = tmp_path / "slope", np.random.RandomState(0)
    subprocess.run(["g++", "-O0", "-std=c++17", "-ffp-contract=off", "-w", "-DFQ_MAX_BLOCKS=3", "-I", str(KERNELS),
                    "-I", str(HARNESS / "emulated"), "-x", "c++", str(KERNELS / "reductions.cu"),
                    str(HARNESS / "slope.cc"),
                    "-o", str(program)], check=True)
    alpha = np.float32(1.5)
    alone = [np.float32([value]) for value in (0.3, 0.7, 1.4, 1.5, 2.0, 0.0, -0.2)]
    for x in [*alone, random.uniform(-0.5, 2, 500).astype(np.float32)]:
        dy = random.uniform(0.5, 1, len(x)).astype(np.float32)
        pairs = "".join(f"{value:.9g} {gradient:.9g}\n" for value, gradient in zip(x, dy))
        for calibrated in (False, True):
            dx, dalpha = reference_trained.pact_gradient(x, dy, alpha, 7, calibrated)
            done = subprocess.run([str(program), str(alpha), "7", str(int(calibrated))], input=pairs, text=True,
                                  stdout=subprocess.PIPE, check=True)
            found = np.array(done.stdout.split(), np.float32)
            np.testing.assert_allclose(found[0], np.squeeze(dalpha), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(found[1:], dx)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is absent")
def test_emulated_kernels_equal_the_reference():
    done = subprocess.run([sys.executable, str(HARNESS / "run_harness.py"), "--emulate"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None or build.find_compiler() is None, reason="nvcc or g++ is absent")
def test_the_library_with_cuda_links_and_loads_without_a_toolkit(tmp_path):
    nvcc = shutil.which("nvcc")
    commands = build.compile_commands(build.find_compiler(), nvcc, tmp_path)
    library = tmp_path / "library.so"
    for command in [*commands.values(), [*build.link_command(build.find_compiler(), nvcc), *map(str, commands),
                                         "-o", str(library)]]:
        subprocess.run(command, check=True)
    assert build.has_cuda(library) and build.built_from(library) == build.fingerprint()
    subprocess.run([sys.executable, "-c", "import sys, mxnet; mxnet.library.load(sys.argv[1], verbose=False);"
                    "print(mxnet.nd.fq_online(mxnet.nd.ones(3), qmin=-1, qmax=1))", str(library)], check=True)
