# SPDX-License-Identifier: MIT
"""Many random networks in a row, counted: python -m tests.fuzz.run FIRST COUNT [FOLDER FOR SCRIPTS OF FAILURES]"""

import collections
import logging
import pathlib
import sys
import time
import warnings

import numpy as np

from tests.fuzz.check import DEVIATES, FAILS, REFUSED, check
from tests.fuzz.generate import generate
from tests.fuzz.shrink import script, shrink


def failure(recipe, outcome):
    """The script of a failing network, cut down."""
    small = shrink(recipe, lambda smaller: check(smaller).kind == outcome.kind)
    return script(small, check(small).text, len(recipe.steps))


def main(first, count, folder=None):
    """Counts of outcomes; every failure is printed, and left in the folder, as a script."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    counts, start = collections.Counter(), time.time()
    for seed in range(first, first + count):
        recipe = generate(seed)
        outcome = check(recipe)
        counts[outcome.kind] += 1
        if outcome.kind == DEVIATES:
            print(f"seed {seed}: {outcome.text}")
        if outcome.kind in (FAILS, REFUSED):
            text = failure(recipe, outcome)
            print(f"seed {seed}: {outcome.kind}: {outcome.text}\n{text}", flush=True)
            if folder:
                pathlib.Path(folder, f"failure_{seed}.py").write_text(text, encoding="utf-8")
        if (seed - first) % 100 == 99:
            print(f"{seed - first + 1} networks, {time.time() - start:.0f} s: {dict(counts)}", flush=True)
    print(f"{count} networks, {time.time() - start:.0f} s: {dict(counts)}")
    return counts


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    sys.exit(1 if found[FAILS] or found[REFUSED] else 0)
