# SPDX-License-Identifier: MIT
"""What does the engine's process of its own cost a verification?

The same files in the same wheel, once called in this process and once through `deploy.targets.ncnn.runner`, on the same
images in turn; every blob is computed and handed back, as a verification does it. What counts is the processors' time,
of both processes: other programs do not change it.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenet1.0",
                        help="of gluoncv, or digits_lenet for 8x8 images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side of the images (default: %(default)s)")
    parser.add_argument("--images", type=int, metavar="N",
                        help="in a batch (default: as a verification has them, 128 or as many as fit into its memory)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="timed rounds (default: %(default)s)")
    args = parser.parse_args(argv)
    if min(args.size, args.rounds) < 1 or args.images is not None and args.images < 1:
        parser.error("--size, --images and --rounds must be at least 1")
    return args


def lowered(name, size):
    """The network with random weights, in float, lowered."""
    import mxnet as mx

    from deploy.lower import lower
    from deploy.targets.ncnn import TARGET
    from gluon_quantize.models.nets import digits_lenet
    from tests.bench.common import zoo_network
    net, channels = (digits_lenet(), 1) if name == "digits_lenet" else (zoo_network(name), 3)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, channels, size, size)))
    return lower(net, (channels, size, size), arithmetic=TARGET.arithmetic, quantized=False)


def in_this_process(paths, names):
    """function(images) -> name -> values, by calling ncnn here."""
    import ncnn

    from deploy.targets.ncnn.runner import EXACT
    net = ncnn.Net()
    for name, value in EXACT.settings().items():
        setattr(net.opt, name, value)
    net.load_param(str(paths[0]))
    net.load_model(str(paths[1]))

    def run(images):
        found = {name: [] for name in names}
        for image in images:
            extractor = net.create_extractor()
            extractor.set_light_mode(False)
            extractor.input("data", ncnn.Mat(image))
            for name in names:
                found[name].append(np.array(extractor.extract(name)[1]))
        return {name: np.stack(values) for name, values in found.items()}
    return run


def clock_with(pid):
    """Seconds that this process and another one have computed; of the wall where the system does not say."""
    path = pathlib.Path(f"/proc/{pid}/schedstat")
    if not path.exists():
        return time.perf_counter
    return lambda: time.process_time() + int(path.read_text(encoding="ascii").split()[0]) / 1e9


def main(argv=None):
    """Print the milliseconds of both, their ratio, and how long a process takes to start."""
    args = parse_args(argv)
    from deploy import engine
    from deploy.proof.verify import part_size
    from deploy.targets.ncnn import writer
    from deploy.targets.ncnn.runner import Runner
    from tests.bench.common import medians
    model = lowered(args.network, args.size)
    count = args.images or min(128, part_size(model))
    images = np.random.RandomState(0).randn(count, *model.shapes[model.inputs[0]]).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = writer.write(model, pathlib.Path(folder))
        begin = time.perf_counter()
        runner = Runner(*paths)
        started = time.perf_counter() - begin
        names = [name for node in model.nodes for name in node.outputs if name in runner.blobs]
        here = in_this_process(paths, names)
        for name, values in here(images).items():
            np.testing.assert_array_equal(values, runner.run(images, [name])[name])
        times = medians({"here": lambda: here(images), "apart": lambda: runner.run(images, names),
                         "judge": lambda: engine.run(model, images, keep=engine.ALL)}, args.rounds, warm=1,
                        clock=clock_with(runner._process.child.pid))
    print(f"{args.network}, {count} images of {args.size}x{args.size}, {len(names)} blobs, median of "
          f"{args.rounds} rounds")
    print(f"in this process     {1e3 * times['here']:9.1f} ms")
    print(f"in its own process  {1e3 * times['apart']:9.1f} ms, {times['apart'] / times['here']:.3f} times")
    share = (times["apart"] - times["here"]) / (times["here"] + times["judge"])
    print(f"of a verification   {100 * share:+8.1f} %, where the judge takes {1e3 * times['judge']:.1f} ms")
    print(f"start and load      {1e3 * started:9.1f} ms, once")


if __name__ == "__main__":
    main()
