# SPDX-License-Identifier: MIT
"""A HybridBlock that runs an imported program: ordinary Gluon layers as children, F operators in between.

Both importers first plan a whole `Program` (plain data) and build it only when nothing in it was refused.
"""

import re
import warnings
from math import prod
from types import ModuleType
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, HybridBlock

from quantize.errors import DataError
from quantize.escape import one_line
from quantize.importers.reshape_codes import size_after
from quantize.limits import claim
from quantize.onednn import float_type, guard_norms, guarded

Tensor = Union[mx.nd.NDArray, mx.sym.Symbol]
Context = Union[mx.Context, List[mx.Context]]

RESHAPES = ("reshape", "Reshape")
SOFTMAX = ("softmax", "log_softmax")
LONGEST = 2 ** 31 - 1  # places that a window and its padding may cover
_IMAGES = "images_to_measure"
ATTRIBUTES = ("input_names", "input_shape", "input_shapes", "preprocessing")  # which no child may be called


class LayerSpec(NamedTuple):
    """A Gluon layer still to be made: its class, constructor options and parameter arrays by short name."""

    kind: type
    options: Dict[str, object] = {}
    arrays: Mapping[str, Any] = {}


class Step(NamedTuple):
    """One line of a program: ``outputs = F.op(*inputs, **attrs)``, or a call of the child called `name`.

    Steps with the same name and a layer share one child (and so its weights).
    """

    name: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    op: str = ""
    attrs: Dict[str, object] = {}
    layer: Optional[LayerSpec] = None


class Program(NamedTuple):
    """What a file says: the steps in order, the tensors they start from and those they end in.

    `others` are inputs beside the first: name -> declared shape.
    """

    input: str
    outputs: Tuple[str, ...]
    steps: List[Step]
    constants: Mapping[str, Any]
    input_shape: Optional[Tuple[Optional[int], ...]] = None
    others: Mapping[str, Optional[Tuple[Optional[int], ...]]] = {}


class Names:
    """Hands out unique identifiers that no attribute of a HybridBlock has."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def unique(self, wanted: str, fallback: str = "node") -> str:
        """`wanted` as a free, valid identifier; `fallback` stands in for an empty name."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII).strip("_") or fallback.lower()
        if name[0].isdigit():
            name = f"{fallback.lower()}_{name}"
        free, count = name, 0
        while free in self._taken or hasattr(HybridBlock, free) or free in ATTRIBUTES:
            count += 1
            free = f"{name}_{count}"
        self._taken.add(free)
        return free


def find_operator(F: ModuleType, op: str) -> Optional[Callable]:
    """The function of `F` (mx.nd or mx.sym) for an operator's registered name, or None."""
    if op.startswith("_contrib_"):
        return getattr(F.contrib, op[len("_contrib_"):], None)
    if op.startswith("_linalg_"):
        return getattr(F.linalg, op[len("_linalg_"):], None)
    return getattr(F, op, None) or getattr(F._internal, op, None)


