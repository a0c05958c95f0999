# SPDX-License-Identifier: MIT
"""What does quantization in the Winograd domain cost?

Everything is hybridized with static memory, in inference, with fixed weights and calibrated ranges; variants run in
turn, round after round, in one thread. Medians of the processor's time are printed, which other programs hardly change,
and two ratios: to the simulation with weights quantized directly, and to float.

weights: weights alone, rounded in the Winograd domain and fixed. inputs: input tiles are rounded there as well, and the
layer is computed tile by tile.
"""

import argparse
import time
from functools import partial

import common

NETWORKS = {"cifar_resnet20_v1": 32, "resnet18_v1": 224}


def parse_args(argv=None):
    """The command line, with its parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", metavar="C,O,H", type=_shape,
                        default=[(16, 16, 32), (64, 64, 16), (64, 64, 56), (256, 256, 14)],
                        help="single 3x3 layers: inputs, outputs, height and width (default: four)")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=["cifar_resnet20_v1"],
                        help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", choices=("F23", "F43", "F63"), default=["F43"],
                        help="default: %(default)s")
    parser.add_argument("--batch-size", type=common.positive, default=16, metavar="N", help="default: %(default)s")
    common.add_arguments(parser, rounds=15, threads=1)
    return parser, parser.parse_args(argv)


def _shape(text):
    channels, outputs, size = map(common.positive, text.split(","))
    return channels, outputs, size


def layer(channels, outputs):
    """A 3x3 convolution in a network of its own."""
    from mxnet.gluon import nn
    net = nn.HybridSequential()
    net.add(nn.Conv2D(outputs, 3, padding=1, in_channels=channels))
    return net


def prepared(make, x, backend, winograd=None):
    """A network with random weights; `winograd` is "none" or a format, None for float."""
    import mxnet as mx
    import numpy as np

    from calib.calibrators import CALIBRATORS
    from calib.collect import calibrate, observe
    from calib.tiles import calibrate_tiles
    from quantize.convert import convert_model, merge_bn
    from quantize.modes import fix_params, quantize_input, quantizers
    mx.random.seed(0)
    np.random.seed(0)
    net = make()
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(x[:1])
    merge_bn(net)
    if winograd is not None:
        rules = [{"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "auto8"}]
        convert_model(net, config_list=(rules if winograd == "none" else rules + [{"winograd": winograd}])[:2],
                      backend=backend)
        calibrator = CALIBRATORS.get("naive")()
        calibrate(net, observe(net, [x], calibrator), calibrator)
        quantize_input(net, online=False)
        calibrate_tiles(net, [x])
        fix_params(net)
        assert all(quantizer.backend == backend for _, quantizer in quantizers(net))
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def compare(label, make, x, args, backend):
    """Measure one layer or network and print its rows."""
    nets = {"float": prepared(make, x, backend), "direct": prepared(make, x, backend, "none")}
    for variant in args.variants:
        for granularity in ("channel", "position"):
            name = f"{variant}/{granularity}"
            nets[name + " weights"] = prepared(make, x, backend, name)
        nets[name + " inputs"] = prepared(make, x, backend, name + "/inputs")
    found = common.medians({name: _call(net, x) for name, net in nets.items()}, args.rounds, clock=time.process_time)
    for name, seconds in found.items():
        print(LINE.format(label, name, backend, f"{1000 * seconds:.2f}",
                          common.ratio(seconds, found["direct"]), common.ratio(seconds, found["float"])), flush=True)


def _call(net, x):
    return lambda: net(x).wait_to_read()


LINE = "{:<20}{:<22}{:<10}{:>10}{:>10}{:>9}"


def main(argv=None):
    """Print one row for each layer or network and variant."""
    import warnings
    parser, args = parse_args(argv)
    backends = common.start(parser, args)
    import mxnet as mx
    # The statistics of merged norms, which stay for the sake of checkpoints.
    warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
    print(f"{args.batch_size} images per batch, median of {args.rounds} rounds")
    print(LINE.format("layer or network", "variant", "back end", "ms", "/ direct", "/ float"))
    for backend in backends:
        for channels, outputs, size in args.shapes:
            x = mx.nd.random.uniform(-1, 1, (args.batch_size, channels, size, size))
            compare(f"{channels}x{size}x{size} to {outputs}", partial(layer, channels, outputs), x, args,
                    backend)
        for name in args.networks:
            x = mx.nd.random.uniform(-1, 1, (args.batch_size, 3, NETWORKS[name], NETWORKS[name]))
            compare(name, partial(common.zoo_network, name), x, args, backend)


if __name__ == "__main__":
    main()
