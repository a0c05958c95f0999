# SPDX-License-Identifier: MIT
"""An engine that dies, hangs or complains is an error that names the layer; its process ends with the tool."""

import gc
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deploy.targets.ncnn import dilation, process, writer
from deploy.targets.ncnn.runner import DEFAULT, EXACT, Runner
from quantize.errors import DeployError
from tests.deploy.targets.ncnn import models
from tests.deploy.targets.ncnn.models import conv, model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
CHAIN = models.quantized_cases()["chain"]


@pytest.fixture(autouse=True)
def fresh():
    """No process of another test is used, none of this one is kept."""
    end_idle()
    yield
    gc.collect()
    end_idle()


def end_idle():
    """End the processes that wait for a network."""
    while process._waiting:
        process._waiting.pop().close()


@pytest.fixture
def engine_that(tmp_path, monkeypatch):
    """function(Python text) -> the engine's process gets this `ncnn`, with an extractor whose `extract` runs it."""
    def make(text):
        folder = tmp_path / "path"
        folder.mkdir(exist_ok=True)
        lines = "\n".join("        " + line for line in text.splitlines())
        (folder / "ncnn.py").write_text(FAKE.replace("        ...", lines), encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(folder))
    return make


FAKE = '''import os, sys, time
import numpy
class Option:
    num_threads = 1
class Blob:
    def __init__(self, name):
        self.name = name
class Mat:
    def __init__(self, array):
        self.array = array
    def clone(self):
        return self
class Extractor:
    def input(self, name, mat):
        self.first = float(mat.array.flat[0])
        return 0
    def set_light_mode(self, light):
        pass
    def extract(self, name):
        ...
        return 0, numpy.full((3,), self.first, "f")
class Net:
    def __init__(self):
        self.opt = Option()
    def load_param(self, path):
        return 0
    load_model = load_param
    def input_names(self):
        return ["data"]
    def blobs(self):
        return [Blob(name) for name in ("data", "c1", "c2", "c3", "p", "x")]
    def create_extractor(self):
        return Extractor()
'''


def test_a_segmentation_fault_names_its_layer(ncnn, tmp_path, monkeypatch):
    monkeypatch.setattr(dilation, "crashes", lambda node, size: False)
    deadly = model((4, 9, 9), [conv("before", "data", (4, 4, 1, 1)),
                               conv("aspp", "before", (4, 4, 3, 3), dilation=(12, 12), pads=(12,) * 4)])
    paths = writer.write(deadly, tmp_path)
    runner = Runner(*paths, EXACT)
    with pytest.raises(DeployError, match=r"model.param: ncnn ended with SIGSEGV \(Segmentation fault\), on image 0, "
                                          r"in the layer 'aspp' \(Convolution\). What it computes"):
        runner.run(models.inputs(deadly), ["aspp"])
    assert runner.run(models.inputs(deadly), ["before"])["before"].shape == (2, 4, 9, 9)  # another process
    assert Runner(*paths, DEFAULT).run(models.inputs(deadly), ["aspp"])["aspp"].shape == (2, 4, 9, 9)
    with pytest.raises(DeployError, match="'aspp'"):
        runner.latency(models.inputs(deadly), ["aspp"])
    with pytest.raises(DeployError, match="'aspp'"):
        runner.profile(models.inputs(deadly), ["aspp"])


@pytest.mark.parametrize("text, says", [
    ("if name == 'c3': os.abort()", r"SIGABRT \(Aborted\), on image 0, in the layer 'c3' \(Convolution\)"),
    ("if name == 'p': sys.stderr.write('no room\\n'); os._exit(3)",
     "exit code 3; it said: no room, on image 0, in the layer 'p'"),
    ("if self.first == 2 and name == 'c2': os.abort()", "on image 2, in the layer 'c2' "),
    ("if name == 'c1': time.sleep(60)", "did not answer for 2 s and was ended, on image 0, in the layer 'c1' "),
    ("if name == 'x' and not os.path.exists('/nowhere') and self.first == 1 and os.getpid() % 1 == 0 and "
     "sys._getframe(1).f_code.co_name == '_extract': os.abort()",
     "on image 1, somewhere that computing layer by layer does not show"),
    ("if name == 'p': return -100, None", r"ncnn fails at the blob p \(code -100\)")])
def test_other_deaths(tmp_path, engine_that, text, says):
    engine_that(text)
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((1, 3, 10, 9), np.float32)
    runner = Runner(*writer.write(CHAIN, tmp_path), seconds=2.0)
    with pytest.raises(DeployError, match=says):
        runner.run(images, ["c1", "c2", "c3", "p", "x"])


def test_codes_that_the_engine_hands_out_as_bytes_are_numbers(tmp_path, engine_that):
    """So does ncnn with fp16 on: on ARM, by default."""
    engine_that("if name != 'x': return 0, numpy.full((5, 7), int(self.first) - 3, 'b')")
    images = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 3, 10, 9), np.float32)
    found = Runner(*writer.write(CHAIN, tmp_path)).run(images, ["c1", "c2", "x"])
    for name, shape, less in (("c1", (5, 7), 3), ("c2", (5, 7), 3), ("x", (3,), 0)):
        want = np.arange(3, dtype=np.float32).reshape((3,) + (1,) * len(shape)) * np.ones(shape, np.float32) - less
        np.testing.assert_array_equal(found[name], want)


