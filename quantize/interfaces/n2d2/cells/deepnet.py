# SPDX-License-Identifier: MIT
"""Networks of cells that scripts call: `Sequence`, and `DeepNetCell`, which an ONNX file becomes."""

import json
from typing import Any, Iterator, List, Optional, Tuple, Union
from typing import Sequence as Several

import mxnet as mx
import numpy as np
from mxnet import autograd

from quantize import targets
from quantize.errors import ConfigError
from quantize.files import PathLike
from quantize.interfaces.n2d2 import global_variables
from quantize.interfaces.n2d2.cells.base import Cell
from quantize.interfaces.n2d2.cells.operators import Softmax as SoftmaxCell
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.parameters import export_numbers, export_parameters, import_parameters
from quantize.interfaces.n2d2.provider import DataProvider
from quantize.interfaces.n2d2.tensor import Tensor
from quantize.registry import closest
from quantize.train import GroupedTrainers


class DeepNetCell:
    """A network of cells. Cells may be changed at any time: the network is made anew before the next batch.

    Parameters
    ----------
    cells : sequence of Cell
    size : (int, int, int), optional
        Channels, height, width; None: those of the first batch.
    constants : dict, optional
        Arrays that cells of an ONNX file read.

    Attributes
    ----------
    fused : object or None
        The network of whole numbers that `fuse` made.
    """

    def __init__(self, cells: Several[Cell], size: Tuple[int, ...] = (), provider: str = "sp",
                 constants: Any = None) -> None:
        self.network = CellNetwork(cells, size, provider, constants=constants)
        self.learning = True
        self.fused: Any = None
        self._made = ""
        self._started = False
        self._trainers: Optional[GroupedTrainers] = None
        self._solvers: List[Tuple[Any, ...]] = []

    @classmethod
    def load_from_ONNX(cls, provider: DataProvider, path: PathLike) -> "DeepNetCell":
        """The cells of an ONNX file, with its weights."""
        from quantize.interfaces.n2d2.onnx import onnx_cells
        found, constants = onnx_cells(path)
        return cls(found, provider.shape, constants=constants)

    # ---- cells

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self.network.cells.values()))

    def __len__(self) -> int:
        return len(self.network.cells)

    def __getitem__(self, name: Union[str, int]) -> Cell:
        if isinstance(name, int):
            return list(self)[name]
        if name not in self.network.cells:
            raise ConfigError(f"there is no cell {name!r}{closest(name, self.network.cells)}")
        return self.network.cells[name]

    def get_embedded_deepnet(self) -> "DeepNetCell":
        """Itself: N2D2 keeps the network apart, which is not so here."""
        return self

    # ---- computing

    def learn(self) -> "DeepNetCell":
        """Batches are trained on, with quantizers: a fusion before is forgotten."""
        self.learning, self.fused = True, None
        return self

    def test(self) -> "DeepNetCell":
        """Batches are only looked at."""
        self.learning = False
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """The batch behind the network."""
        value = x.value.as_in_context(context())
        if self.fused is not None:
            return x.followed_by(mx.nd.array(self.fused(x.to_numpy()), ctx=value.context), self)
        self._settle(value)
        net = self.network.built
        if not self.learning:
            return x.followed_by(net(value), self)
        with autograd.record():
            return x.followed_by(net(value), self)

    def _settle(self, value: mx.nd.NDArray) -> None:
        """Make the network where a cell was changed, and start what trains."""
        if self.network.net is None and not self.network.size:
            self.network.size = tuple(value.shape[1:])
        if self._description() != self._made:
            self.network.pull()
            self.network.build(value.context).hybridize(static_alloc=True, static_shape=True)
            self._made, self._started, self._trainers = self._description(), False, None
        if not self._started:
            self.network.start(value)
            self._started = True

    def _description(self) -> str:
        return json.dumps(self.network.description(), sort_keys=True, default=str)

    def update(self, images: int) -> None:
        """One step of every solver, from gradients that are sums over so many images."""
        solvers = [solver.key for cell in self for solver in cell.solvers.values()]
        if self._trainers is None or solvers != self._solvers:
            seen = 0 if self._trainers is None else self._trainers.images
            self._trainers, self._solvers = GroupedTrainers(self.network.groups()), solvers
            self._trainers.images = seen
        self._trainers.set_share()
        self._trainers.step(images)

    def fuse(self, provider: DataProvider, scaling: str = "NONE") -> Any:
        """N2D2's `fuse_qat`: from here on the network is one of whole numbers, without BatchNorms and quantizers.

        Pictures and exported numbers are the fused network's, until `learn` goes back to the one that trains.

        Parameters
        ----------
        provider : DataProvider
            Of the images; a batch of its test images decides how fine 16 bits are, where a layer rounds no input.
        scaling : str
            NONE and FLOAT_MULT leave every code as it was; FIXED_MULT16, FIXED_MULT32, SINGLE_SHIFT, DOUBLE_SHIFT.

        Returns
        -------
        deploy.targets.c.simulate.FusedNetwork
        """
        partition = "Test" if provider.database.get_nb_stimuli("Test") else "Learn"
        chosen = np.arange(min(provider.batch_size, provider.database.get_nb_stimuli(partition)))
        images, _ = provider.read(partition, chosen, np.random.RandomState(0))
        self.test()
        self._settle(mx.nd.array(images, ctx=context()))
        self.fused = targets.find("c").fused(self.network.built, images, scaling, provider.bytes_scale(partition))
        return self.fused

    # ---- files

    def export_network_free_parameters(self, folder: PathLike) -> None:
        """Write the numbers of every cell into a folder, with pictures of their distributions.

        Of a fused network: the whole numbers of every layer, its scale and its biases.
        """
        if self.fused is not None:
            export_numbers(self.fused.numbers(), folder)
            return
        from quantize.interfaces.n2d2.pictures import draw_distributions
        export_parameters(self.network, folder)
        draw_distributions(self.network, folder)

    def import_free_parameters(self, folder: PathLike, ignore_not_exists: bool = False) -> None:
        """Take the numbers of a folder; those of no cell are an error unless `ignore_not_exists`."""
        import_parameters(self.network, folder, ignore_not_exists)
        self._made = ""

    import_network_free_parameters = import_free_parameters

    def draw_feature_maps(self, images: Tensor, folder: PathLike) -> None:
        """Draw what cells with quantized outputs make of the first image: ``CELL_outputs_quant.png`` in a folder."""
        from quantize.interfaces.n2d2.maps import draw_feature_maps
        value = images.value.as_in_context(context())
        self._settle(value)
        draw_feature_maps(self.network, value, folder)

    def draw_graph(self, path: PathLike) -> None:
        """Draw the network: ``PATH.svg``, and ``PATH.png`` where Graphviz is installed."""
        from quantize.interfaces.n2d2.pictures import draw_dot, draw_network
        if self.fused is None:
            draw_network(self.network, path)
        else:
            draw_dot(self.fused.dot(), path)

    def log_stats(self, folder: PathLike) -> None:
        """Write parameters, multiply-adds and bytes of every cell into a folder: ``stats.json`` and ``stats.txt``."""
        from quantize.interfaces.n2d2.stats import write_stats
        write_stats(self.network, folder)

    def __repr__(self) -> str:
        inside = "".join(f"\n    {cell!r}" for cell in self)
        return f"{type(self).__name__}({inside}\n)"


class Sequence(DeepNetCell):
    """Cells one behind the other; sequences in it are taken apart."""

    def __init__(self, cells: Several[Union[Cell, DeepNetCell]], name: str = "") -> None:
        flat: List[Cell] = []
        for cell in cells:
            flat += list(cell) if isinstance(cell, DeepNetCell) else [cell]
        super().__init__(flat)
        self.name = name


class Softmax(SoftmaxCell):
    """Softmax as the last cell of a network, or called with a batch, as N2D2's scripts do."""

    def __call__(self, x: Tensor) -> Tensor:
        """The batch behind the softmax."""
        with autograd.record() if x.get_deepnet().learning else autograd.pause():
            found = x.followed_by(mx.nd.softmax(x.value, axis=1))
        if self.with_loss:
            found.logits = x.value
        return found


def context() -> mx.Context:
    """The GPU of `global_variables` where MXNet has one, else the CPU."""
    wanted = global_variables.default_model.endswith("CUDA")
    number = global_variables.cuda_device
    return mx.gpu(number) if wanted and mx.context.num_gpus() > number else mx.cpu()
