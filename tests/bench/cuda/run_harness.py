# SPDX-License-Identifier: MIT
"""Check and time the CUDA kernels without MXNet: makes the cases, compiles the harness with nvcc, runs it.

    python tests/bench/cuda/run_harness.py [--arch sm_90] [--seed N] [--repeats N] [--no-time] [--sanitize]
    python tests/bench/cuda/run_harness.py --emulate       no GPU: the kernels' logic on the CPU, compiled with g++

Needs NumPy and nvcc. What is printed also goes to last_run.txt beside this file when a GPU was there. Exit code: 0 all
equal, 1 mismatches, 2 a CUDA call failed, 3 no GPU (all was compiled), 4 it does not compile.
"""

import argparse
import datetime
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
KERNELS = ROOT / "quantize" / "ops" / "csrc"
SOURCES = (HERE / "harness.cu", HERE / "bandwidth.cu", KERNELS / "kernels.cu", KERNELS / "reductions.cu")
# no contraction to fused multiply-add: it would differ from the reference in the last bit
NVCC_FLAGS = ("-O3", "-std=c++17", "--fmad=false", "-I", str(KERNELS))
# few blocks, so that the loops over tiles go round
EMULATED_FLAGS = ("-O2", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-DFQ_MAX_BLOCKS=3",
                  "-I", str(KERNELS), "-I", str(HERE / "emulated"))
SHAPES = "64x64x3136,64x64x65536"  # 64x64x56x56 and 1 GiB


def main(arguments=None) -> int:
    """Exit code of the run."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        program, cases = Path(folder) / "harness", Path(folder) / "cases.bin"
        if not compile_harness(options, program):
            return 4
        write_cases(cases, options.seed)
        command = [str(program), str(cases), "--repeats", str(2 if options.emulate else options.repeats)]
        if not options.no_time:
            command += ["--shapes", "2x3x500" if options.emulate else SHAPES]  # emulated times mean nothing
        if options.sanitize:
            command = ["compute-sanitizer", *command]
        code, output = run(command)
    if code != 3 and not options.emulate:
        now = datetime.datetime.now(datetime.timezone.utc)
        heading = f"{now:%Y-%m-%d %H:%M} UTC, seed {options.seed}, {' '.join(NVCC_FLAGS[:3])}\n"
        (HERE / "last_run.txt").write_text(heading + output)
    return code


def parse(arguments):
    """Options from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="native", help="nvcc -arch (default: the cards of this machine)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=30, help="runs whose median is taken")
    parser.add_argument("--no-time", action="store_true", help="check only")
    parser.add_argument("--sanitize", action="store_true", help="run under compute-sanitizer (slow; with --no-time)")
    parser.add_argument("--emulate", action="store_true", help="compile with g++ and run on the CPU")
    return parser.parse_args(arguments)


def compile_harness(options, program) -> bool:
    """Whether harness and kernels compile."""
    if options.emulate:
        command = ["g++", *EMULATED_FLAGS, "-x", "c++", *map(str, SOURCES), "-o", str(program)]
    else:
        command = ["nvcc", "-arch=" + usable_arch(options.arch), *NVCC_FLAGS, *map(str, SOURCES), "-o", str(program)]
    if shutil.which(command[0]) is None:
        print(f"{command[0]} not found")
        return False
    return subprocess.run(command).returncode == 0


def usable_arch(arch) -> str:
    """`native` needs a card; without one, sm_90 shows that the code compiles."""
    has_card = shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()
    return "sm_90" if arch == "native" and not has_card else arch


def write_cases(path, seed):
    """The file of cases."""
    sys.path[:0] = [str(ROOT), str(HERE)]
    import cases
    import numpy as np
    with np.errstate(all="ignore"), open(path, "wb") as file:
        for case in cases.make_cases(seed):
            case.write(file)


def run(command):
    """(exit code, output), the output printed as it comes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        lines.append(line)
    return process.wait(), "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