class GraphBlock(HybridBlock):
    """Runs a program; children are looked up by name at every call, so a replaced child is the one that runs.

    Parameters
    ----------
    program : Program
    ctx : mx.Context or list of mx.Context, optional
        Where the parameters live; the current context by default.
    preprocessing : dict, optional
        What the file says about preparing images; kept as an attribute.

    Attributes
    ----------
    input_shape : tuple of (int or None) or None
        The first input's declared shape; None for a symbolic dimension, or for the whole when nothing was declared.
    input_names : tuple of str
        As the file calls its inputs.
    input_shapes : tuple
        Of each of them, as `input_shape`.
    preprocessing : dict or None
    grids : dict
        What a file that is quantized says of children (`quantize.importers.onnx.quantized`).
    batch : int or None
        The only number of images that the network is right for; None for any.
    """

    layout = "NCHW"

    def __init__(self, program: Program, ctx: Optional[Context] = None,
                 preprocessing: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(prefix="")
        program = program._replace(steps=list(map(_own_softmax, program.steps)))
        self.input_shape = program.input_shape
        self.preprocessing = preprocessing
        self.grids: Dict[str, Any] = {}
        self.batch: Optional[int] = None
        self.input_names = (program.input, *program.others)
        self.input_shapes = (program.input_shape, *program.others.values())
        self._outputs = program.outputs
        for step in program.steps:
            if step.layer is not None and step.name not in self._children:
                setattr(self, step.name, _make_layer(step.name, step.layer, ctx))
        names = Names(self._children)
        self._constants = {names.unique(tensor, "constant"): tensor for tensor in program.constants}
        for attribute, tensor in self._constants.items():
            constant = self.params.get_constant(tensor, mx.nd.array(program.constants[tensor], dtype="float32"))
            constant.initialize(ctx=ctx)
            setattr(self, attribute, constant)
        # The program itself must not keep the weights alive a second time.
        self._steps = [step._replace(layer=None) for step in program.steps]
        self._finished = _last_uses(program)
        self._reshaping = any(step.op in RESHAPES for step in self._steps)
        self._reshaped: List[Tuple[str, mx.sym.Symbol, mx.sym.Symbol]] = []
        self._fitting: Set[Tuple[Tuple[int, ...], ...]] = set()
        self._sized: Set[Tuple[Tuple[int, ...], ...]] = set()
        guard_norms(self, self.input_shape, len(self.input_names))

    def forward(self, x: Tensor, *args: Tensor) -> Union[Tensor, List[Tensor]]:
        """The outputs for images `x`; DataError where their size does not fit the reshapes that the file holds."""
        if len(args) + 1 != len(self.input_names):
            raise DataError(f"the network takes {len(self.input_names)} inputs ({', '.join(self.input_names)}), it was "
                            f"given {len(args) + 1}")
        if isinstance(x, mx.nd.NDArray):
            x, args = _single(x), tuple(map(_single, args))
            if self.batch is not None and len(x) != self.batch:
                raise DataError(f"the network's file was made for batches of {self.batch} and mixes the images of "
                                f"larger ones; it was given {len(x)} (--batch-size {self.batch})")
            shapes = tuple(each.shape for each in (x, *args))
            if shapes not in self._sized:
                self._sized.add(shapes)
                self.measure(shapes)
            if self._active and self._reshaping and shapes not in self._fitting:  # type: ignore[has-type]
                self._check_traced_reshapes(x, *args)
                self._fitting.add(shapes)
        return super().forward(x, *args)

    def shapes_of(self, x: mx.nd.NDArray, tensors: Sequence[str]) -> Dict[str, Tuple[int, ...]]:
        """Shapes of some of the program's tensors for images `x`."""
        return {name: value.shape for name, value in self.values_of(x, tensors).items()}

    def values_of(self, x: mx.nd.NDArray, tensors: Sequence[str]) -> Dict[str, mx.nd.NDArray]:
        """Some of the program's tensors for images `x`, computed step by step, hybridized or not."""
        kept, finished, active = self._outputs, self._finished, bool(self._active)  # type: ignore[has-type]
        self._outputs, self._finished, self._active = tuple(tensors), [()] * len(self._steps), False
        try:
            with warnings.catch_warnings():  # layers make graphs of their own: some of their numbers are in none
                warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
                found = super().forward(x)
        finally:
            self._outputs, self._finished, self._active = kept, finished, active
        return dict(zip(tensors, found if isinstance(found, list) else [found]))

    def measure(self, shapes: Sequence[Tuple[int, ...]]) -> Dict[str, Tuple[int, ...]]:
        """Shapes of all tensors and parameters by MXNet's names for images of these shapes, before anything runs.

        Only of the network as it was imported, else empty: quantized layers take the same sizes. DataError where images
        do not fit the network, or make a tensor that takes too much memory.
        """
        if any(float_type(child).__module__.split(".")[0] != "mxnet" for child in self._children.values()):
            return {}
        reshaped, named = self._reshaped, {f"{_IMAGES}{i or ''}": shape for i, shape in enumerate(shapes)}
        shape = shapes[0] if len(shapes) == 1 else shapes
        try:
            outputs = super().forward(*[mx.sym.var(name, shape=each) for name, each in named.items()])
            inside = mx.sym.Group(outputs if isinstance(outputs, list) else [outputs]).get_internals()
            found = inside.infer_shape_partial(**named)[1]
        except (mx.MXNetError, ValueError, TypeError) as error:
            wrong = shape[1:] if len(shapes) == 1 else shapes
            raise DataError(f"images of shape {wrong} do not fit the network: {one_line(error)}; --dataset, "
                            "--resize and --crop choose them") from None
        finally:
            self._reshaped = reshaped
        sizes = dict(zip(inside.list_outputs(), found or ()))
        for name, size in sizes.items():
            claim(4 * prod(size), f"{name} for images of shape {shape}")
        return sizes

    def _check_traced_reshapes(self, *images) -> None:
        """Look at the reshapes of the hybridized network before it runs: MXNet's own check none."""
        inputs, _ = self._get_graph(*images)
        if self._reshaped:
            pairs = mx.sym.Group([symbol for _, before, after in self._reshaped for symbol in (before, after)])
            read = set(pairs.list_inputs())
            known = {symbol.name: x.shape for symbol, x in zip(inputs, images) if symbol.name in read}
            if known:
                # sizes that a layer found out are not in its symbol; native operators cannot do without
                known.update((name, parameter.shape) for name, parameter in self.collect_params().items()
                             if name in read and parameter._data is not None)
                try:
                    shapes = pairs.infer_shape_partial(**known)[1]
                except mx.MXNetError as error:
                    raise DataError(f"images of shape {images[0].shape} do not fit the network: "
                                    f"{str(error).splitlines()[0]}") from None
                for (name, _, _), before, after in zip(self._reshaped, shapes[::2], shapes[1::2]):
                    _check_sizes(name, before, prod(before), prod(after))

    def _note_reshape(self, F: Any, step: Step, value: Tensor) -> None:
        """Check a reshape that is about to run; remember one that is traced."""
        if F is mx.nd:
            _check_sizes(step.name, value.shape, prod(value.shape), size_after(value.shape, step.attrs))
        else:
            operator = find_operator(F, step.op)
            assert operator is not None  # see `hybrid_forward`
            self._reshaped.append((step.name, value, operator(value, **step.attrs)))

    def hybrid_forward(self, F: ModuleType, x: Tensor, *others: Tensor,
                       **constants: Tensor) -> Union[Tensor, List[Tensor]]:
        """The network's output, or a list of them when the file has several."""
        self._reshaped = []
        values = {self._constants[key]: value for key, value in constants.items()}
        values.update(zip(self.input_names, (x, *others)))
        for step, finished in zip(self._steps, self._finished):
            inputs = [values[name] for name in step.inputs]
            if step.op in RESHAPES:
                self._note_reshape(F, step, inputs[0])
            if step.op:
                operator = find_operator(F, step.op)
                assert operator is not None  # the importer refused files with operators that MXNet lacks
                result = _called(guarded(F, step.op, operator), step, inputs)
            else:
                result = self._children[step.name](*inputs)
            values.update(zip(step.outputs, result if len(step.outputs) > 1 else [result]))
            for name in finished:
                values.pop(name, None)
        results = [values[name] for name in self._outputs]
        return results[0] if len(results) == 1 else results


def _own_softmax(step: Step) -> Step:
    """The step, computed by MXNet's own kernel where it is a softmax.

    oneDNN's, which knows no temperature, ends the process in MXNet 1.9.1 where it reads (N, 1) and (N, n) concatenated,
    whatever works in place in between.
    """
    if step.op not in SOFTMAX or step.attrs.get("temperature") not in (None, "None"):
        return step
    return step._replace(attrs=dict(step.attrs, temperature=1.0))


def _single(x: mx.nd.NDArray) -> mx.nd.NDArray:
    """Half and double precision in single."""
    return x.astype("float32") if x.dtype in (np.float16, np.float64) else x


def _called(operator, step, inputs) -> Any:
    """What an operator makes; DataError, in one line, where the file's options or the images do not fit it."""
    try:
        return operator(*inputs, name=step.name, **step.attrs)
    except (mx.MXNetError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{step.name}: {step.op} cannot be computed: {one_line(error)}") from error


def _check_sizes(name, before, have, need) -> None:
    """DataError when a reshape would make a tensor of another number of values."""
    if have != need:
        raise DataError(f"{name}: the network's own reshape wants {need} values, these images give {have} (a tensor of "
                        f"shape {tuple(before)}); give it images of the size and batch that its file was made for")


def _check_reach(name: str, options: Mapping[str, Any]) -> None:
    """DataError for a window that reaches further than MXNet's sizes of 32 bits, which begin anew behind their end."""
    kernel = _numbers(options.get("kernel_size", options.get("pool_size", 1)))
    dilation, padding = _numbers(options.get("dilation", 1)), _numbers(options.get("padding", 0))
    reach = max(dilation) * (max(kernel) - 1) + 1 + 2 * max(padding)
    if reach > LONGEST:
        raise DataError(f"{name}: its kernel, dilation and padding reach over {reach} places, {LONGEST} are possible")


def _numbers(value: Any) -> Tuple[int, ...]:
    """One number, or one for each axis."""
    return tuple(value) or (0,) if isinstance(value, (tuple, list)) else (value or 0,)


def _make_layer(name: str, spec: LayerSpec, ctx: Optional[Context]) -> Block:
    """The Gluon layer of a step, with its parameters set."""
    _check_reach(name, spec.options)
    layer = spec.kind(**dict({"prefix": name + "_"}, **spec.options))
    for key, array in spec.arrays.items():
        # as load_parameters does it: zeros that are overwritten at once would be half of an import's time
        getattr(layer, key)._load_init(mx.nd.array(array, dtype="float32"), ctx or mx.current_context())
    for parameter in layer.collect_params().values():
        if parameter._data is None:
            parameter.initialize(mx.init.Zero(), ctx=ctx)
    return layer


def _last_uses(program: Program) -> List[Tuple[str, ...]]:
    """For each step the tensors nobody reads after it, so that activations are freed as early as can be."""
    last: Dict[str, int] = {}
    for index, step in enumerate(program.steps):
        last.update((name, index) for name in step.inputs + step.outputs)
    finished: List[List[str]] = [[] for _ in program.steps]
    for name, index in last.items():
        if name not in program.outputs:
            finished[index].append(name)
    return [tuple(names) for names in finished]
