# SPDX-License-Identifier: MIT
"""C source: every code of the compiled network is the integer engine's, under each scaling, compiler and processor."""

import dataclasses
import re
import shutil
import subprocess

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine, ir
from deploy.ir.file import load, save
from deploy.lower import lower
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.target import find
from deploy.targets.c import runner, writer
from deploy.targets.c.arithmetic import weighted_sum
from deploy.targets.c.runner import FLAGS, Runner
from deploy.targets.c.scaling import SCALINGS as BY_NAME
from quantize.errors import ConfigError, DeployError
from quantize.modes import disable_quantize, quantized_layers
from quantize.spec import QParams
from tests.deploy.targets.c.networks import SHAPE, images, quantized_network, settled

pytestmark = pytest.mark.skipif(not any(map(shutil.which, runner.COMPILERS)), reason="there is no C compiler")
# largest difference of the scores from those of the simulation, by the largest score; shifts are as far off as they are
SCALINGS = {"": 0.01, "fixed16": 0.02, "float_mult": 1e-5, "double_shift": np.inf, "single_shift": np.inf}


def target_of(scaling):
    return find("c", **({scaling: True} if scaling else {}))


@pytest.fixture(scope="module")
def net():
    return quantized_network(find("c"))


@pytest.fixture(scope="module")
def model(net):
    return settled(find("c"), net)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_code_is_the_engines(scaling, net, tmp_path):
    target = target_of(scaling)
    model = settled(target, net)
    assert target.check(model) == []
    files = target.write(model, tmp_path)
    contents = prove(Subject("net", target, model, files), engine_sides(target, model, files), [images(20)])
    side = contents["sides"]["c exact"]
    assert side["codes"]["identical"] == side["codes"]["elements"] > 30000
    assert side["largest_real_difference"]["largest"] == 0
    want = net(mx.nd.array(images(20))).asnumpy()
    assert 0 < np.abs(target.run(tmp_path, images(20))[0] - want).max() <= SCALINGS[scaling] * np.abs(want).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_with_their_lowest_code(bits, tmp_path):
    """N2D2's LSQ: 15 steps are -8 to 7, 255 are -128 to 127."""
    target = find("c")
    net = quantized_network(target, [{"op_types": ["Conv2D", "Dense"], "weight": f"int{bits}/layer/full",
                                      "weight_method": "lsq"}])
    for _, layer in quantized_layers(net):
        lowest = -layer.weight.data().asnumpy().min()
        layer.weight_quantizer.set_qparams(QParams.symmetric(np.float32([lowest / 2 ** (bits - 1)])))
    model = settled(target, net)
    assert target.check(model) == []
    found = [node.quantization.weight_q for node in ir.quantized(model)]
    assert min(codes.min() for codes in found) == -2 ** (bits - 1)
    files = target.write(model, tmp_path)
    contents = prove(Subject("net", target, model, files), engine_sides(target, model, files), [images(5)])
    side = contents["sides"]["c exact"]
    assert side["codes"]["identical"] == side["codes"]["elements"] > 5000


def test_the_kinds_are_all_there(model):
    kinds = {type(node) for node in model.nodes}
    assert kinds >= {ir.Rounding, ir.Pooling, ir.Elementwise, ir.Concat, ir.Convolution, ir.InnerProduct, ir.Padding,
                     ir.PReLU, ir.Activation}
    assert any(isinstance(node, (ir.Affine, ir.BatchNorm)) for node in model.nodes)


def test_float_source_computes_what_the_float_network_does(net, tmp_path):
    target = find("c")
    files = target.write_files(lower(net, SHAPE, quantized=False), tmp_path, "floating", integers=False)
    session = Runner(files)
    got = session.run(images(9), session.model.outputs)[session.model.outputs[0]]
    modes = quantized_network(target)
    disable_quantize(modes)
    want = modes(mx.nd.array(images(9))).asnumpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("options", [{}, {"strides": 2, "padding": 1, "output_padding": 1},
                                     {"padding": 3, "strides": 2},
                                     {"groups": 2, "dilation": 2, "strides": (1, 2)}])
def test_float_source_of_transposed_convolutions(options, tmp_path):
    mx.random.seed(2)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 1), nn.Conv2DTranspose(4, 3, in_channels=4, **options), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    want = net(mx.nd.array(images(3))).asnumpy()
    files = find("c").write_files(lower(net, SHAPE, quantized=False), tmp_path, "floating", integers=False)
    session = Runner(files)
    np.testing.assert_allclose(session.run(images(3), session.model.outputs)[session.model.outputs[0]], want, rtol=0,
                               atol=1e-5 * np.abs(want).max())


