# SPDX-License-Identifier: MIT
"""Files of parameters that did not fit on the disk, which MXNet takes for whole."""

import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from quantize.errors import DataError
from quantize.files import check_params_size


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"])
def test_the_size_is_that_of_mxnets_file(tmp_path, dtype):
    path = tmp_path / "net.params"
    arrays = {name: mx.nd.zeros(shape, dtype=dtype) for name, shape in (
        ("weight", (3, 4, 2)), ("ä", (1,)), ("a.long.name", (7, 1)))}
    mx.nd.save(str(path), arrays)
    check_params_size(path, arrays)
    check_params_size(path, {name: np.zeros(array.shape, dtype) for name, array in arrays.items()})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="net.params: cannot be written: only .* bytes are on the disk"):
        check_params_size(path, arrays)


@pytest.mark.parametrize("what", ["from gluon_quantize.models.params import save_params; save_params(net, path)",
                                  "from quantize.interfaces.nni.export import export_model; export_model(net, path)"])
def test_a_full_disk_leaves_no_short_file(tmp_path, what):
    """No file may grow beyond 4096 bytes: the last page of the parameters does not fit."""
    script = ("import pathlib, resource, signal, sys\nimport mxnet as mx\nfrom quantize.convert import convert_model\n"
              "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
              "net = mx.gluon.nn.HybridSequential()\nnet.add(mx.gluon.nn.Dense(520, in_units=1))\nnet.initialize()\n"
              "net = convert_model(net)\npath = pathlib.Path(sys.argv[1])\n"
              "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n" + what)
    (tmp_path / "net.params").write_text("old")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "net.params")], capture_output=True, text=True)
    assert done.returncode == 1 and "cannot be written: only 4096 of" in done.stderr, done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("net.params", "old")]
