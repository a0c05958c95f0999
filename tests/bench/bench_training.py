# SPDX-License-Identifier: MIT
"""How much slower is a training step with fake quantization than a float one?

A step is forward, backward and SGD with momentum on one batch of random images. All networks are cifar_resnet20_v1 with
the same random weights, hybridized with static memory, and end in a mean over the positions instead of the global
average pooling, whose backward pass is slow in a hybridized network (oneDNN's reference code). They run in turn, round
after round. Medians are printed, and their ratios to the float step.

Weights 4 bits per channel, inputs 4 bits per layer, of every layer. online: ranges of each batch. ema: moving averages
kept in the graph (native only). static: fixed input ranges. LSQ: trained steps for weights and inputs. SAT: DoReFa
weights per layer and CG-PACT inputs. After a slash: fake BN with those statistics. torch: PyTorch's float step of the
equal network, where it is installed.
"""

import argparse

import common

VARIANTS = ("online", "ema", "static", "LSQ", "SAT", "LSQ/batch", "LSQ/corrected", "LSQ/running")
WEIGHTS = {"sat": "int4"}


def parse_args(argv=None):
    """The command line, with its parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_arguments(parser, rounds=9, threads=1)
    parser.add_argument("--batch-size", type=common.positive, default=128, metavar="N", help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: all")
    return parser, parser.parse_args(argv)


def float_network(x):
    """cifar_resnet20_v1 with random weights and mean pooling."""
    import mxnet as mx
    import numpy as np
    from mxnet.gluon import nn
    mx.random.seed(0)
    np.random.seed(0)
    net = common.zoo_network("cifar_resnet20_v1")
    pooling = [name for name, block in net.features._children.items() if isinstance(block, nn.GlobalAvgPool2D)]
    net.features._children[pooling[0]] = nn.HybridLambda(lambda F, x: F.mean(x, axis=(2, 3)))
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(x[:1])
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def quantized_network(x, variant, backend):
    """The same network quantized, ready for training."""
    from quantize.convert import convert_model, fake_bn
    from quantize.train import start_training
    method = variant.split("/")[0].lower() if variant[0].isupper() else "ste"
    net = convert_model(float_network(x), backend=backend, config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": WEIGHTS.get(method, "int4/channel"), "input": "auto4",
         "method": method}])
    if variant == "static":
        net.hybridize(active=False)
        calibrate(net, x)
    start_training(net, x, {"static": "offline", "ema": "ema"}.get(variant, "online"))
    if "/" in variant:
        fake_bn(net, variant.split("/")[1])
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def calibrate(net, x):
    """Fixed input ranges, from one batch."""
    from mxnet import autograd

    from quantize.modes import set_mode, update_ema
    set_mode(net, "ema", "activation")
    with autograd.train_mode():
        net(x)
    update_ema(net)


def mxnet_step(net, x, labels):
    """One training step as a call."""
    import mxnet as mx
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1e-3, "momentum": 0.9}, kvstore=None)
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize(static_alloc=True, static_shape=True)

    def step():
        with mx.autograd.record():
            value = loss(net(x), labels)
        value.backward()
        trainer.step(len(x))
        mx.nd.waitall()
    return step


def torch_network(torch):
    """ResNet-20 for 32x32 images as He et al. define it (arXiv:1512.03385), with gluoncv's 1x1 shortcuts."""
    nn = torch.nn

    def conv(cin, cout, size, stride):
        return [nn.Conv2d(cin, cout, size, stride, size // 2, bias=False), nn.BatchNorm2d(cout)]

    class Block(nn.Module):
        def __init__(self, cin, cout, stride):
            super().__init__()
            self.body = nn.Sequential(*conv(cin, cout, 3, stride), nn.ReLU(), *conv(cout, cout, 3, 1))
            self.shortcut = nn.Sequential(*conv(cin, cout, 1, stride)) if cin != cout else nn.Identity()

        def forward(self, x):
            return torch.relu(self.body(x) + self.shortcut(x))

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))
    blocks = [Block(cin if i == 0 else cout, cout, 2 if i == 0 and cin != cout else 1)
              for cin, cout in ((16, 16), (16, 32), (32, 64)) for i in range(3)]
    return nn.Sequential(*conv(3, 16, 3, 1), nn.ReLU(), *blocks, Mean(), nn.Linear(64, 10))


def torch_step(torch, batch_size):
    """One float training step as a call."""
    net = torch_network(torch).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    x, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return step


def main(argv=None):
    """Print one row for each network."""
    parser, args = parse_args(argv)
    backends = common.start(parser, args)
    torch = common.load_torch(args.threads)
    import mxnet as mx
    x = mx.nd.random.normal(shape=(args.batch_size, 3, 32, 32))
    labels = mx.nd.random.randint(0, 10, (args.batch_size,)).astype("float32")
    steps = {("float", "-"): mxnet_step(float_network(x), x, labels)}
    for variant in args.variants:
        for backend in backends:
            if (variant, backend) != ("ema", "composed"):
                steps[variant, backend] = mxnet_step(quantized_network(x, variant, backend), x, labels)
    if torch:
        steps["torch float", "-"] = torch_step(torch, args.batch_size)
    print(f"batch {args.batch_size}, median of {args.rounds} rounds")
    print(f"{'step':<15}{'back end':<11}{'ms':>9}{'/ float':>9}{'/ torch':>9}")
    found = common.medians(steps, args.rounds)
    for (label, backend), seconds in found.items():
        print(f"{label:<15}{backend:<11}{1000 * seconds:>9.1f}{common.ratio(seconds, found['float', '-']):>9}"
              f"{common.ratio(seconds, found.get(('torch float', '-'))):>9}")


if __name__ == "__main__":
    main()
