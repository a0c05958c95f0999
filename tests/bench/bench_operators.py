# SPDX-License-Identifier: MIT
"""How fast is each fake-quantize operator, against a copy of the tensor and against PyTorch?

For each operator and pass all contenders run in turn, round after round; each is called twice and the second call is
timed, so that its threads are awake and those of the others asleep. Medians are printed, and ratios of the same rounds.

copy: MXNet's copyto, a memcpy on all threads. torch: PyTorch's operator of the same meaning, where there is one
(fake_quantize_*, _fake_quantize_learnable_*, fused_moving_avg_obs_fake_quant). "out=" writes into a tensor that is
there already; "leaf" has the identity in front that accumulated gradients need where the input is a variable (inside a
network it is not).
"""

import argparse

import common

PASSES = ("forward", "forward+backward")


def parse_args(argv=None):
    """The command line, with its parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_arguments(parser, rounds=9, threads=2)
    parser.add_argument("--shape", type=common.positive, nargs="+", default=[64, 64, 56, 56], metavar="N",
                        help="the channels are axis 1 (default: %(default)s)")
    parser.add_argument("--operators", nargs="+", metavar="TEXT", help="only those whose name holds one of these")
    args = parser.parse_args(argv)
    if len(args.shape) < 2:
        parser.error(f"--shape needs at least two lengths, got {args.shape}")
    return parser, args


class Into:
    """mxnet.ndarray whose native operators write into a given tensor, and whose identity is none."""

    def __init__(self, out=None):
        self.out = out

    def __getattr__(self, name):
        import mxnet as mx
        function = getattr(mx.nd, name)
        if name == "identity":
            return lambda x: x
        if self.out is None or not name.startswith("fq_"):
            return function

        def call(x, *inputs, **attributes):
            out = self.out
            if name in ("fq_online", "fq_observed"):
                out = [out, mx.nd.empty((2, x.shape[attributes["axis"]] if "axis" in attributes else 1))]
            return function(x, *inputs, out=out, **attributes)
        return call


def operators(shape):
    """Name -> function of (F, x, back end)."""
    import mxnet as mx

    from quantize import ops
    from quantize.spec import PerChannel, QuantSpec
    tensor, channel, clipped = QuantSpec(8), QuantSpec(8, granularity=PerChannel(1)), QuantSpec(4, signed=False)
    one = mx.nd.array([0.02])
    each = mx.nd.full(channel.scale_shape(shape), 0.02)
    alpha, state, step, steps = mx.nd.array([2.]), mx.nd.zeros((3,)), one.copy(), each.copy()
    for trained in (alpha, step, steps):
        trained.attach_grad()
    return {
        "fixed, per tensor": lambda F, x, using: ops.fake_quantize(F, x, one, tensor, using=using),
        "fixed, per channel": lambda F, x, using: ops.fake_quantize(F, x, each, channel, using=using),
        "online, per tensor": lambda F, x, using: ops.online_fake_quantize(F, x, tensor, using=using),
        "online, per channel": lambda F, x, using: ops.online_fake_quantize(F, x, channel, using=using),
        "tracking": lambda F, x, using: ops.tracking_fake_quantize(F, x, state, tensor, 0.9, using=using),
        "LSQ, per tensor": lambda F, x, using: ops.lsq(F, x, step, tensor, using=using),
        "LSQ, per channel": lambda F, x, using: ops.lsq(F, x, steps, channel, using=using),
        "PACT": lambda F, x, using: ops.pact(F, x, alpha, clipped.qmax, using=using),
        "sign": lambda F, x, using: ops.sign(F, x, using=using),
    }


def torch_operators(torch, shape):
    """Name -> function of x, for the operators that PyTorch has."""
    channels = shape[1]
    one, zero = torch.tensor([0.02]), torch.tensor([0.])
    each, zeros = torch.full((channels,), 0.02), torch.zeros(channels)
    codes = torch.zeros(channels, dtype=torch.int32)
    step, steps = one.clone().requires_grad_(), each.clone().requires_grad_()
    on, low, high = torch.tensor([1]), torch.tensor([-4.]), torch.tensor([4.])
    scale, point = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    return {
        "fixed, per tensor": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.02, 0, -127, 127),
        "fixed, per channel": lambda x: torch.fake_quantize_per_channel_affine(x, each, codes, 1, -127, 127),
        "tracking": lambda x: torch.fused_moving_avg_obs_fake_quant(
            x, on, on, low, high, scale, point, 0.1, -127, 127, 0, False, True),
        "LSQ, per tensor": lambda x: torch._fake_quantize_learnable_per_tensor_affine(
            x, step, zero, -127, 127, 1e-4),
        "LSQ, per channel": lambda x: torch._fake_quantize_learnable_per_channel_affine(
            x, steps, zeros, 1, -127, 127, 1e-4),
    }


def mxnet_calls(function, x, backends, backward):
    """Label -> call, for one operator and pass."""
    import mxnet as mx
    leaf, head, out = x.copy(), mx.nd.ones_like(x), mx.nd.empty(x.shape)
    leaf.attach_grad()

    def forward(F, using):
        function(F, x, using).wait_to_read()

    def both(F, using):
        with mx.autograd.record():
            y = function(F, leaf, using)
        y.backward(head)
        leaf.grad.wait_to_read()
    calls = {"copy": lambda: x.copyto(out).wait_to_read()}
    if "native" in backends:
        calls["native"] = lambda: both(Into(), "native") if backward else forward(mx.nd, "native")
        if backward:
            calls["native, leaf"] = lambda: both(mx.nd, "native")
        else:
            calls["native, out="] = lambda: forward(Into(out), "native")
    if "composed" in backends:
        calls["composed"] = lambda: (both if backward else forward)(mx.nd, "composed")
    return calls


def torch_calls(torch, function, shape, backward):
    """Label -> call; PyTorch's own copy too."""
    x, to = torch.randn(*shape), torch.empty(*shape)
    head = torch.ones(*shape)

    def both():
        leaf.grad = None
        function(leaf).backward(head)

    def forward():
        with torch.no_grad():
            function(x)
    calls = {"torch copy": lambda: to.copy_(x)}
    if function is not None:
        leaf = x.clone().requires_grad_()
        calls["torch"] = both if backward else forward
    return calls


def rows(name, which, found):
    """Lines of the table, from label -> seconds."""
    for label, seconds in found.items():
        torch = found.get("torch") if label != "copy" else None
        yield (f"{name:<21}{which:<18}{label:<14}{1000 * seconds:>9.2f}{common.ratio(seconds, found['copy']):>12}"
               f"{'-' if torch is None else common.ratio(torch, seconds):>15}")


def main(argv=None):
    """Print one row for each operator, pass and contender."""
    parser, args = parse_args(argv)
    backends = common.start(parser, args)
    torch = common.load_torch(args.threads)
    import mxnet as mx
    mx.random.seed(0)
    x = mx.nd.random.normal(shape=tuple(args.shape))
    print(f"shape {'x'.join(map(str, args.shape))}, median of {args.rounds} rounds")
    print(f"{'operator':<21}{'pass':<18}{'contender':<14}{'ms':>9}{'/ copy':>12}{'torch / this':>15}")
    others = torch_operators(torch, args.shape) if torch else {}
    for name, function in operators(tuple(args.shape)).items():
        if args.operators and not any(text in name for text in args.operators):
            continue
        for which in PASSES:
            calls = mxnet_calls(function, x, backends, which != "forward")
            if torch:
                calls.update(torch_calls(torch, others.get(name), args.shape, which != "forward"))
            print(*rows(name, which, common.medians(calls, args.rounds, wake=True)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
