# SPDX-License-Identifier: MIT
"""What is a deployment to MXNet's own int8 worth beside the float network?

Takes the options of ``gluon-quantize deploy`` (the target is mxnet, and --output DIR is needed), deploys, and prints:
the share of codes that are the integer engine's; Top-1 of the float network, the simulation and the files; and the
times of one batch (--batch-size) of random images of --time-size, in one thread (OMP_NUM_THREADS=1) and in turn, of
the float network hybridized with static memory, of the same with MXNet's own fusion (its back end MKLDNN), and of the
int8 files, as ratios.
"""

import dataclasses
import pathlib
import sys
import tempfile
import time

import mxnet as mx
import numpy as np

from deploy.proof.certificate import share_text
from deploy.target import find
from gluon_quantize.commands import deploy as command
from gluon_quantize.runs.deploy import deploy
from gluon_quantize.runs.task import open_task

WARMUP = 2


def main(argv=None):
    """Deploy, and print."""
    arguments = ["--target", "mxnet"] + list(sys.argv[1:] if argv is None else argv)
    parser = command.build_parser("bench_mxnet.py", find("mxnet"))
    parser.add_argument("--random-weights", action="store_true", help="instead of pretrained ones")
    parser.add_argument("--time-size", type=int, default=0, help="height and width of the timed images (default: the "
                                                                 "network's)")
    parser.add_argument("--repeats", type=int, default=8)
    args = parser.parse_args(arguments)
    request = command.request_of(args)
    if args.random_weights:
        request = dataclasses.replace(request, network=dataclasses.replace(request.network, pretrained=False))
    result = deploy(request)
    for side, facts in result.certificate["sides"].items():
        print(f"codes, {side}: {share_text(facts['codes'])}, {facts['codes']['largest']:g} LSB of "
              f"{facts['codes']['elements']}")
    print(f"Top-1: float {result.float.top1_count}", *(f"{name} {found.top1_count}, same class as float "
                                                       f"{found.agreement_count(result.float)};" for name, found in
                                                       result.accuracy.items()), f"of {len(result.float.labels)}")
    task = open_task(request, wants_ranges=True)
    channels, height, width = task.image_shape
    shape = (args.batch_size, channels, args.time_size or height, args.time_size or width)
    folder = pathlib.Path(args.output)
    symbol, params = (next(folder.glob("*-int8" + suffix)) for suffix in find("mxnet").suffixes)
    for name, ratio in ratios(task.net, (symbol, params), shape, args.repeats).items():
        print(f"time of int8 / {name}: {ratio:.3f} ({'x'.join(map(str, shape))})")


def ratios(net, files, shape, repeats):
    """Median seconds of the int8 files by those of the float network and of its fused form, in turn."""
    images = mx.nd.array(np.random.RandomState(0).randn(*shape))
    net.hybridize(static_alloc=True, static_shape=True)
    net(images)
    with tempfile.TemporaryDirectory() as name:
        net.export(str(pathlib.Path(name) / "net"))
        exported = [pathlib.Path(name) / ("net" + suffix) for suffix in find("mxnet").suffixes]
        forms = {"float": net, "fused float": loaded(exported, "MKLDNN"), "int8": loaded(files)}
    times = {name: [] for name in forms}
    for _ in range(WARMUP + repeats):
        for name, form in forms.items():
            start = time.perf_counter()
            first(form(images)).wait_to_read()
            times[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(seconds[WARMUP:])) for name, seconds in times.items()}
    print("milliseconds:", *(f"{name} {1e3 * median:.1f}" for name, median in medians.items()))
    return {name: medians["int8"] / median for name, median in medians.items() if name != "int8"}


def first(outputs):
    """The only output, or the first of several."""
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def loaded(files, backend=None):
    """A network from a symbol and its parameters, with static memory."""
    symbol = mx.sym.load(str(files[0]))
    if backend:
        symbol = symbol.get_backend_symbol(backend)
    values = {name.split(":", 1)[1]: value for name, value in mx.nd.load(str(files[1])).items()}
    inputs = [name for name in symbol.list_inputs() if name not in values]
    block = mx.gluon.SymbolBlock(symbol, [mx.sym.var(name, dtype=np.float32) for name in inputs])
    for name, parameter in block.collect_params().items():
        if name in values:
            parameter._load_init(values[name], mx.cpu())
    block.hybridize(static_alloc=True, static_shape=True)
    return block


if __name__ == "__main__":
    main()
