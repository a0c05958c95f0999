# SPDX-License-Identifier: MIT
"""A failing network made as small as it gets while it fails, and printed as a script."""

from dataclasses import replace
from typing import Callable, Iterator

from tests.fuzz.recipe import Recipe, Step

SCRIPT = '''# {text}
# seed {seed}, {before} operators cut down to {after}; run from the project's root: python THIS_FILE
from tests.fuzz.check import check
from tests.fuzz.recipe import Constant, Recipe, Step

recipe = Recipe(
    shape={shape}, seed={seed}, outputs={outputs},
    steps=({steps}),
    shapes={shapes})
print(check(recipe))
'''


def shrink(recipe: Recipe, fails: Callable[[Recipe], bool], tries: int = 150) -> Recipe:
    """The smallest network found that still fails."""
    again = True
    while again and tries > 0:
        again = False
        for smaller in candidates(recipe):
            tries -= 1
            if fails(smaller):
                recipe, again = smaller, True
                break
            if tries <= 0:
                break
    return recipe


def candidates(recipe: Recipe) -> Iterator[Recipe]:
    """Smaller networks: an earlier blob is the only output; a later one is the input; a step is left out."""
    written = [blob for step in recipe.steps for blob in step.outputs]
    for blob in written:
        if recipe.outputs != (blob,):
            yield replace(recipe, outputs=(blob,)).needed()
    for blob in reversed(written):
        rest = _from(recipe, blob)
        if rest is not None:
            yield rest
    for number, step in enumerate(recipe.steps):
        for source in step.blobs:
            if len(step.outputs) == 1 and recipe.shapes[source] == recipe.shapes[step.outputs[0]]:
                yield _without(recipe, number, source)


def _from(recipe, start):
    """The network that reads the blob `start` as its input; None where something needs what is before."""
    if start in recipe.outputs:
        return None
    cut = [step for step in recipe.steps if start not in step.outputs]
    rest = replace(recipe, steps=tuple(_renamed(step, start, "x") for step in cut), shape=recipe.shapes[start],
                   shapes=dict(recipe.shapes, x=recipe.shapes[start]))
    kept = rest.needed()
    # a kept step that reads the old input, or parts of a split with it, would see another shape
    before = {blob for step in cut for blob in step.outputs} | {"x"}
    reads_old = any("x" in step.blobs for step in cut if step in recipe.steps and step in kept.steps)
    return kept if kept.steps and not reads_old and all(
        blob in before for step in kept.steps for blob in step.blobs) else None


def _renamed(step: Step, old: str, new: str) -> Step:
    if old not in step.blobs:
        return step
    return replace(step, inputs=tuple(new if operand == old else operand for operand in step.inputs))


def _without(recipe, number, source):
    blob = recipe.steps[number].outputs[0]
    steps = tuple(_renamed(step, blob, source) for k, step in enumerate(recipe.steps) if k != number)
    outputs = tuple(dict.fromkeys(source if name == blob else name for name in recipe.outputs))
    return replace(recipe, steps=steps, outputs=outputs).needed() if "x" not in outputs and steps else recipe


def script(recipe: Recipe, text: str, before: int) -> str:
    """The program that shows the failure."""
    needed = {"x"} | {blob for step in recipe.steps for blob in step.outputs}
    steps = "".join(f"\n        {step!r}," for step in recipe.steps) + "\n    "
    return SCRIPT.format(text=text, seed=recipe.seed, before=before, after=len(recipe.steps), shape=recipe.shape,
                         outputs=recipe.outputs, steps=steps,
                         shapes={blob: shape for blob, shape in recipe.shapes.items() if blob in needed})
