# SPDX-License-Identifier: MIT
"""Small networks that come with the examples, and a group normalisation that hybridizes."""

from typing import Any

from mxnet.gluon import nn


class DigitsLeNet(nn.HybridBlock):
    """A LeNet-like classifier of 8x8 grey images, made of ordinary Gluon layers.

    Input (N, 1, 8, 8) float32, output (N, classes) logits. Every input size is given, so the parameters have their
    shapes before the first forward.

    Parameters
    ----------
    classes : int
        Number of outputs.
    """

    def __init__(self, classes: int = 10, **kwargs: Any):
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                for inputs, outputs in ((1, 16), (16, 32)):
                    self.features.add(nn.Conv2D(outputs, 3, padding=1, use_bias=False, in_channels=inputs))
                    self.features.add(nn.BatchNorm(in_channels=outputs))
                    self.features.add(nn.Activation("relu"))
                    self.features.add(nn.MaxPool2D(2, 2))
                self.features.add(nn.Conv2D(64, 3, padding=1, use_bias=False, in_channels=32))
                self.features.add(nn.BatchNorm(in_channels=64))
                self.features.add(nn.Activation("relu"))
                self.features.add(nn.Flatten())
                self.features.add(nn.Dense(64, activation="relu", in_units=64 * 2 * 2))
            self.output = nn.Dense(classes, in_units=64)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Logits of a batch."""
        return self.output(self.features(x))


def digits_lenet(classes: int = 10) -> DigitsLeNet:
    """An uninitialised `DigitsLeNet`; its flat parameter names are the same in every process."""
    return DigitsLeNet(classes=classes, prefix="digitslenet_")


class MnistLeNet(nn.HybridBlock):
    """LeNet-5 (LeCun et al., 1998) for 28x28 grey images, with more maps, BatchNorm and ReLU.

    Input (N, 1, 28, 28) float32, output (N, classes) logits. Every input size is given, as in `DigitsLeNet`.
    """

    def __init__(self, classes: int = 10, **kwargs: Any):
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                for inputs, outputs, size in ((1, 16, 5), (16, 32, 5), (32, 120, 4)):
                    self.features.add(nn.Conv2D(outputs, size, use_bias=False, in_channels=inputs),
                                      nn.BatchNorm(in_channels=outputs), nn.Activation("relu"))
                    if size == 5:
                        self.features.add(nn.MaxPool2D(2, 2))
                self.features.add(nn.Flatten(), nn.Dense(84, use_bias=False, in_units=120),
                                  nn.BatchNorm(in_channels=84), nn.Activation("relu"))
            self.output = nn.Dense(classes, in_units=84)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Logits of a batch."""
        return self.output(self.features(x))


def mnist_lenet(classes: int = 10) -> MnistLeNet:
    """An uninitialised `MnistLeNet`; its flat parameter names are the same in every process."""
    return MnistLeNet(classes=classes, prefix="mnistlenet_")


class CifarVgg(nn.HybridBlock):
    """The VGG that networks of signs are measured with (Courbariaux et al., arXiv:1602.02830, section 2.3).

    Input (N, 3, 32, 32) float32, output (N, classes) logits, behind a BatchNorm of their own. Six 3x3 convolutions,
    a pooling behind every second one, three Dense layers; what is pooled is the sum, so that a sign comes last. In
    float the activations are tanh. Every input size is given, as in `DigitsLeNet`.

    Parameters
    ----------
    classes : int
    width : float
        Share of the published 128, 256 and 512 maps and 1024 units.
    """

    def __init__(self, classes: int = 10, width: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        maps, units = [int(width * number) for number in (128, 128, 256, 256, 512, 512)], int(width * 1024)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                for index, (inputs, outputs) in enumerate(zip([3] + maps, maps)):
                    self.features.add(nn.Conv2D(outputs, 3, padding=1, use_bias=False, in_channels=inputs))
                    if index % 2:
                        self.features.add(nn.MaxPool2D(2, 2))
                    self.features.add(nn.BatchNorm(in_channels=outputs), nn.Activation("tanh"))
                self.features.add(nn.Flatten())
                for inputs in (maps[-1] * 4 * 4, units):
                    self.features.add(nn.Dense(units, use_bias=False, in_units=inputs),
                                      nn.BatchNorm(in_channels=units), nn.Activation("tanh"))
            self.output = nn.Dense(classes, use_bias=False, in_units=units)
            self.norm = nn.BatchNorm(in_channels=classes, center=False, scale=False)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Logits of a batch."""
        return self.norm(self.output(self.features(x)))


def cifar_vgg(classes: int = 10, width: float = 1.0) -> CifarVgg:
    """An uninitialised `CifarVgg`; its flat parameter names are the same in every process."""
    return CifarVgg(classes=classes, width=width, prefix="cifarvgg_")


class GroupNorm(nn.HybridBlock):
    """(x - mean) / sqrt(var + epsilon) * gamma + beta, mean and variance over each group of channels.

    Has the constructor and the parameters of ``gluoncv.nn.GroupNorm``, which fails when hybridized or exported: it
    reads shapes in its forward. Wu & He, Group Normalization, 2018 (arXiv 1803.08494).

    Parameters
    ----------
    ngroups : int
        Number of groups; must divide the number of channels.
    in_channels : int
        Number of channels; 0 = found at the first forward, which then must not be hybridized.
    epsilon : float
    scale : bool
        Whether gamma is used.
    """

    def __init__(self, ngroups: int = 32, in_channels: int = 0, epsilon: float = 1e-5,
                 beta_initializer: str = "zeros", gamma_initializer: str = "ones", scale: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self._ngroups = ngroups
        self._epsilon = epsilon
        self.gamma = self.params.get("gamma", shape=(in_channels,), init=gamma_initializer, allow_deferred_init=True,
                                     grad_req="write" if scale else "null")
        self.beta = self.params.get("beta", shape=(in_channels,), init=beta_initializer, allow_deferred_init=True)

    def infer_shape(self, x: Any, *rest: Any) -> None:
        """Take the number of channels from the input: shapes cannot be inferred back through a broadcast."""
        self.gamma.shape = self.beta.shape = (x.shape[1],)

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any) -> Any:
        """The normalised batch (N, C, H, W)."""
        # MXNet's operator has one gamma per group; the published layer has one per channel.
        y = F.GroupNorm(x, F.ones((self._ngroups,)), F.zeros((self._ngroups,)), num_groups=self._ngroups,
                        eps=self._epsilon)
        return F.broadcast_add(F.broadcast_mul(y, gamma.reshape((1, -1, 1, 1))), beta.reshape((1, -1, 1, 1)))
