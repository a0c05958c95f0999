# SPDX-License-Identifier: MIT
"""What the benchmarks share: back ends, threads, medians of interleaved rounds."""

import importlib
import os
import statistics
import sys
import time


def add_arguments(parser, rounds, threads):
    """The options that every benchmark has."""
    parser.add_argument("--backend", choices=("native", "composed", "both"), default="both",
                        help="operators to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=rounds, metavar="N",
                        help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=threads, metavar="N", help="default: %(default)s")


def positive(text):
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def start(parser, args):
    """Set the process up and return the back ends to measure; ends it where the native one is wanted and missing."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when MXNet is loaded
    from quantize.ops import allocator, native
    reason = native.why_not() if args.backend != "composed" else ""
    if reason:
        parser.error(f"the native operators cannot be measured: {reason}; --backend composed measures without them")
    tuned = allocator.tune()
    backends = ["native", "composed"] if args.backend == "both" else [args.backend]
    print(f"back ends: {', '.join(backends)}; allocator {'tuned' if tuned else 'left alone'}; {args.threads} threads; "
          f"load average {os.getloadavg()[0]:.2f}")
    return backends


def load_torch(threads):
    """PyTorch with as many threads, or None where it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        print("PyTorch is not installed: its columns stay empty")
        return None
    torch.set_num_threads(threads)
    print(f"PyTorch {torch.__version__}")
    return torch


def zoo_network(name):
    """A network of gluoncv with random weights, not yet initialized.

    gluoncv refuses to be imported beside PyTorch 2; to it, PyTorch is not installed.
    """
    if "gluoncv" not in sys.modules:
        hidden = sys.modules.pop("torch", None)
        sys.modules["torch"] = None
        try:
            importlib.import_module("gluoncv.model_zoo")
        finally:
            del sys.modules["torch"]
            if hidden is not None:
                sys.modules["torch"] = hidden
    return sys.modules["gluoncv.model_zoo"].get_model(name, pretrained=False)


def medians(calls, rounds, warm=2, wake=False, clock=time.perf_counter):
    """Label -> median seconds. The calls run in turn, so that a busy machine slows all of them alike.

    wake: call twice and time the second, so that its threads are awake and those of other libraries asleep.
    clock: time.process_time counts what the process computes, whatever else runs; for one thread.
    """
    times = {label: [] for label in calls}
    for number in range(rounds + warm):
        for label, call in calls.items():
            if wake:
                call()
            begin = clock()
            call()
            if number >= warm:  # the first rounds build graphs and lay out weights
                times[label].append(clock() - begin)
    return {label: statistics.median(values) for label, values in times.items()}


def ratio(seconds, reference):
    """Text of a ratio; "-" where there is no reference."""
    return "-" if not reference else f"{seconds / reference:.2f}"
