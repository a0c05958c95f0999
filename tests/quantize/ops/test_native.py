# SPDX-License-Identifier: MIT
"""The native library: its errors, the traps of MXNet's extension interface, loading and refusing."""

import os
import shutil
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from quantize import ops
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.modes import set_mode, update_ema
from quantize.nn import UniformFakeQuantize
from quantize.ops import build, entry, native
from quantize.spec import QuantSpec

pytestmark = pytest.mark.skipif(bool(native.why_not()), reason=native.why_not() or "present")
SPEC = QuantSpec(8)


@pytest.mark.parametrize("x, scale, message", [
    (np.ones((2, 3)), [0.0], "fq_fixed: scale must be positive and finite"),
    (np.ones((2, 3)), [-1.0], "fq_fixed: scale must be positive and finite"),
    (np.ones((2, 3)), [np.nan], "fq_fixed: scale must be positive and finite"),
    (np.ones((2, 3)), [np.inf], "fq_fixed: scale must be positive and finite"),
    (np.ones((2, 3)), [1.0, 1.0], r"fq_fixed: scale must have the shape \(1\), got \(2\)"),
])
def test_wrong_scales_are_named(x, scale, message):
    with pytest.raises(mx.MXNetError, match=message):
        ops.fake_quantize(mx.nd, mx.nd.array(x), mx.nd.array(scale), SPEC, using="native").wait_to_read()


@pytest.mark.parametrize("call, message", [
    (lambda: mx.nd.fq_fixed(mx.nd.ones(3, dtype="float64"), mx.nd.ones(1), qmin=-1, qmax=1), "fq_fixed: only float32"),
    (lambda: mx.nd.fq_online(mx.nd.array([1, np.nan]), qmin=-1, qmax=1), "fq_online: NaN or infinity"),
    (lambda: mx.nd.fq_online(mx.nd.array([1, np.inf]), qmin=-1, qmax=1), "fq_online: NaN or infinity"),
    (lambda: mx.nd.fq_online(mx.nd.ones(3), qmin=1, qmax=1), "fq_online: qmin must be below qmax"),
    (lambda: mx.nd.fq_online(mx.nd.ones(3), qmin="x", qmax=1), "fq_online: qmin must be a number, got 'x'"),
    (lambda: mx.nd.fq_online(mx.nd.ones(3), qmin=-1, qmax=1, axis=1), "fq_online: axis 1 does not exist"),
    (lambda: mx.nd.fq_online(mx.nd.ones((3, 2)), qmin=-1, qmax=1, axis=0, groups=2), "3 channels cannot be split"),
    (lambda: mx.nd.fq_lsq(mx.nd.ones(3), mx.nd.zeros(1), qmin=-1, qmax=1), "fq_lsq: step must be positive"),
    (lambda: mx.nd.fq_pact(mx.nd.ones(3), mx.nd.zeros(1), levels=3), "fq_pact: alpha must be positive"),
    (lambda: mx.nd.fq_pact(mx.nd.ones(3), mx.nd.ones(1), levels=0), "fq_pact: levels must be at least 1"),
    (lambda: mx.nd.fq_dorefa(mx.nd.array([np.inf]), levels=3), "fq_dorefa: NaN or infinity"),
    (lambda: mx.nd.fq_observed(mx.nd.ones(3), mx.nd.zeros(2), qmin=-1, qmax=1), "fq_observed: state must have"),
    (lambda: mx.nd.fq_observed(mx.nd.ones(3), mx.nd.zeros(3), qmin=-1, qmax=1, momentum=1), "fq_observed: momentum"),
])
def test_wrong_inputs_are_named(call, message):
    with pytest.raises(mx.MXNetError, match=message):
        out = call()
        (out[0] if isinstance(out, list) else out).wait_to_read()


@pytest.mark.parametrize("grid", [dict(qmin=-127, qmax=127), dict(qmin=0, qmax=255),
                                  dict(qmin=0, qmax=255, asymmetric=1)], ids=["signed", "unsigned", "asymmetric"])
@pytest.mark.parametrize("bits", [0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000], ids=["inf", "-inf", "nan", "-nan"])
def test_every_non_finite_value_is_refused(grid, bits):
    x = np.array([0.5] * 37, np.float32)
    x[20] = np.array([bits], np.uint32).view(np.float32)[0]
    with pytest.raises(mx.MXNetError, match="fq_online: NaN or infinity"):
        mx.nd.fq_online(mx.nd.array(x), **grid)[0].wait_to_read()


