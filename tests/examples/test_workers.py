# SPDX-License-Identifier: MIT
"""Two workers, started by the launcher on this machine, against one; and what one can say with a store of its own."""

import importlib.util
import pathlib
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from gluon_quantize.training.workers import LOST, Workers
from quantize.errors import ConfigError, TrainingError

HERE = pathlib.Path(__file__).resolve().parent
LAUNCHER = HERE.parents[1] / "examples" / "train_distributed.py"
SCRIPT = HERE / "distributed.py"


def launch(*command, seconds=120):
    """What became of a launcher with two workers."""
    return subprocess.run([sys.executable, str(LAUNCHER), "--timeout", str(seconds)] + [str(part) for part in command],
                          capture_output=True, text=True,
                          timeout=seconds + 30, cwd=str(HERE.parents[2]))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """({name: array} of worker 0, of worker 1, of one worker alone)."""
    folder = tmp_path_factory.mktemp("workers")
    done = launch("--workers", 2, SCRIPT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    spec = importlib.util.spec_from_file_location("distributed", str(SCRIPT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(np.load(str(folder / "0.npz"))), dict(np.load(str(folder / "1.npz"))), module.results(Workers(), 0)


def test_workers_are_equal_to_the_last_bit(results):
    """Weights, trained steps, moving averages, ranges and BatchNorm's statistics."""
    for part in ("running_mean", "running_var", "quantizer_ema", "quantizer_growth", "quantizer_scale", "weight"):
        assert any(name.endswith(part) for name in results[0]), part
    for name, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][name], err_msg=name)


def test_two_workers_with_half_the_batch_are_one_with_all_of_it(results):
    """Without BatchNorm and ranges of batches nothing differs but the order of sums."""
    for name, values in results[2].items():
        if name.startswith("float:"):
            np.testing.assert_allclose(results[0][name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_quantized_workers_follow_the_loss_of_one(results):
    """Statistics and ranges of half a batch are not those of a whole one, so that the losses are near, not equal."""
    two, one = results[0]["quantized:losses"], np.float32(results[2]["quantized:losses"])
    assert one[-5:].mean() < 0.5 * one[:5].mean()
    assert np.abs(two - one).max() < 0.2 * one[0]
    assert abs(two[-5:].mean() - one[-5:].mean()) < 0.1 * one[0]


def test_a_killed_worker_ends_in_an_error(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text("import os, sys\nimport mxnet as mx\nfrom gluon_quantize.training.workers import Workers\n"
                      "workers = Workers.connect()\n"
                      "for step in range(1000):\n"
                      "    workers.sum([mx.nd.ones((4,))])\n"
                      "    if step == 3 and workers.rank == 1:\n"
                      "        os.kill(os.getpid(), 9)\n")
    done = launch("--workers", 2, script, seconds=60)
    assert done.returncode == 1
    assert "ended with signal 9; all others are stopped" in done.stderr


def test_a_worker_that_fails_does_not_wait_for_the_others(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text("import sys\nimport mxnet as mx\nfrom quantize.errors import DataError\n"
                      "from gluon_quantize.training.workers import Workers\n"
                      "try:\n"
                      "    with Workers.connect() as workers:\n"
                      "        for step in range(1000):\n"
                      "            workers.sum([mx.nd.ones((4,))])\n"
                      "            if step == 3 and workers.rank == 1:\n"
                      "                raise DataError('no such image')\n"
                      "except DataError as error:\n"
                      "    sys.exit(2)\n")
    done = launch("--workers", 2, script, seconds=60)
    assert done.returncode == 2
    assert "ended with exit code 2; all others are stopped" in done.stderr


def test_a_worker_that_is_left_alone_gives_up(tmp_path):
    """On several machines no launcher sees all workers."""
    script = tmp_path / "alone.py"
    script.write_text("import time, types\nimport mxnet as mx\nfrom gluon_quantize.training.workers import Workers\n"
                      "store = types.SimpleNamespace(rank=0, num_workers=2, init=lambda key, value: None,\n"
                      "                              push=lambda key, value: time.sleep(60))\n"
                      "Workers(store, timeout=0.5).sum([mx.nd.ones((1,))])\n")
    done = subprocess.run([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, timeout=50)
    assert done.returncode == LOST
    assert "the other workers have not answered for 0.5 seconds" in done.stderr


class Echo:
    """A store of two workers that send the same."""

    rank, num_workers = 1, 2

    def __init__(self, factor=2):
        self.factor = factor

    def init(self, key, value):
        self.value = value

    def push(self, key, value):
        self.value = value * self.factor

    def pull(self, key, out):
        out[:] = self.value


def test_sums_keep_shapes_and_order():
    workers = Workers(Echo())
    arrays = [mx.nd.array([[1, 2, 3], [4, 5, 6]]), mx.nd.array([7]), mx.nd.zeros((2, 2, 1))]
    for array, total in zip(arrays, workers.sum(arrays)):
        assert total.shape == array.shape
        np.testing.assert_array_equal(total.asnumpy(), 2 * array.asnumpy())
    assert workers.sum([]) == []


def test_a_server_that_does_not_add_is_found_out():
    with pytest.raises(TrainingError, match="2 workers sent 1 each, and the server's sum is 1.*kvstore=None"):
        Workers(Echo(factor=1)).sum([mx.nd.ones((3,))])


def test_copies_that_differ_are_found(small_net):
    """As the other worker the echo sends zeros for every parameter."""
    workers = Workers(Echo())
    with pytest.raises(TrainingError, match=r"small_conv0_weight: worker 1 has other values than worker 0; call broad"):
        workers.average_statistics(small_net)


def test_shares():
    workers = Workers(Echo())
    assert workers.share(range(7)).tolist() == [1, 3, 5]
    assert workers.batch_size(8) == 4
    with pytest.raises(ConfigError, match="a batch of 7 images cannot be shared by 2 workers"):
        workers.batch_size(7)
    assert Workers().share([3, 1, 2]).tolist() == [3, 1, 2]


def test_connecting(monkeypatch):
    assert (Workers.connect("none").rank, Workers.connect("none").count) == (0, 1)
    with pytest.raises(ConfigError, match="kvstore 'dist_async': must be one of none, dist_sync"):
        Workers.connect("dist_async")
    with pytest.raises(ConfigError, match="train_distributed.py --workers 2"):
        Workers.connect()
    for name, value in (("DMLC_ROLE", "worker"), ("DMLC_NUM_WORKER", "2"), ("QUANTIZE_WORKER_TIMEOUT", "soon")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="QUANTIZE_WORKER_TIMEOUT='soon' is not a number"):
        Workers.connect()