def test_a_death_while_loading_and_complaints_are_told(tmp_path, engine_that):
    paths = writer.write(CHAIN, tmp_path)
    engine_that("pass")
    fake = tmp_path / "path" / "ncnn.py"
    text = fake.read_text(encoding="utf-8")
    fake.write_text(text.replace("    def load_param(self, path):\n        return 0",
                                 "    def load_param(self, path):\n        os.abort()"), encoding="utf-8")
    with pytest.raises(DeployError, match=r"model.param: loading it, ncnn ended with SIGABRT"):
        Runner(*paths)
    fake.write_text(text.replace("    def load_param(self, path):\n        return 0",
                                 "    def load_param(self, path):\n        sys.stderr.write('layer Odd\\n')\n"
                                 "        sys.stderr.flush()\n        return -1"), encoding="utf-8")
    with pytest.raises(DeployError, match="model.param: ncnn cannot load it; it says: layer Odd"):
        Runner(*paths)


def test_processes_are_used_again_and_few_wait(ncnn, tmp_path):
    paths, images = writer.write(CHAIN, tmp_path), models.inputs(CHAIN)
    runners = [Runner(*paths) for _ in range(4)]
    children = {runner._process.child.pid for runner in runners}
    assert len(children) == 4
    want = runners[0].run(images, ["x"])["x"]
    del runners
    gc.collect()
    assert len(process._waiting) == process.IDLE
    again = Runner(*paths)
    assert again._process.child.pid in children
    np.testing.assert_array_equal(again.run(images, ["x"])["x"], want)


def test_large_batches_get_more_memory(ncnn, tmp_path):
    case = models.float_cases()["bilinear (7, 12) False"]
    runner = Runner(*writer.write(case, tmp_path))
    for count in (1, 50, 500):
        images = models.inputs(case, count)["data"]
        assert runner.run(images, ["x", "data"])["x"].shape == (count, 3, 7, 12)
    np.testing.assert_array_equal(runner.run(images, ["data"])["data"], images)
    if os.path.isdir("/dev/shm"):
        assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"gluon-quantize-{os.getpid()}-")]


ENDS = '''
import os, sys, time
sys.path[:0] = {path!r}
from deploy.targets.ncnn.runner import Runner
runner = Runner({param!r}, {weights!r})
print(runner._process.child.pid, flush=True)
{end}
'''


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(0)", "raise ValueError"])
def test_no_process_outlives_its_parent(ncnn, tmp_path, end):
    param, weights = map(str, writer.write(CHAIN, tmp_path))
    program = ENDS.format(path=[path for path in sys.path if path], param=param, weights=weights, end=end)
    found = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           timeout=60, check=False)
    assert _ends(int(found.stdout))


def _ends(pid):
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            if file.read().split()[2] == "Z":  # ended, and nobody to ask for its code
                return True
        time.sleep(0.05)
    return False


def test_a_copy_of_this_process_gets_an_engine_of_its_own(ncnn, tmp_path):
    paths, images = writer.write(CHAIN, tmp_path), models.inputs(CHAIN)
    runner = Runner(*paths)
    want, mine = runner.run(images, ["x"])["x"], runner._process.child.pid
    read, write = os.pipe()
    child = os.fork()
    if not child:
        same = np.array_equal(runner.run(images, ["x"])["x"], want) and runner._process.child.pid != mine
        runner._process.close()
        os.write(write, b"1" if same else b"0")
        os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    np.testing.assert_array_equal(runner.run(images, ["x"])["x"], want)


def test_where_no_program_can_be_started_the_process_is_copied(ncnn, tmp_path, monkeypatch):
    """As under emulation of a single process."""
    def refuse(*args, **kwargs):
        raise OSError("Exec format error")
    paths, images = writer.write(CHAIN, tmp_path), models.inputs(CHAIN)
    want = Runner(*paths).run(images, ["x"])["x"]
    gc.collect()
    end_idle()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    runner = Runner(*paths)
    assert isinstance(runner._process.child, process.Forked)
    np.testing.assert_array_equal(runner.run(images, ["x"])["x"], want)
    os.kill(runner._process.child.pid, signal.SIGSEGV)
    with pytest.raises(DeployError, match="SIGSEGV"):
        runner.run(images, ["x"])
    np.testing.assert_array_equal(runner.run(images, ["x"])["x"], want)


def test_files_that_an_engine_could_not_read_do_not_reach_it(ncnn, tmp_path, monkeypatch):
    param, weights = writer.write(CHAIN, tmp_path)
    monkeypatch.setattr(process, "take", None)
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(DeployError, match="model.bin: ncnn cannot load it: .*bytes are missing"):
        Runner(param, weights)
    param.write_text(param.read_text(encoding="utf-8").replace("0=16 1=3", "0=16 1=3 1=x", 1), encoding="utf-8")
    with pytest.raises(DeployError, match="model.param: ncnn cannot load it: .*line 4 column"):
        Runner(param, weights)