def test_empty_tensors_are_named():
    with mx.util.np_shape(True), pytest.raises(mx.MXNetError, match="fq_online: the tensor has no elements"):
        mx.nd.fq_online(mx.nd.zeros((0, 3)), qmin=-1, qmax=1)[0].wait_to_read()


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("mode", ["online", "offline", "ema"])
def test_gradients_are_added_where_asked(hybridize, mode):
    """Trap 1: the interface always overwrites; three accumulations of a gradient must give three times it."""
    block = UniformFakeQuantize(SPEC, mode=mode)
    block.initialize()
    block.scale.set_data(mx.nd.array([0.1]))
    block.hybridize(hybridize)
    x = mx.nd.array([[0.5, -0.2]])
    x.attach_grad(grad_req="add")
    for _ in range(3):
        with autograd.record():
            y = block(x)
        y.backward()
    assert x.grad.asnumpy().tolist() == [[3, 3]]


def test_weight_gradients_are_added_where_asked():
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=3))
    net.initialize()
    convert_model(net, backend="native")
    net.hybridize(static_alloc=True, static_shape=True)
    net.collect_params("(?!.*quantizer).*").setattr("grad_req", "add")
    x, grads = mx.nd.array([[1, 2, 3]]), []
    for _ in range(3):
        with autograd.record():
            y = net(x)
        y.backward()
        grads.append(net[0].weight.grad().asnumpy().copy())
    np.testing.assert_allclose(grads[2], 3 * grads[0], rtol=1e-6)


