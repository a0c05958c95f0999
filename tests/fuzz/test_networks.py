# SPDX-License-Identifier: MIT
"""Random networks: ONNX Runtime, the imported network, the lowered one and ncnn in float; int8 engine and ncnn."""

import numpy as np
import onnx
import pytest

from deploy import ir
from deploy.engine import elementwise
from deploy.lower import lower
from deploy.targets.ncnn import TARGET, deviations
from quantize.importers.onnx import import_onnx
from tests.fuzz.check import DEVIATES, EXACT, FAILS, UNCERTAIN, Disagreement, Judge, check
from tests.fuzz.generate import generate
from tests.fuzz.recipe import Constant, Recipe, Step
from tests.fuzz.run import failure
from tests.fuzz.shrink import candidates, shrink

pytest.importorskip("ncnn")
QUICK, SLOW, PART = 60, 2000, 100


def agree(seed):
    """Fails, with the script of the smallest network that does, where two computations of a seed's network differ."""
    recipe = generate(seed)
    outcome = check(recipe)
    if outcome.kind not in (EXACT, DEVIATES, UNCERTAIN):
        pytest.fail(f"seed {seed}: {outcome.kind}: {outcome.text}\n{failure(recipe, outcome)}", pytrace=False)
    return outcome.kind


@pytest.mark.parametrize("seed", range(QUICK))
@pytest.mark.filterwarnings("ignore")
def test_all_computations_of_a_random_network_agree(seed):
    agree(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, QUICK + SLOW, PART))
@pytest.mark.filterwarnings("ignore")
def test_all_computations_of_many_random_networks_agree(first):
    kinds = [agree(seed) for seed in range(first, first + PART)]
    assert kinds.count(EXACT) > PART / 2 and kinds.count(UNCERTAIN) < PART / 20


# ---- the fuzz itself


def test_the_same_seed_makes_the_same_network():
    assert generate(7) == generate(7) != generate(8)


def test_every_kind_of_node_and_every_reason_occurs(tmp_path):
    """Among the networks of the quick run, and some more that are only lowered."""
    seen, reasons, several, inside = set(), set(), 0, 0
    for seed in range(160):
        recipe = generate(seed)
        (tmp_path / "net.onnx").write_bytes(recipe.model().SerializeToString())
        model = lower(import_onnx(tmp_path / "net.onnx"), recipe.shape, arithmetic=TARGET.arithmetic, quantized=False)
        seen.update(type(node).__name__ for node in model.nodes)
        reasons.update(deviations.exact_deviations(model).values())
        several += len(recipe.outputs) > 1
        inside += bool(set(recipe.outputs).intersection(blob for step in recipe.steps for blob in step.blobs))
    assert seen == set(ir.model.NODE_TYPES) - {"Rounding", "Spread"}  # which only quantized networks have
    assert reasons >= {deviations.ORDER, deviations.SUM, deviations.DIVISION, deviations.POWER, deviations.ROOT,
                       deviations.INTERPOLATION}
    assert several > 20 and inside > 20


@pytest.mark.filterwarnings("ignore")
def test_a_fault_is_found_cut_down_and_printed_as_a_script_that_shows_it(monkeypatch, tmp_path):
    """Someone's rsub is the other way round: only networks with one fail, and one operator is left of them."""
    monkeypatch.setitem(elementwise.BINARY, "rsub", np.subtract)
    steps = (Step("Relu", ("x",), ("a",)), Step("Sub", (Constant((), values=(1.0,)), "a"), ("b",)),
             Step("Tanh", ("b",), ("c",)), Step("Concat", ("c", "a"), ("d",), {"axis": 1}))
    recipe = Recipe((2, 3, 4), steps, ("d", "b"), {"x": (2, 3, 4), "a": (2, 3, 4), "b": (2, 3, 4), "c": (2, 3, 4),
                                                   "d": (4, 3, 4)}, 3)
    outcome = check(recipe)
    assert outcome.kind == FAILS and "lowered, output 0" in outcome.text
    text = failure(recipe, outcome)
    assert "4 operators cut down to 1" in text and text.count("Step(") == 1 and "Step(op='Sub'" in text
    found = {}
    exec(compile(text.replace("print(check(recipe))", "outcome = check(recipe)"), "script", "exec"), found)
    assert found["outcome"].kind == FAILS
    monkeypatch.undo()
    assert check(found["recipe"]).kind == EXACT


def test_smaller_networks_are_networks():
    for seed in range(12):
        recipe = generate(seed)
        for smaller in candidates(recipe):
            known = {"x"}
            for step in smaller.steps:
                assert set(step.blobs) <= known
                known.update(step.outputs)
            assert set(smaller.outputs) <= known and smaller.steps
    assert len(shrink(generate(1), lambda smaller: True).steps) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_deviation_without_a_reason_fails(monkeypatch):
    """Integer sums that come out one step beside are no rounding of a float operator."""
    from deploy.targets.ncnn.arithmetic import NcnnArithmetic
    found = NcnnArithmetic.dequantize
    monkeypatch.setattr(NcnnArithmetic, "dequantize", lambda self, sums, node: found(self, sums + 1, node))
    weight = Constant((4, 3, 3, 3), 1)
    recipe = Recipe((3, 6, 6), (Step("Conv", ("x", weight), ("y",), {"kernel_shape": [3, 3]}),), ("y",),
                    {"x": (3, 6, 6), "y": (4, 4, 4)}, 3)
    outcome = check(recipe)
    assert outcome.kind == FAILS and "no reason is named" in outcome.text


def test_float32_explains_what_it_does_and_no_more():
    """A sigmoid of values around 500 * (1 - 1): the last bit of an image is 6e-5 of what comes out."""
    steps = (Step("Mul", ("x", Constant((), values=(500.0,))), ("a",)),
             Step("Sub", ("a", Constant((), values=(500.0,))), ("b",)), Step("Sigmoid", ("b",), ("y",)))
    shapes = {name: (3, 4, 4) for name in ("x", "a", "b", "y")}
    images = np.random.RandomState(0).uniform(0.999, 1.001, (2, 3, 4, 4)).astype(np.float32)
    judge = Judge(Recipe((3, 4, 4), steps, ("y",), shapes).model(), images)
    judge.compare("itself", judge.want)
    assert judge.noise is None
    judge.compare("another", [judge.want[0] + np.float32(3e-5)])
    assert 1e-5 < judge.noise[0] < 1e-3
    with pytest.raises(Disagreement, match="another, output 0: 0.01 of the largest value apart"):
        judge.compare("another", [judge.want[0] * np.float32(1.01)])


def test_blobs_have_the_shapes_that_recipes_say():
    """Of all parts of a split one may go on: its own shape does, too."""
    for seed in [*range(20), 1311]:
        recipe = generate(seed)
        model = onnx.shape_inference.infer_shapes(recipe.model(), strict_mode=True)
        found = {value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])
                 for value in (*model.graph.value_info, *model.graph.output)}
        for blob, shape in found.items():
            if 0 not in shape:  # what onnx cannot tell
                assert recipe.shapes[blob] == shape, (seed, blob)
