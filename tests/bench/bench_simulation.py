# SPDX-License-Identifier: MIT
"""How much slower is simulated inference than float inference?

The networks have random weights and their norms merged. All of them are hybridized with static memory and take the same
batch; they run in turn, round after round, so that a busy machine slows all of them alike. Medians are printed, and the
ratios to the float network's median.

simulated: weights frozen, one scale per channel; input ranges calibrated. online: the range of each batch instead.
"""

import argparse
import os
import statistics
import time
import warnings


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mobilenet1.0", "cifar_resnet56_v1"], metavar="NAME",
                        help="of gluoncv; cifar_* take 32x32 images, others 224x224 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="timed rounds (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, metavar="N",
                        help="of MXNet's operators (default: %(default)s)")
    args = parser.parse_args(argv)
    if min(args.rounds, args.batch_size, args.threads) < 1:
        parser.error("--rounds, --batch-size and --threads must be at least 1")
    return args


def networks(name, x):
    """The float network and its two simulations, by label; the same weights in all."""
    return {"float": float_network(name, x), "simulated": simulation(name, x, online=False),
            "online": simulation(name, x, online=True)}


def float_network(name, x):
    """A network of gluoncv with random weights and merged norms."""
    import mxnet as mx
    import numpy as np
    from gluoncv.model_zoo import get_model

    from quantize.convert import merge_bn
    mx.random.seed(0)
    np.random.seed(0)
    net = get_model(name, pretrained=False)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(x[:1])
    merge_bn(net)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def simulation(name, x, online):
    """The same network quantized, ready for inference."""
    from calib.calibrators import CALIBRATORS
    from calib.collect import calibrate, observe
    from quantize.convert import convert_model
    from quantize.modes import fix_params, quantize_input
    net = convert_model(float_network(name, x), config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "auto8"}])
    if not online:
        calibrator = CALIBRATORS.get("naive")()
        calibrate(net, observe(net, [x], calibrator), calibrator)
    quantize_input(net, enable=True, online=online)
    fix_params(net)
    return net


def medians(nets, x, rounds):
    """Label -> median seconds per batch."""
    times = {label: [] for label in nets}
    for number in range(rounds + 2):
        for label, net in nets.items():
            start = time.perf_counter()
            net(x).wait_to_read()
            if number >= 2:  # the first rounds build graphs and lay out weights
                times[label].append(time.perf_counter() - start)
    return {label: statistics.median(values) for label, values in times.items()}


def main(argv=None):
    """Print one row for each network."""
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when MXNet is loaded
    import mxnet as mx
    # The statistics of merged norms, which stay for the sake of checkpoints.
    warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
    print("{} images per batch, {} threads, median of {} rounds".format(args.batch_size, args.threads, args.rounds))
    print("{:<22}{:>10}{:>14}{:>11}{:>19}{:>16}".format(
        "network", "float ms", "simulated ms", "online ms", "simulated / float", "online / float"))
    for name in args.networks:
        size = 32 if name.startswith("cifar_") else 224
        x = mx.nd.random.uniform(-1, 1, (args.batch_size, 3, size, size))
        found = medians(networks(name, x), x, args.rounds)
        print("{:<22}{:>10.2f}{:>14.2f}{:>11.2f}{:>19.2f}{:>16.2f}".format(
            name, *(1000 * found[label] for label in ("float", "simulated", "online")),
            found["simulated"] / found["float"], found["online"] / found["float"]), flush=True)


if __name__ == "__main__":
    main()
