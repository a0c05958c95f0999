# SPDX-License-Identifier: MIT
"""Makes tests/golden/ncnn_aarch64.json: what ncnn computes on emulated processors, which must agree.

    make.py armv7      the same for 32-bit ARM, ncnn_armv7.json
"""

import json
import sys

from tests.deploy.targets.ncnn.aarch64 import environment


def make(machine):
    found = {cpu: json.loads(environment.run(cpu, environment.ROOT / SCRIPT, "cases", machine=machine).stdout)
             for cpu in machine.cpus}
    first = found[machine.cpus[0]]
    for cpu, of_cpu in found.items():
        different = [name for name in first if of_cpu[name] != first[name]]
        if different:
            sys.exit(f"{cpu} and {machine.cpus[0]} differ: {', '.join(different)}")
    path = environment.ROOT / f"tests/golden/ncnn_{machine.name}.json"
    path.write_text(json.dumps({"ncnn": environment.ncnn_version(), "cpus": machine.cpus, "cases": first},
                               indent=0) + "\n")


SCRIPT = "tests/deploy/targets/ncnn/aarch64/emulated.py"

if __name__ == "__main__":
    make(environment.chosen(sys.argv[1:]))
