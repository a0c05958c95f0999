# SPDX-License-Identifier: MIT
"""What a converted network can do beside what it could before: thin methods over `quantize.modes`."""

import logging
import warnings
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Tuple

from mxnet import nd
from mxnet.gluon import Block

from quantize import modes
from quantize.config import Rule
from quantize.convert.moving import LastBatch, follow_last_batch
from quantize.convert.plan import Plan
from quantize.errors import ModelFileError
from quantize.files import PathLike
from quantize.initialize import start_weight
from quantize.params_file import read_params

if TYPE_CHECKING:  # a mixin, put in front of the class of whatever network is converted
    from mxnet.gluon import HybridBlock as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

_CLASSES: Dict[type, type] = {}


class MissingParameters(ModelFileError, AssertionError):
    """A file without some of the float network's parameters; an AssertionError too, as Gluon's own message is."""


class QuantizedNet(_Base):
    """Mixin of a converted root network.

    Attributes
    ----------
    plan : Plan
        What was done to each layer.
    rules : tuple of Rule
        What was asked for, in order.
    target : object or None
        The engine that it was converted for.
    """

    _last_batch: Optional[LastBatch] = None
    plan: Optional[Plan] = None
    rules: Tuple[Rule, ...] = ()
    target: Any = None

    def enable_quantize(self) -> None:
        """See `quantize.modes.enable_quantize`."""
        modes.enable_quantize(self)

    def disable_quantize(self) -> None:
        """See `quantize.modes.disable_quantize`."""
        modes.disable_quantize(self)

    def quantize_input(self, enable: bool = True, online: bool = True) -> None:
        """See `quantize.modes.quantize_input`."""
        modes.quantize_input(self, enable, online)

    def __call__(self, *args: Any) -> Any:
        """As Gluon's; the batch is remembered for `update_ema`."""
        output = super().__call__(*args)
        self._last_batch = LastBatch.of(args) or self._last_batch
        return output

    def update_ema(self, momentum: Optional[float] = None) -> None:
        """After a forward pass: the moving averages of activations take in this batch, and store their range.

        As in Quantization.MXNet a loop that calls this needs no other switch: the first batch counts, activations that
        compute with each batch's range begin to keep a moving average, and those that compute with stored ranges or in
        float (``quantize_input(enable=False)``, ``disable_quantize()``) stay so while their ranges follow the batches.
        For these the batch goes through the network a second time.

        Parameters
        ----------
        momentum : float, optional
            Of the averages, from now on (0.9 at first).
        """
        follow_last_batch(self, self._last_batch, momentum)

    def fix_params(self) -> None:
        """See `quantize.modes.fix_params`."""
        modes.fix_params(self)

    def collect_quantized_blocks(self) -> List[Block]:
        """See `quantize.modes.collect_quantized_blocks`."""
        return modes.collect_quantized_blocks(self)

    def save_parameters(self, *args: Any, **options: Any) -> None:
        """As Gluon's; first waits for moving averages that a training step may still be updating."""
        nd.waitall()
        super().save_parameters(*args, **options)

    def load_parameters(self, filename: PathLike, ctx: Any = None, allow_missing: bool = False,
                        modes_follow: bool = False, **options: Any) -> None:
        """As Gluon's; a float checkpoint (one without the quantizers' numbers) loads as well.

        Trained steps of weights then start from the weights that were loaded.

        Parameters
        ----------
        modes_follow : bool
            The caller sets the modes that belong to the numbers, which no such file says. Else quantizers that get
            numbers and do not compute with them are warned about.
        """
        try:
            loaded = read_params(filename)
        except ModelFileError as error:
            raise ModelFileError(f"parameter file {filename}: cannot be read: {error}") from None
        is_float = self._lacks_only_what_was_added(filename, loaded, allow_missing)
        super().load_parameters(str(filename), ctx=ctx, allow_missing=allow_missing or is_float, **options)
        if is_float:
            for layer in modes.collect_quantized_blocks(self):
                start_weight(layer)
        elif not modes_follow:
            self._warn_of_modes(filename)
        modes.clear_cached_graphs(self)

    def _warn_of_modes(self, filename: PathLike) -> None:
        idle = [path for path, quantizer in modes.quantizers(self) if quantizer.mode == "online"
                and quantizer.scale._data is not None and (quantizer.scale.data().asnumpy() > 0).all()]
        if idle:
            logger.warning("%s: has numbers of %d quantizers that compute with each batch's own range here (first: "
                           "%s): a parameter file does not say in which modes they were used. Switch them "
                           "(quantize.modes.set_mode, quantize.train.start_training), or keep networks with "
                           "quantize.save_quantized and load_quantized, which keep modes, too", filename, len(idle),
                           idle[0])

    def _lacks_only_what_was_added(self, filename: PathLike, loaded: Iterable[str], allow_missing: bool) -> bool:
        """Whether a file holds every parameter but (some of) those that conversion added.

        What else a file lacks is named, so that nobody looks for the quantizers' numbers in it.
        """
        if any("." in name for name in loaded):
            parameters, names = self._collect_params_with_prefix(), loaded
        else:
            parameters, names = self.collect_params(), [self.prefix + name.split(":")[-1] for name in loaded]
        # shared parameters are stored once, so only what has no loaded alias is missing
        present = {id(parameters[name]) for name in names if name in parameters}
        missing = {id(parameter): name for name, parameter in parameters.items() if id(parameter) not in present}
        added = {id(parameter) for parameter in modes.added_parameters(self)}
        lacking = [name for key, name in missing.items() if key not in added]
        if lacking and missing.keys() & added and not allow_missing:
            raise MissingParameters(f"parameter file {filename}: {len(lacking)} parameters of the float network are "
                                 f"missing (first: {lacking[0]}); give a file of this network, or allow_missing=True")
        return bool(missing) and not lacking

    def _build_cache(self, *args: Any) -> None:
        # scales are no part of the graph while ranges are online, which is no cause for alarm
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Parameter .* is not used by any computation")
            super()._build_cache(*args)


def quantized_net_class(cls: type) -> type:
    """The class of a converted `cls` (the same one every time)."""
    if cls not in _CLASSES:
        _CLASSES[cls] = type("Quantized" + cls.__name__, (QuantizedNet, cls), {"__doc__": QuantizedNet.__doc__})
    return _CLASSES[cls]
