# SPDX-License-Identifier: MIT
"""Makes tests/golden/ncnn_aarch64.json: what ncnn computes on emulated processors, which must agree."""

import json
import sys

from tests.deploy.targets.ncnn.aarch64 import environment


def make():
    found = {cpu: json.loads(environment.run(cpu, environment.ROOT / SCRIPT, "cases").stdout)
             for cpu in environment.CPUS}
    first = found[environment.CPUS[0]]
    for cpu, of_cpu in found.items():
        different = [name for name in first if of_cpu[name] != first[name]]
        if different:
            sys.exit(f"{cpu} and {environment.CPUS[0]} differ: {', '.join(different)}")
    path = environment.ROOT / "tests/golden/ncnn_aarch64.json"
    path.write_text(json.dumps({"ncnn": environment.ncnn_version(), "cpus": environment.CPUS, "cases": first},
                               indent=0) + "\n")


SCRIPT = "tests/deploy/targets/ncnn/aarch64/emulated.py"

if __name__ == "__main__":
    make()