@pytest.mark.parametrize("consumers", [2, 7, 8, 36])
@pytest.mark.parametrize("static", [False, True])
def test_every_consumer_of_a_tensor_counts(consumers, static):
    """Trap 2: from eight consumers on, static graphs accumulated in place and kept one gradient."""
    class Many(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            x = x * 1.0
            specs = [QuantSpec(3 + i % 13, levels=2 ** (3 + i % 13) - 1 - 2 * (i // 13)) for i in range(consumers)]
            return F.add_n(*[ops.online_fake_quantize(F, x, spec, using="native") for spec in specs])

    net = Many()
    net.hybridize(static_alloc=static, static_shape=static)
    x = mx.nd.array([[1.0, -0.5, 0.25]])
    x.attach_grad()
    for _ in range(2):
        with autograd.record():
            y = net(x)
        y.backward()
    assert x.grad.asnumpy().tolist() == [[consumers] * 3]


def test_deferred_parameters_get_their_shape():
    class Steps(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.step = self.params.get("step", shape=(1, 0, 1, 1), init="ones", allow_deferred_init=True)

        def hybrid_forward(self, F, x, step):
            from quantize.spec import PerChannel
            return ops.lsq(F, x, step, QuantSpec(8, granularity=PerChannel(1)), using="native")

    net = Steps()
    net.initialize()
    net(mx.nd.ones((2, 5, 3, 3)))
    assert net.step.shape == (1, 5, 1, 1)


@pytest.mark.parametrize("static", [False, True])
def test_ema_state_is_updated_in_a_hybridized_training_graph(static):
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=3))
    net.initialize()
    convert_model(net, backend="native")
    set_mode(net, "ema", "activation")
    net.hybridize(static_alloc=static, static_shape=static)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    for step in range(1, 30):
        with autograd.record():
            loss = net(mx.nd.full((4, 3), 4.0)).sum()
        loss.backward()
        trainer.step(4)
        update_ema(net)
        assert net[0].input_quantizer.ema.data()[2].asscalar() == pytest.approx(1 - 0.9 ** step, rel=1e-5)
    quantizer = net[0].input_quantizer
    assert quantizer.threshold == pytest.approx(4, rel=1e-5)
    set_mode(net, "offline", "activation")
    assert net(mx.nd.full((1, 3), 4.0)).shape == (1, 2)


def test_one_and_two_threads_agree_bit_for_bit(tmp_path):
    """Sums go by fixed units in a fixed order, so the number of threads does not matter."""
    program = (
        "import sys, numpy as np, mxnet as mx\nfrom mxnet import autograd\nfrom quantize import ops\nfrom "
        "quantize.spec import QuantSpec\nmx.random.seed(0); x = mx.nd.random.normal(shape=(7, 64, 33, 31)); step = "
        "mx.nd.array([0.03])\nx.attach_grad(); step.attach_grad()\nwith autograd.record():\n    y = ops.lsq(mx.nd, x, "
        "step, QuantSpec(4), using='native')\ny.backward(x)\nz = ops.online_fake_quantize(mx.nd, x, QuantSpec(8, "
        "signed=False), using='native')\nnp.savez(sys.argv[1], y=y.asnumpy(), dx=x.grad.asnumpy(), "
        "ds=step.grad.asnumpy(), z=z.asnumpy())\n")
    results = []
    for threads in "12":
        path = tmp_path / (threads + ".npz")
        subprocess.run([sys.executable, "-c", program, str(path)], check=True,
                       env=dict(os.environ, OMP_NUM_THREADS=threads))
        results.append(np.load(path))
    assert all((results[0][key] == results[1][key]).all() for key in ("y", "dx", "ds", "z"))


def test_a_library_of_other_sources_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "libquantize_ops.so"
    other.write_bytes(build.LIBRARY.read_bytes().replace(build.fingerprint().encode(),
                                                         build.fingerprint().replace("1.9.1", "1.8.0").encode()))
    monkeypatch.setattr(build, "LIBRARY", other)
    assert "was built for another MXNet or from other sources" in native._load()
    other.write_bytes(b"nothing")
    assert "no mark" in native._load()


def test_a_missing_library_is_explained_and_the_composed_operators_serve(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "absent.so")
    monkeypatch.setitem(native._state, "reason", None)
    monkeypatch.setattr(entry, "_warned", [])
    for _ in range(2):
        y = ops.fake_quantize(mx.nd, mx.nd.array([0.26]), mx.nd.array([0.1]), SPEC)
    assert y.asscalar() == pytest.approx(0.3) and caplog.text.count("python -m quantize.ops build") == 1
    with pytest.raises(ConfigError, match="back end 'native': not built"):
        ops.sign(mx.nd, mx.nd.array([1]), using="native")
    with pytest.raises(ConfigError, match="back end must be one of"):
        ops.sign(mx.nd, mx.nd.array([1]), using="fast")


def test_loading_twice_is_harmless():
    """MXNet refuses a third load of one file; ours loads once however often it is asked."""
    for _ in range(4):
        native._state["reason"] = native._state["reason"] or ""
        assert native.why_not() == ""


@pytest.mark.parametrize("first, second", [("quantize", "mxnet"), ("mxnet", "quantize")])
def test_operators_are_there_once_both_are_imported(first, second):
    """Exported networks name them, wherever they are read; quantize alone loads neither them nor MXNet."""
    program = (f"import sys, {first}\nassert '{first}' == 'mxnet' or 'mxnet' not in sys.modules\n"
               f"import {second}, mxnet as mx\nassert hasattr(mx.nd, 'fq_fixed')")
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_says_what_is_there():
    done = subprocess.run([sys.executable, "-m", "quantize.ops"], check=True, stdout=subprocess.PIPE)
    assert done.stdout.decode().splitlines()[0].split() == ["composed", "available"]
    assert b"native    available" in done.stdout


def test_without_a_compiler_building_says_how_to_get_one(monkeypatch, capsys, tmp_path):
    from quantize.ops.__main__ import main
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "x.so")
    assert main(["build"]) == 0
    assert "apt-get install g++" in capsys.readouterr().err


TRAINING = """
import mxnet as mx
from mxnet import autograd, gluon
from mxnet.gluon import nn
from quantize.convert import convert_model
net = nn.HybridSequential()
net.add(nn.Conv2D(16, 3, in_channels=16), nn.Activation("relu"), nn.Dense(10, in_units=16 * 30 * 30))
net.initialize()
convert_model(net, backend="native")
net.hybridize(static_alloc=True, static_shape=True)
trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1e-4})
x = mx.nd.random.normal(shape=(8, 16, 32, 32))
for step in range(221):
    with autograd.record():
        loss = (net(x) ** 2).mean()
    loss.backward()
    trainer.step(8)
    mx.nd.waitall()
    if step in (20, 220):
        print(open("/proc/self/statm").read().split()[1])
"""


def test_training_does_not_grow():
    """Resident pages of 4 kB after 20 and after 220 steps; a leaked activation a step would be 23 thousand."""
    done = subprocess.run([sys.executable, "-c", TRAINING], check=True, stdout=subprocess.PIPE)
    before, after = map(int, done.stdout.split())
    assert after - before < 1024