def test_what_float_source_has_not_is_said_of_every_node(tmp_path):
    functions = (("mean", ir.Reduce("mean", ("data",), ("a",), op="mean", axes=(1, 2))),
                 ("top", ir.Softmax("top", ("a",), ("b",), axis=0)))
    model = ir.Model(("data",), ("b",), tuple(node for _, node in functions),
                     {"data": (3, 4, 4), "a": (3,), "b": (3,)})
    with pytest.raises(DeployError, match="(?s)mean: C source has no Reduce.*top: C source has no softmax"):
        find("c").write_files(model, tmp_path, "floating", integers=False)
    assert list(tmp_path.iterdir()) == []


def traced(files, folder, flags, compiler):
    """Source that tells its blobs, compiled by a compiler with its flags."""
    model = load(files[2])
    values = {"program": writer.program_of(model)[0], "prefix": "model", "header": files[1].name}
    trace = folder / "trace.c"
    trace.write_text(writer.rendered("trace.c.txt", values))
    return runner.compiled((files[0], trace), folder, (*FLAGS, *flags, "-DNETWORK_TRACE", f"-I{files[0].parent}"),
                           cc=compiler)


def bytes_of(program, model, *before):
    codes = np.random.RandomState(0).randint(-127, 128, (3,) + model.shapes[model.inputs[0]]).astype(np.int8)
    found = subprocess.run([*before, str(program)], input=codes.tobytes(), capture_output=True, timeout=300,
                           check=False)
    assert found.returncode == 0, found.stderr.decode()[:500]
    return found.stdout


@pytest.mark.parametrize("compiler, flags", [("clang", ()), ("clang", ("-O0",)), ("gcc", ("-O3", "-march=native")), (
    "gcc", ("-fsanitize=undefined,address", "-fno-sanitize-recover"))])
