# SPDX-License-Identifier: MIT
"""What does collecting add to the float forward pass, and does memory grow with the images?

The float network (hybridized, static memory) and the collection of its converted copy take the same batches in turn,
round after round, so that a busy machine slows both alike. Medians are printed with their ratio. Memory is the largest
resident size of a fresh process that collects on N random images.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings

KINDS = {"histogram": "the histogram of 16384 values per feature map (kl, mse, percentile, aciq)",
         "histogram-all": "the histogram of all values", "minmax": "extremes", "ema": "moving average (naive)",
         "all": "histogram of 16384, extremes, moving average and channel activity: all methods at once"}


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenet0.75", help="of gluoncv (default: %(default)s)")
    parser.add_argument("--onnx", metavar="FILE", help="an ONNX file instead")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side of the images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="timed rounds (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s)")
    parser.add_argument("--images", type=int, nargs="*", default=[100, 2000], metavar="N",
                        help="measure memory for so many images (default: 100 2000)")
    parser.add_argument("--memory-of", type=int, metavar="N", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min([args.rounds, args.batch_size, args.size] + args.images) < 1:
        parser.error("--rounds, --batch-size, --size and --images must be at least 1")
    return args


def float_network(args, x):
    """The network with its norms merged."""
    import mxnet as mx
    import numpy as np

    from quantize.convert import merge_bn
    mx.random.seed(0)
    np.random.seed(0)
    if args.onnx:
        from quantize.importers.onnx import import_onnx
        net = import_onnx(args.onnx)
    else:
        from gluoncv.model_zoo import get_model
        net = get_model(args.network, pretrained=False)
        net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(x[:1])
    merge_bn(net)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def factories(kind):
    """What `collect` makes for one of KINDS."""
    from calib.observers import EMAObserver, HistogramObserver, MinMaxObserver
    from calib.stability import ChannelActivity

    def sampled():
        return HistogramObserver(16384)
    table = {"histogram": {"histogram": sampled}, "histogram-all": {"histogram": HistogramObserver},
             "minmax": {"minmax": MinMaxObserver}, "ema": {"ema": EMAObserver}}
    table["all"] = {"histogram": sampled, "minmax": MinMaxObserver, "ema": EMAObserver, "activity": ChannelActivity}
    return table[kind]


def measure(args):
    """Label -> median seconds per batch."""
    import mxnet as mx

    from calib.collect import collect
    from quantize.convert import convert_model
    x = mx.nd.random.uniform(-1, 1, (args.batch_size, 3, args.size, args.size))
    plain, converted = float_network(args, x), convert_model(float_network(args, x))
    batches = 3  # a pass over several batches: tracing the network is part of a pass, not of a batch

    def forward():
        for _ in range(batches):
            plain(x).wait_to_read()
    runs = {"float": forward}
    for kind in KINDS:
        runs[kind] = lambda kind=kind: collect(converted, [x] * batches, factories(kind))
    times = {label: [] for label in runs}
    for number in range(args.rounds + 1):
        for label, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                times[label].append((time.perf_counter() - start) / batches)
    return {label: statistics.median(values) for label, values in times.items()}


def memory(args, images):
    """Largest resident MiB of a process that collects on so many images."""
    command = [sys.executable, os.path.abspath(__file__), "--memory-of", str(images), "--network", args.network,
               "--size", str(args.size), "--batch-size", str(args.batch_size)]
    done = subprocess.run(command + (["--onnx", args.onnx] if args.onnx else []), stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def collect_once(args):
    """Collect on random images, made as they are needed, and print the largest resident MiB."""
    import mxnet as mx

    from calib.collect import collect
    from quantize.convert import convert_model

    def stream():
        for start in range(0, args.memory_of, args.batch_size):
            count = min(args.batch_size, args.memory_of - start)
            yield mx.nd.random.uniform(-1, 1, (count, 3, args.size, args.size))
    net = convert_model(float_network(args, mx.nd.zeros((1, 3, args.size, args.size))))
    collect(net, stream(), factories("all"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(argv=None):
    """Print one row for each kind of observer, and the memory."""
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")  # read when MXNet is loaded
    warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
    if args.memory_of:
        collect_once(args)
        return
    print(f"{args.onnx or args.network}, {args.batch_size} images of {args.size}x{args.size} per batch, "
          f"{os.environ['OMP_NUM_THREADS']} threads, median of {args.rounds} rounds")
    found = measure(args)
    print(f"float forward    {1000 * found['float']:8.1f} ms per batch")
    for kind, what in KINDS.items():
        print(f"{kind:<16} {1000 * found[kind]:8.1f} ms per batch, {found[kind] / found['float']:.2f} times float: "
              f"{what}", flush=True)
    for images in args.images:
        print(f"memory for {images:>5} images: {memory(args, images):7.0f} MiB resident at most", flush=True)


if __name__ == "__main__":
    main()
