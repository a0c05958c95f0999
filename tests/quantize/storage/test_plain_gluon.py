# SPDX-License-Identifier: MIT
"""Gluon's own ways to keep a network: exported graphs load in a new process, parameter files say what they lose."""

import logging
import pathlib
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from quantize.convert import merge_bn
from quantize.modes import set_mode
from quantize.ops import native
from tests.quantize.storage.cases import CASES, converted, images, network, ranged

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPT = """
import sys
{imports}
from mxnet import gluon
import numpy as np
folder = sys.argv[1]
net = gluon.SymbolBlock.imports(folder + "/net-symbol.json", ["data"], folder + "/net-0000.params")
expected = np.load(folder + "/expected.npz")
print(np.abs(net(mx.nd.array(expected["x"])).asnumpy() - expected["y"]).max())
"""


@pytest.mark.parametrize("imports", ["import mxnet as mx\nimport quantize", "import quantize\nimport mxnet as mx"])
def test_an_exported_network_loads_in_a_new_process(imports, tmp_path):
    """`fq_lsq is not registered`, it said."""
    if native.why_not():
        pytest.skip(native.why_not())
    net, x = CASES["trained by lsq"](), images()
    net.hybridize()
    y = net(x).asnumpy()
    net.export(str(tmp_path / "net"))
    np.savez(str(tmp_path / "expected.npz"), x=x.asnumpy(), y=y)
    assert "fq_lsq" in (tmp_path / "net-symbol.json").read_text()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT.format(imports=imports), str(tmp_path)],
                          cwd=str(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_loading_parameters_says_what_is_lost(tmp_path, caplog):
    net = ranged(converted())
    net.save_parameters(str(tmp_path / "net.params"))
    other = converted()
    with caplog.at_level(logging.WARNING):
        other.load_parameters(str(tmp_path / "net.params"))
    assert "save_quantized" in caplog.text and "0.input_quantizer" in caplog.text
    caplog.clear()
    set_mode(other, "offline", "activation")
    other.load_parameters(str(tmp_path / "net.params"))
    converted().load_parameters(str(tmp_path / "net.params"), modes_follow=True)
    assert "save_quantized" not in caplog.text
    np.testing.assert_array_equal(net(images()).asnumpy(), other(images()).asnumpy())


def test_a_float_file_is_no_cause_for_alarm(tmp_path, caplog):
    network().save_parameters(str(tmp_path / "float.params"))
    converted().load_parameters(str(tmp_path / "float.params"))
    assert "save_quantized" not in caplog.text


@pytest.mark.parametrize("hybridize", [False, True])
def test_an_ordinary_loop_trains_a_merged_network(hybridize):
    """Gradients of BatchNorms that stepped aside were stale, which a Trainer refuses."""
    net = network()
    merge_bn(net)
    if hybridize:
        net.hybridize()
    before = net(images()).asnumpy()
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
    for _ in range(2):
        with autograd.record():
            loss = net(images()).square().mean()
        loss.backward()
        trainer.step(1)
    mx.nd.waitall()
    assert np.abs(net(images()).asnumpy() - before).max() > 0
