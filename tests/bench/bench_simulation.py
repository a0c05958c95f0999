# SPDX-License-Identifier: MIT
"""How much slower is simulated inference than float inference?

The networks have the same random weights, are hybridized with static memory and take the same batch; they run in turn,
round after round, so that a busy machine slows all of them alike. Medians are printed, and their ratios to the medians
of the two float networks: as it is, and with its norms merged into the convolutions.

simulated: norms merged, weights frozen, one scale per channel; input ranges calibrated. online: the same with the range
of each batch instead.
"""

import argparse
import warnings

import common


def parse_args(argv=None):
    """The command line, with its parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mobilenet1.0", "cifar_resnet56_v1"], metavar="NAME",
                        help="of gluoncv; cifar_* take 32x32 images, others 224x224 (default: %(default)s)")
    parser.add_argument("--batch-size", type=common.positive, default=32, metavar="N", help="default: %(default)s")
    common.add_arguments(parser, rounds=9, threads=1)
    return parser, parser.parse_args(argv)


def networks(name, x, backends):
    """The float networks and the simulations by (label, back end)."""
    nets = {("float", "-"): float_network(name, x, merged=False), ("float, merged", "-"): float_network(name, x)}
    for label in ("simulated", "online"):
        for backend in backends:
            nets[label, backend] = simulation(name, x, backend, online=label == "online")
    return nets


def float_network(name, x, merged=True):
    """A network of gluoncv with random weights."""
    import mxnet as mx
    import numpy as np

    from quantize.convert import merge_bn
    mx.random.seed(0)
    np.random.seed(0)
    net = common.zoo_network(name)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(x[:1])
    if merged:
        merge_bn(net)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def simulation(name, x, backend, online):
    """The network with merged norms quantized, ready for inference."""
    from calib.calibrators import CALIBRATORS
    from calib.collect import calibrate, observe
    from quantize.convert import convert_model
    from quantize.modes import fix_params, quantize_input, quantizers
    net = convert_model(float_network(name, x), config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "auto8"}])
    for _, quantizer in quantizers(net):
        quantizer.backend = backend
    if not online:
        calibrator = CALIBRATORS.get("naive")()
        calibrate(net, observe(net, [x], calibrator), calibrator)
    quantize_input(net, enable=True, online=online)
    fix_params(net)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def call(net, x):
    """One batch as a call."""
    return lambda: net(x).wait_to_read()


def main(argv=None):
    """Print one row for each network and simulation."""
    parser, args = parse_args(argv)
    backends = common.start(parser, args)
    import mxnet as mx
    # The statistics of merged norms, which stay for the sake of checkpoints.
    warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
    print(f"{args.batch_size} images per batch, median of {args.rounds} rounds")
    line = "{:<20}{:<15}{:<10}{:>10}{:>9}{:>10}"
    print(line.format("network", "variant", "back end", "ms", "/ float", "/ merged"))
    for name in args.networks:
        size = 32 if name.startswith("cifar_") else 224
        x = mx.nd.random.uniform(-1, 1, (args.batch_size, 3, size, size))
        nets = networks(name, x, backends)
        found = common.medians({key: call(net, x) for key, net in nets.items()}, args.rounds)
        for (label, backend), seconds in found.items():
            print(line.format(name, label, backend, f"{1000 * seconds:.2f}",
                              common.ratio(seconds, found["float", "-"]),
                              common.ratio(seconds, found["float, merged", "-"])), flush=True)


if __name__ == "__main__":
    main()
