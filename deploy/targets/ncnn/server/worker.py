# SPDX-License-Identifier: MIT
"""The program that holds the engine, in a process of its own: whatever ncnn does to it, the tool lives on.

`deploy.targets.ncnn.process` starts it, and talks to it in lines of JSON, a request and its replies. Arrays lie in
memory that both map. It needs the standard library, NumPy and ncnn, imports nothing of this project, and ends with the
process that started it.
"""

import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import signal
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

Places = Sequence[Tuple[str, int, List[int]]]  # name, place in memory, shape

PROGRESS = 8  # bytes at the beginning of memory
AS_IT_IS = 1  # ncnn's type of extraction that converts nothing
PR_SET_PDEATHSIG = 1  # Linux: be sent a signal when the parent ends


class Failed(Exception):
    """ncnn returned an error: (blob, code)."""


class Server:
    """One network at a time, and the memory that its arrays lie in."""

    def __init__(self, replies: BinaryIO):
        import ncnn
        import numpy
        self.ncnn, self.numpy, self.replies = ncnn, numpy, replies
        self.net: Any = None
        self.memory: Any = None

    def serve(self, requests: Iterable[bytes]) -> None:
        """Answer requests until there are no more."""
        for line in requests:
            request = json.loads(line)
            try:
                getattr(self, "on_" + request.pop("do"))(**request)
            except Failed as failure:
                self.reply(failed=failure.args[0], code=failure.args[1])

    def reply(self, **values: Any) -> None:
        """A line to the other side."""
        self.replies.write((json.dumps(values) + "\n").encode("ascii"))
        self.replies.flush()

    # ---- requests

    def on_load(self, param: str, weights: str, options: Dict[str, Any]) -> None:
        """Load the two files; which one was refused, or what the network has."""
        self.net = self.ncnn.Net()
        for name, value in options.items():  # later than this they have no effect
            setattr(self.net.opt, name, value)
        for load, path in ((self.net.load_param, param), (self.net.load_model, weights)):
            if load(path):
                self.net = None
                return self.reply(refused=path)
        option = self.net.opt
        return self.reply(inputs=list(self.net.input_names()), blobs=[blob.name for blob in self.net.blobs()], options={
            name: getattr(option, name) for name in sorted(dir(option))
            if name.startswith("use_") or name == "num_threads"})

    def on_unload(self) -> None:
        """Forget the network; no reply."""
        self.net = None

    def on_memory(self, path: str, size: int) -> None:
        """Map memory, after which its file may be deleted."""
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), size)
        self.reply(mapped=size)

    def on_run(self, inputs: Places, extract: List[str], count: int, seconds: float) -> None:
        """Blobs of images, behind the inputs in memory; where they lie, or how much memory that needs.

        The number of the image that is computed stands at the beginning of memory, for who waits.
        """
        end, places = self._end(inputs), {}  # type: int, Dict[str, Tuple[int, Tuple[int, ...]]]
        first: Dict[str, Any] = {}
        # made once: for small blobs making a view takes longer than copying into it
        found: Dict[str, Any] = {}
        images = self._images(inputs)
        with _limited(seconds) as begin:
            for number in range(count):
                begin()
                self.memory[:PROGRESS] = number.to_bytes(PROGRESS, "little")

                def keep(name: str, value: Any, number: int = number) -> None:
                    if number:
                        found[name][number] = value
                    else:
                        # with fp16 on, ncnn hands out codes as bytes
                        first[name] = self.numpy.array(value, self.numpy.float32)
                self._extract(images, number, extract, False, keep)
                if not number:
                    for name, value in first.items():
                        places[name], end = (end, value.shape), end + value.nbytes * count
                    if end > len(self.memory):
                        return self.reply(need=end)
                    for name, value in first.items():
                        found[name] = self._view(places[name][0], (count,) + value.shape)
                        found[name][0] = value
        return self.reply(places=places)

    def on_latency(self, inputs: Places, extract: List[str], runs: int, seconds: float) -> None:
        """Seconds of runs on the first image, computed as applications do."""
        found: List[float] = []
        images = self._images(inputs)
        with _limited(seconds) as begin:
            for number in range(runs):
                begin()
                self.memory[:PROGRESS] = number.to_bytes(PROGRESS, "little")
                start = time.perf_counter()
                self._extract(images, 0, extract, True, lambda name, value: self.numpy.array(value))
                found.append(time.perf_counter() - start)
        return self.reply(seconds=found)

    def on_profile(self, inputs: Places, blobs: List[str], extract: List[str], runs: int, seconds: float) -> None:
        """Seconds of the first image, run by run: in one piece, and of each blob, one extracted behind the other.

        What is extracted is not unpacked, and forgotten before the next one, so that layers compute as in a run in one
        piece: in light mode, in place where they can. One thread is timed by what it gets of the processor.
        """
        clock = time.thread_time if self.net.opt.num_threads == 1 else time.perf_counter
        whole: List[float] = []
        parts: List[List[float]] = []
        images = self._images(inputs)
        for number in range(runs):
            self.memory[:PROGRESS] = number.to_bytes(PROGRESS, "little")
            for names in (extract, blobs):
                extractor, found = self._extractor(images, 0), []
                extractor.set_light_mode(True)
                with _limited(seconds) as begin:
                    begin()
                    for name in names:
                        blob = self.ncnn.Mat()
                        start = clock()
                        code = extractor.extract(name, blob, AS_IT_IS)
                        found.append(clock() - start)
                        if code:
                            raise Failed(name, code)
                        blob.release()
                if names is extract:
                    whole.append(sum(found))
                else:
                    parts.append(found)
        return self.reply(whole=whole, parts=parts)

    def on_trace(self, inputs: Places, number: int, blobs: List[str], seconds: float) -> None:
        """Compute one blob after another; each is told before it is computed, so that the last one told is the one."""
        extractor = self._extractor(self._images(inputs), number)
        with _limited(seconds) as begin:
            for name in blobs:
                begin()
                self.reply(at=name)
                extractor.extract(name)
        self.reply(end=True)

    # ---- ncnn

    def _images(self, inputs):
        """Input -> its images, where they lie in memory."""
        return {name: self._view(place, shape) for name, place, shape in inputs}

    def _extractor(self, images, number):
        extractor = self.net.create_extractor()
        for name, values in images.items():
            # a copy that ncnn owns: around foreign memory a Mat has no reference count, which a first layer that
            # computes in place looks at in light mode, and dies
            code = extractor.input(name, self.ncnn.Mat(values[number]).clone())
            if code:
                raise Failed(name, code)
        return extractor

    def _extract(self, images, number, extract, light, keep):
        """Call keep(blob, array) for the blobs of an image in their order; Failed where ncnn returns an error.

        An array is ncnn's own memory: a later layer that computes in place may overwrite it.
        """
        extractor = self._extractor(images, number)
        extractor.set_light_mode(light)
        for name in extract:
            code, blob = extractor.extract(name)
            if code:
                raise Failed(name, code)
            keep(name, self.numpy.asarray(blob))

    def _view(self, place, shape):
        return self.numpy.frombuffer(self.memory, self.numpy.float32, _product(shape), place).reshape(shape)

    @staticmethod
    def _end(inputs):
        return max(place + 4 * _product(shape) for _, place, shape in inputs)


def _product(shape):
    count = 1
    for size in shape:
        count *= size
    return count


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[Callable[[], None]]:
    """Context that ends the process some time after the other side has given it up, whatever ncnn is doing.

    The function that it gives says that another image begins. Setting the time limit starts a thread, which takes as
    long as a small image: it is set again once a second at most.
    """
    since = 0.0

    def begin() -> None:
        nonlocal since
        if time.monotonic() - since > 1:
            faulthandler.dump_traceback_later(2 * seconds + 6, exit=True, file=2)
            since = time.monotonic()
    begin()
    try:
        yield begin
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_with(parent: int) -> None:
    """On Linux, die with the process `parent`; elsewhere the end of requests, and of the time limit, will do."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (AttributeError, OSError, TypeError):
        return
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)


def main(requests: Iterable[bytes], replies: BinaryIO) -> None:
    """Serve until the requests end, or nobody reads the replies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides what an interrupt ends
    with contextlib.suppress(BrokenPipeError):
        Server(replies).serve(requests)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        end_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever ncnn prints is no reply
    main(sys.stdin.buffer, answers)
