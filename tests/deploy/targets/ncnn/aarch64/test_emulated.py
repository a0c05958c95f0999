# SPDX-License-Identifier: MIT
"""ncnn for aarch64, emulated, against the integer engine here. See `environment`; where that cannot be had: skipped."""

import contextlib
import json
import pathlib
import tempfile

import numpy as np
import pytest

from deploy import engine
from deploy.targets.ncnn import TARGET, writer
from deploy.targets.ncnn.aarch64 import Aarch64Arithmetic
from deploy.targets.ncnn.arithmetic import multiplier
from deploy.targets.ncnn.halves import codes_with_16_bits
from gluon_quantize.commands import deploy
from tests.deploy.targets.ncnn.aarch64 import cases, environment, networks
from tests.deploy.targets.ncnn.aarch64.emulated import digest

SCRIPT = environment.ROOT / "tests/deploy/targets/ncnn/aarch64/emulated.py"


@pytest.fixture(scope="module")
def emulator():
    """Builds the environment if need be."""
    try:
        environment.build()
    except environment.Unavailable as why:
        pytest.skip(f"no emulated aarch64: {why}")


@pytest.fixture(scope="module")
def armv7():
    """The machine of 32 bits; builds it if need be."""
    try:
        environment.build(environment.ARMV7)
    except environment.Unavailable as why:
        pytest.skip(f"no emulated armv7: {why}")
    return environment.ARMV7


@pytest.fixture(scope="module")
def emulator_there():
    """The quick run builds nothing."""
    try:
        if not environment.built():
            pytest.skip("no emulated aarch64 yet: make test-slow, or environment.py, builds it")
    except environment.Unavailable as why:
        pytest.skip(f"no emulated aarch64: {why}")


def assert_identical(cpu, names):
    """Every output of the cases has the same bits there and here."""
    found = json.loads(environment.run(cpu, SCRIPT, "cases", *names).stdout)
    assert list(found) == list(names)
    everything = cases.everything()
    for name in names:
        case = everything[name]
        judged = engine.run(case, cases.images(name, case), arithmetic=Aarch64Arithmetic()).outputs
        assert {blob: digest(values) for blob, values in zip(case.outputs, judged)} == found[name], name


def test_one_network(emulator_there):
    assert_identical("max", ["network chain"])


@pytest.mark.slow
@pytest.mark.parametrize("cpu", environment.CPUS)
def test_every_layer(emulator, cpu):
    assert_identical(cpu, list(cases.everything()))


@pytest.mark.slow
@pytest.mark.parametrize("cpu", environment.ARMV7.cpus)
def test_every_layer_on_32_bit_arm(armv7, cpu):
    """The golden file of armv7, which the quick run compares with the integer engine."""
    golden = json.loads((environment.ROOT / "tests/golden/ncnn_armv7.json").read_text())["cases"]
    assert json.loads(environment.run(cpu, SCRIPT, "cases", machine=armv7).stdout) == golden


@pytest.mark.slow
def test_files_that_forbid_16_bit_floats_need_no_options(emulator):
    assert json.loads(environment.run("cortex-a76", SCRIPT, "forbidden").stdout) == {"as exact": True, "without": False}


@pytest.mark.slow
def test_single_layers_are_kept_from_16_bit_floats(emulator):
    """Every kind of layer does what its feature mask says; about a fifth of the cases, all float layers."""
    everything = cases.everything()
    names = [*cases.floats(), *[name for name in cases.quantized() if ":" not in name][::5], "network residual"]
    names = list(dict.fromkeys(names))
    found = json.loads(environment.run("cortex-a76", SCRIPT, "masked", *names).stdout)
    for name, (kept, default) in found.items():
        case = everything[name]
        judged = engine.run(case, cases.images(name, case), arithmetic=Aarch64Arithmetic(), keep=set(kept)).blobs
        wanted = {blob: digest(judged[blob]) for blob in kept}
        if name == "network residual":  # x behind the layer that was chosen is 16 bits wide
            assert kept["r"] == wanted["r"] != default["r"] and kept["x"] != wanted["x"]
        else:
            assert kept == wanted, name
    changed = [name for name, (kept, default) in found.items() if kept != default]
    assert not any(name.startswith("affine") for name in changed)  # ncnn scales in 32 bits anyway
    for what in ("batch norm", "hard_swish (", "hard_sigmoid (", "global avg", "avg (", "1x1", "3x3",
                 "depthwise", "groups", "dense"):
        assert any(name.startswith(what) for name in changed), what  # the mask has changed something


@pytest.mark.slow
def test_codes_are_read_with_the_default_options(emulator):
    """ncnn hands them out as bytes there; they are those of an image whose codes 16 bits have rounded."""
    case = cases.networks()["network chain"]
    images = cases.images("", case)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runner = networks.emulated("cortex-a76", writer.write(case, folder), networks.WAYS["default"])
        found = TARGET.engine.side(case, runner)(images)
    grid = case.nodes[0].quantization.input
    rounded = np.float32(codes_with_16_bits(images, grid) / multiplier(grid.scale))
    judged = engine.run(case, rounded, arithmetic=Aarch64Arithmetic(), codes=True)
    assert set(found.codes) == {"c2", "c3"}
    for name, codes in found.codes.items():
        np.testing.assert_array_equal(codes, judged.codes[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", environment.CPUS)
def test_recheck_as_a_user_of_a_phone(emulator, tmp_path, cpu):
    """A deployment is copied there, with nothing but NumPy and ncnn; its certificate comes back."""
    folder = tmp_path / "out"
    assert deploy.main(["--model", "digits_lenet", "--num-images", "8", "--output", str(folder)]) == 0
    done = environment.run(cpu, environment.ROOT / "examples/gluon_quantize/__main__.py", "recheck", folder)
    assert "| ncnn exact                       | 100 %           | 0   | none            | 4/4        |" in done.stdout
    certificate = json.loads(next((folder / "certificates").glob("aarch64-*.json")).read_text())
    assert certificate["sides"]["ncnn exact"]["codes"]["share"] == 1
    assert certificate["machine"]["architecture"] == "aarch64" and "asimd" in certificate["machine"]["flags"]
    assert ("asimddp" in certificate["machine"]["flags"]) == (cpu != "cortex-a53")


@pytest.mark.slow
def test_recheck_on_32_bit_arm(armv7, tmp_path):
    folder = tmp_path / "out"
    assert deploy.main(["--model", "digits_lenet", "--num-images", "8", "--output", str(folder)]) == 0
    done = environment.run("cortex-a15", environment.ROOT / "examples/gluon_quantize/__main__.py", "recheck", folder,
                           machine=armv7)
    assert "| ncnn exact                       | 100 %           | 0   | none            | 4/4        |" in done.stdout
    assert "note: the integer engine rounded as ncnn armv7 does on armv7l" in done.stdout
    certificate = json.loads(next((folder / "certificates").glob("armv7l-*.json")).read_text())
    assert certificate["machine"]["cpu"] == "emulated"
