# SPDX-License-Identifier: MIT
"""How fast are the KL searches and the histogram, beside plain loops and NumPy?

Searches: milliseconds per layer for 2048 bins and 128 levels (kl-mxnet: 8001 bins, 255 levels), the median over made-up
layers, and the ratio to the loop of `tests/calib/kl_naive.py` on the first layer (kl-mxnet: to MXNet's C++ operator).
Calibrators: milliseconds per layer from a filled observer. Histogram: GB/s of float32 counted, beside np.bincount on
ready-made integers and np.histogram, for a signed and a rectified feature map. All in turn, in one process.
"""

import argparse
import statistics
import time

import numpy as np

from calib.calibrators import CALIBRATORS
from calib.calibrators.kl_core import search_fractional, search_interpolated, search_occupied
from calib.calibrators.kl_symmetric import search_symmetric
from calib.observers import HistogramObserver, MinMaxObserver, MomentsObserver
from quantize.spec import QuantSpec
from tests.calib import kl_naive


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="made-up layers (default: %(default)s)")
    parser.add_argument("--values", type=int, default=1 << 23, metavar="N",
                        help="values of the feature map (default: %(default)s)")
    parser.add_argument("--skip-naive", action="store_true", help="leave out the loops, some ten seconds")
    args = parser.parse_args(argv)
    if min(args.layers, args.values) < 1:
        parser.error("--layers and --values must be at least 1")
    return args


def milliseconds(function, *arguments, rounds=3):
    """The best of some calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def layers(count):
    """Values of made-up layers: normal, Laplace, rectified and clipped at six."""
    for seed in range(count):
        random = np.random.RandomState(seed)
        values = random.laplace(size=500000) if seed % 4 == 1 else random.randn(500000)
        low, high = [(-np.inf, np.inf), (-np.inf, np.inf), (0, np.inf), (0, 1.5)][seed % 4]
        yield np.clip(values, low, high).astype(np.float32)


def magnitudes(values):
    """2048 bins up to the largest magnitude, without zeros."""
    values = np.abs(values[values != 0])
    return np.bincount(np.minimum((values / values.max() * 2048).astype(int), 2047), minlength=2048)


def report_searches(data, with_naive):
    """One line for each KL search."""
    histograms = [magnitudes(values) for values in data]
    print("search          ms/layer   loop ms     ratio")
    for name, fast, naive in (("kl-ncnn", search_fractional, kl_naive.ncnn),
                              ("kl-tensorrt", search_occupied, kl_naive.tensorrt),
                              ("kl-predecessor", search_interpolated, kl_naive.predecessor)):
        print(line(name, [milliseconds(fast, histogram, 128) for histogram in histograms],
                   milliseconds(naive, histograms[0], 128, rounds=1) if with_naive else None))
    two_sided = [np.histogram(values, 8001, (-np.abs(values).max(), np.abs(values).max())) for values in data]
    print(line("kl-mxnet", [milliseconds(search_symmetric, histogram, 255) for histogram, _ in two_sided],
               statistics.median(milliseconds(operator, *pair, rounds=1) for pair in two_sided)))


def operator(histogram, edges):
    """MXNet's search."""
    import mxnet as mx
    mx.nd.contrib.calibrate_entropy(hist=mx.nd.array(histogram), hist_edges=mx.nd.array(edges),
                                    num_quantized_bins=255)[0].asnumpy()


def line(name, times, reference):
    """A row of the table of searches."""
    typical = statistics.median(times)
    if reference is None:
        return f"{name:14} {typical:9.1f}"
    return f"{name:14} {typical:9.1f} {reference:9.0f} {typical / reference:9.4f}"


def report_calibrators(data):
    """One line for each calibrator that decides from the histogram."""
    observers = []
    for values in data:
        observers.append(HistogramObserver())
        observers[-1].update(values.reshape(10, -1))
    print("\ncalibrator      ms/layer (int8, from the observer)")
    for name in CALIBRATORS.names():
        calibrator = CALIBRATORS.get(name)()
        if calibrator.observer == "histogram":
            times = [milliseconds(calibrator, observer, QuantSpec(8), rounds=1) for observer in observers]
            print(f"{name:14} {statistics.median(times):9.1f}")


def report_histogram(count):
    """GB/s of the observers beside NumPy."""
    signed = np.random.RandomState(0).randn(8, count // 8).astype(np.float32)
    print("\nupdate, GB/s         signed rectified")
    rows = [("histogram", lambda x: HistogramObserver().update(x)),
            ("histogram, 16384/image", lambda x: HistogramObserver(per_image=16384).update(x)),
            ("minmax", lambda x: MinMaxObserver().update(x)),
            ("moments", lambda x: MomentsObserver().update(x)),
            ("np.bincount of int64", np.bincount),
            ("np.histogram", lambda x: np.histogram(x, 2048, (-8, 8)))]
    for name, function in rows:
        speeds = []
        for values in (signed, np.maximum(signed, 0)):
            values = np.ravel((values * 2048).astype(np.int64) + 16384) if "int64" in name else values
            speeds.append(signed.nbytes / 1e6 / milliseconds(function, values))
        print(f"{name:22} {speeds[0]:5.2f} {speeds[1]:7.2f}")


def main(argv=None):
    """Print the tables."""
    args = parse_args(argv)
    data = list(layers(args.layers))
    report_searches(data, not args.skip_naive)
    report_calibrators(data)
    report_histogram(args.values)


if __name__ == "__main__":
    main()
