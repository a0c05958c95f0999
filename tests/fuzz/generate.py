# SPDX-License-Identifier: MIT
"""Random networks by a seed, made of every kind of node that `deploy.ir` has, with shapes of 1 to 30."""

import numpy as np

from tests.fuzz import kinds
from tests.fuzz.recipe import Constant, Recipe, Step

LIMIT = 6000  # elements of a blob


class Maker:
    """A recipe in the making; every method of `kinds` adds a layer behind a blob and returns its blob."""

    def __init__(self, seed):
        self.rng, self.seed = np.random.RandomState(seed), seed
        self.shapes, self.steps = {}, []

    # ---- pieces

    def one_of(self, *values):
        """One of the values."""
        return values[self.rng.randint(len(values))]

    def chance(self, share):
        """True in that share of calls."""
        return self.rng.rand() < share

    def between(self, low, high):
        """A whole number, both ends included."""
        return int(self.rng.randint(low, max(low, high) + 1))

    def add(self, op, inputs, shape, **attrs):
        """Append an operator with one output of a shape; returns its blob."""
        blob = f"b{len(self.steps)}"
        self.steps.append(Step(op, tuple(inputs), (blob,), attrs))
        self.shapes[blob] = tuple(map(int, shape))
        return blob

    def constant(self, *shape, low=-1.0, high=1.0):
        """Random numbers."""
        return Constant(tuple(map(int, shape)), int(self.rng.randint(1 << 30)), low, high)

    def whole(self, *values):
        """A list of whole numbers, as shapes and axes are given."""
        return Constant((len(values),), values=tuple(map(int, values)), integer=True)

    def number(self, value):
        """One real number."""
        return Constant((), values=(float(value),))

    def tame(self, blob):
        """Something bounded, so that what follows cannot grow without end."""
        return self.add("Clip", (blob, self.number(-3), self.number(3)), self.shapes[blob])

    # ---- whole recipes

    def recipe(self):
        """Two to eleven layers, one behind the other with branches, and one output or several."""
        shape = self.one_of((3, 3), (3, 3), (1, 3), (1, 30))
        self.shapes["x"] = (self.between(*shape), self.between(1, 30), self.between(1, 30))
        if self.chance(0.1):
            self.shapes["x"] = (self.between(1, 30),)
        blob, blobs = "x", ["x"]
        for _ in range(self.between(2, 11)):
            source = self.one_of(*blobs) if self.chance(0.2) else blob
            made = self.layer(source)
            if made is not None and made != source:
                blob = made
                blobs.append(blob)
        if blob == "x":
            blob = self.add("Relu", ("x",), self.shapes["x"])
        outputs = [blob]
        written = [name for step in self.steps for name in step.outputs]
        while self.chance(0.3):
            outputs.append(self.one_of(*written))
        # "x" itself is no output, and one blob is one output only
        return Recipe(self.shapes["x"], tuple(self.steps), tuple(dict.fromkeys(outputs)), self.shapes,
                      self.seed).needed()

    def layer(self, blob):
        """Append a random layer behind a blob; returns its blob, or None where none was added."""
        table = kinds.BY_RANK.get(len(self.shapes[blob]), kinds.ANY)
        kind = table[self.rng.randint(len(table))]
        count = len(self.steps)
        made = kind(self, blob)
        grown = [name for step in self.steps[count:] for name in step.outputs
                 if np.prod(self.shapes[name]) > LIMIT or min(self.shapes[name]) < 1]
        if grown:  # undo
            for step in self.steps[count:]:
                for name in step.outputs:
                    del self.shapes[name]
            del self.steps[count:]
            return None
        return made


def generate(seed):
    """The recipe of a seed."""
    return Maker(seed).recipe()