def test_other_compilers_and_the_sanitizers_give_the_same_bytes(compiler, flags, model, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    files = find("c").write(model, tmp_path)
    want = bytes_of(traced(files, tmp_path, (), ""), model)
    try:
        program = traced(files, tmp_path, flags, compiler)
    except DeployError as error:
        if "cannot find" in str(error):
            pytest.skip(f"{compiler} has no sanitizers here")
        raise
    assert bytes_of(program, model) == want


BARE = """
static long ask(long number, long a, long b, long c)
{
    register long r7 __asm__("r7") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
}

void network_trace(const void *values, int32_t count, int32_t bytes)
{
    const char *at = values;
    long left = count * bytes;
    while (left > 0) {
        const long done = ask(4, 1, (long)at, left);
        at += done;
        left -= done;
    }
}

void _start(void)
{
    for (;;) {
        char *at = (char *)image;
        long left = sizeof image;
        while (left > 0) {
            const long done = ask(3, 0, (long)at, left);
            if (done <= 0)
                ask(1, 0, 0, 0);
            at += done;
            left -= done;
        }
        model_run(image, scores);
    }
}
"""


@pytest.mark.parametrize("processor", ["cortex-m0", "cortex-m4", "cortex-m33"])
def test_on_a_microcontrollers_instructions(processor, model, tmp_path):
    """Compiled for Cortex-M without any library but the compiler's own, run under emulation."""
    for tool in ("arm-none-eabi-gcc", "qemu-arm-static"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    files = find("c").write(model, tmp_path)
    want = bytes_of(traced(files, tmp_path, (), ""), model)
    program = writer.program_of(load(files[2]))[0]
    (tmp_path / "bare.c").write_text(
        f'#include "model.h"\nstatic {program.input.type} image[{program.input.count}];\n'
        f"static {program.scores.type} scores[{program.scores.count}];\n" + BARE)
    out = tmp_path / "bare"
    common = ["arm-none-eabi-gcc", f"-mcpu={processor}", "-mthumb", "-O2", "-Wall", "-Wextra", "-ffreestanding",
              "-DNETWORK_TRACE"]
    for source, standard in ((files[0], ("-std=c99", "-pedantic")), (tmp_path / "bare.c", ("-std=gnu99",))):
        found = subprocess.run([*common, *standard, "-c", str(source), "-o", f"{source}.o"], capture_output=True,
                               text=True, timeout=300, check=False, cwd=tmp_path)
        assert (found.returncode, found.stderr) == (0, "")
    subprocess.run([*common, "-nostdlib", f"{files[0]}.o", f"{tmp_path / 'bare.c'}.o", "-lc", "-lgcc", "-o", str(out)],
                   capture_output=True, timeout=300, check=True)
    assert bytes_of(out, model, "qemu-arm-static") == want


@pytest.mark.parametrize("scaling", ["single_shift", "double_shift"])
def test_shifts_multiply_nothing_but_weights(scaling, net, tmp_path):
    """What makes codes of sums has no `*` outside of places in arrays."""
    target = target_of(scaling)
    files = target.write(settled(target, net), tmp_path)
    source = files[0].read_text()
    scaled = [line for line in source.splitlines() if "shifted(" in line and "static" not in line]
    # what is left of a line without its places in arrays
    bare = [re.sub(r"\[[^][]*\]", "", line) for line in scaled]
    assert len(scaled) > 10 and not any("*" in line.replace("*y++", "") for line in bare)
    assert " m_" not in source and all("moved(" in line or "shifted(t + " in line for line in scaled)


def test_the_small_part_of_a_sum_is_not_lost_where_factors_are_shifts():
    found = weighted_sum([np.int64([0, 64]), np.int64([100, 100])], np.array([1.0, 0.125]), BY_NAME["SINGLE_SHIFT"])
    assert found.tolist() == [13, 77]


def test_the_same_bytes_every_time(model, tmp_path):
    (tmp_path / "again").mkdir()
    first, second = (find("c").write(model, folder) for folder in (tmp_path, tmp_path / "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_source_of_somebody_else_is_not_compiled(model, tmp_path):
    files = find("c").write(model, tmp_path)
    files[0].write_text(files[0].read_text().replace("int16_t row", "/* mine */ int16_t row"))
    with pytest.raises(DeployError, match=r"model\.c: is not what this program writes for model\.model"):
        find("c").run(tmp_path, images(1))


def test_names_that_are_code_are_comments(model, tmp_path):
    nodes = tuple(dataclasses.replace(node, path='x*/ int evil; /* \\\n"') if number == 3 else node
                  for number, node in enumerate(model.nodes))
    hostile = dataclasses.replace(model, nodes=nodes, metadata={"name": "*/ #error evil \n/*"})
    find("c").write(hostile, tmp_path)
    np.testing.assert_array_equal(find("c").run(tmp_path, images(2))[0], engine.run(
        model, images(2), arithmetic=find("c").arithmetic).outputs[0])


def test_a_scaling_that_is_none(model, tmp_path):
    files = find("c").write(model, tmp_path)
    save(dataclasses.replace(model, metadata={"scaling": "none"}), files[2])
    with pytest.raises(DeployError, match="a scaling 'none'; known: float, FIXED_MULT32"):
        find("c").run(tmp_path, images(1))
    with pytest.raises(ConfigError, match="one scaling, not FIXED_MULT16 and FLOAT_MULT"):
        find("c", fixed16=True, float_mult=True)


def test_the_size_is_that_of_the_constants(model, tmp_path):
    target = find("c")
    files = target.write(model, tmp_path)
    flash = target.weight_bytes(files)
    weights = sum(node.weight.size for node in ir.quantized(model))
    assert weights < flash < 3 * weights and f"_FLASH {flash} /*" in files[1].read_text()
    # 4 bits are half of that
    narrow = settled(target, quantized_network(target, [{"op_types": ["Conv2D", "Dense"], "weight": "int4/channel"}]))
    assert target.weight_bytes(target.write_files(narrow, tmp_path, "narrow")) < flash - 0.45 * weights


def test_all_that_it_lacks_is_said_at_once(model, tmp_path):
    nodes = model.nodes + (ir.Softmax("soft", model.outputs, ("soft",)),
                           ir.Activation("tanh", ("soft",), ("tanh",), function=ir.Function("tanh")))
    more = dataclasses.replace(model, nodes=nodes, outputs=("tanh",), shapes=dict(model.shapes, soft=(5,), tanh=(5,)))
    with pytest.raises(DeployError) as error:
        find("c").write(more, tmp_path)
    assert "no softmax: the largest score is the same class" in str(error.value) and "no tanh" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DeployError, match="no tanh"):  # in float too, before anything is calibrated
        find("c").write_files(more, tmp_path, integers=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DeployError, match="is a float layer"):
        find("c").write(lower(quantized_network(find("c")), SHAPE, quantized=False), tmp_path)
