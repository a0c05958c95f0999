# SPDX-License-Identifier: MIT
"""Several workers that train one network, over MXNet's parameter server (``dist_sync``).

    with Workers.connect("dist_sync") as workers:
        workers.broadcast(net)                    # all start from worker 0's numbers
        indices = workers.share(order)            # each worker trains on its own part of every batch
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=None)
        for ...:
            loss.backward()
            workers.sum_gradients(net)
            trainer.step(batch_size)              # of all workers together
        workers.average_statistics(net)           # at the end of an epoch, and before evaluation

The server only adds. Each worker updates its own copy, from equal gradients by equal rules, so that copies stay equal
to the last bit whatever the optimizers are, however many (one for the steps of quantizers, for example).
``gluon.Trainer(kvstore="dist_sync")`` knows weights alone, lets two Trainers overwrite each other's keys on the server,
and with ``update_on_kvstore=False`` may take a gradient for a weight when it starts; none of that can happen here.

It is part of the application and not of `quantize.train`: processes, their launcher (`runs.distributed`) and the
environment between the two belong together, and no quantizer knows of them.
"""

import ctypes
import logging
import os
import threading
from typing import Any, Dict, Iterable, List, Sequence, Union

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call
from mxnet.gluon import Block, Parameter

from quantize.errors import ConfigError, TrainingError
from quantize.modes import quantizers, update_ema

logger = logging.getLogger(__name__)

NONE = "none"
KINDS = ("dist_sync", "dist_device_sync")
ROLE, COUNT = "DMLC_ROLE", "DMLC_NUM_WORKER"
TIMEOUT = "QUANTIZE_WORKER_TIMEOUT"
LOST = 3


class Workers:
    """The workers of one training; this process is one of them.

    Parameters
    ----------
    store : KVStore or None
        One that was just made: its server must run no optimizer, and hold no other keys. None: this worker is alone,
        and has nothing to do.
    timeout : float
        Seconds that a worker waits for the others. When they pass, the process ends with exit code 3: a thread that
        waits for the server cannot be woken.

    Attributes
    ----------
    rank, count : int
        Number of this worker, and how many there are.
    """

    def __init__(self, store: Any = None, timeout: float = 600.0):
        self._store, self._timeout = store, timeout
        self.rank: int = 0 if store is None else store.rank
        self.count: int = 1 if store is None else store.num_workers
        self._keys: Dict[Any, Any] = {}

    @classmethod
    def connect(cls, kind: str = "dist_sync") -> "Workers":
        """Join the training that a launcher (`examples/train_distributed.py`) has started this process for.

        With "none" the worker is alone. The environment variable QUANTIZE_WORKER_TIMEOUT sets the timeout. Raises
        ConfigError for a process that no launcher started, and for stores that do not keep workers equal.
        """
        if kind == NONE:
            if os.environ.get(ROLE) == "worker" and os.environ.get(COUNT, "1") != "1":
                raise ConfigError(f"this process is one of {os.environ[COUNT]} workers, and with --kvstore none each "
                                  "would train a network of its own into one folder; give --kvstore dist_sync")
            return cls()
        if kind not in KINDS:
            raise ConfigError(f"kvstore {kind!r}: must be one of {', '.join((NONE,) + KINDS)}: these keep workers "
                              "equal")
        if os.environ.get(ROLE) != "worker" or not os.environ.get(COUNT, "").isdigit():
            raise ConfigError(f"kvstore {kind!r}: this process is not one of several workers; start it with: "
                              "gluon-quantize train-distributed --workers 2 -- train ... (or python "
                              "examples/train_distributed.py --workers 2 SCRIPT ...)")
        try:
            timeout = float(os.environ.get(TIMEOUT, "600"))
        except ValueError:
            raise ConfigError(f"{TIMEOUT}={os.environ[TIMEOUT]!r} is not a number of seconds") from None
        with _Patience(timeout):
            store = mx.kv.create(kind)
        # or a worker that fails would wait for the others before it ends, and they for it
        check_call(_LIB.MXKVStoreSetBarrierBeforeExit(store.handle, ctypes.c_int(0)))
        return cls(store, timeout)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, error, *_):
        """All workers end together, unless one ends with an error."""
        if error is None and self.count > 1:
            with _Patience(self._timeout):
                self._store._barrier()

    def share(self, order: Union[Sequence, np.ndarray]) -> np.ndarray:
        """The part that is this worker's of images in their order, as long as every other's.

        With the batch size divided by `count`, batches of all workers together are the batches of one.
        """
        found = np.asarray(order)
        return found[:len(found) - len(found) % self.count][self.rank::self.count]

    def batch_size(self, together: int) -> int:
        """Images of one worker's batch; ConfigError when the workers cannot share them evenly."""
        if together % self.count:
            raise ConfigError(f"a batch of {together} images cannot be shared by {self.count} workers; take a multiple "
                              f"of {self.count}")
        return together // self.count

    def broadcast(self, net: Block) -> None:
        """Every parameter, running statistics and quantizers' numbers included, becomes worker 0's."""
        if self.count == 1:
            return
        chosen = [p for p in net.collect_params().values() if p._data is not None]
        values = self.sum([p.list_data()[0] * (self.rank == 0) for p in chosen])
        for parameter, value in zip(chosen, values):
            parameter.set_data(value)

    def sum_gradients(self, parameters: Union[Block, Iterable[Parameter]]) -> None:
        """Gradients become their sums over all workers.

        Parameters
        ----------
        parameters : Block or iterable of Parameter
            Those without a gradient are left out.
        """
        if self.count == 1:
            return
        found = parameters.collect_params().values() if isinstance(parameters, Block) else parameters
        chosen = [p for p in found if p.grad_req != "null" and p._data is not None]
        own = [mx.nd.add_n(*[g.as_in_context(p.list_ctx()[0]) for g in p.list_grad()]) for p in chosen]
        for parameter, value in zip(chosen, self.sum(own)):
            for gradient in parameter.list_grad():
                value.copyto(gradient)

    def average_statistics(self, net: Block) -> None:
        """What training collects and does not train becomes its mean over the workers.

        That is BatchNorm's running statistics and the moving averages of activations' ranges; ranges that follow from
        these are set anew. Everything else is equal already; what different processors have rounded differently becomes
        worker 0's.

        Raises
        ------
        TrainingError
            Naming the first parameter that differs by more than rounding.
        """
        if self.count == 1:
            return
        mx.nd.waitall()
        chosen = _statistics(net)
        for parameter, value in zip(chosen, self.sum([p.list_data()[0] for p in chosen])):
            parameter.set_data(value / self.count)
        update_ema(net)
        before = {name: p.list_data()[0].asnumpy() for name, p in net.collect_params().items() if p._data is not None}
        self.broadcast(net)
        for name, parameter in net.collect_params().items():
            if name in before and not _near(before[name], parameter.list_data()[0].asnumpy()):
                raise TrainingError(f"{name}: worker {self.rank} has other values than worker 0; call broadcast(net) "
                                    "after whatever each worker does by itself (calibration, start values)")

    def sum(self, arrays: Sequence[mx.nd.NDArray]) -> List[mx.nd.NDArray]:
        """Sums over all workers, each of which calls this at the same point with arrays of the same shapes.

        Raises TrainingError when a server does something else than add.
        """
        if not arrays or self.count == 1:
            return list(arrays)
        count = mx.nd.ones((1,))
        sent = mx.nd.concat(*[a.as_in_context(mx.cpu()).reshape(-1) for a in arrays], count, dim=0)
        with _Patience(self._timeout):
            key = self._key(sent)
            self._store.push(key, sent)
            self._store.pull(key, out=sent)
            total = sent[-1].asscalar()
        if total != self.count:
            raise TrainingError(f"{self.count} workers sent 1 each, and the server's sum is {total}: it runs an "
                                "optimizer, or another Trainer uses it; give Trainers kvstore=None")
        ends = np.cumsum([a.size for a in arrays])
        return [sent[int(end) - a.size:int(end)].reshape(a.shape).as_in_context(a.context)
                for a, end in zip(arrays, ends)]

    def _key(self, sent):
        """One key for each length: the server holds a buffer of this shape."""
        if sent.size not in self._keys:
            self._keys[sent.size] = len(self._keys)
            self._store.init(self._keys[sent.size], mx.nd.zeros_like(sent))
        return self._keys[sent.size]


def _near(own, common) -> bool:
    return bool(np.abs(own - common).max() <= 1e-6 + 1e-3 * np.abs(common).max())


def _statistics(net) -> List[Parameter]:
    moving = {id(quantizer.ema) for _, quantizer in quantizers(net, "activation") if quantizer.mode == "ema"}
    return [p for p in net.collect_params().values() if p._data is not None
            and (id(p) in moving or p.name.endswith(("running_mean", "running_var")))]


class _Patience:
    """Context that ends the process when it lasts too long."""

    def __init__(self, seconds):
        self._timer = threading.Timer(seconds, _give_up, (seconds,))
        self._timer.daemon = True

    def __enter__(self):
        self._timer.start()

    def __exit__(self, *exception):
        self._timer.cancel()


def _give_up(seconds):
    logger.critical("the other workers have not answered for %g seconds; this one ends", seconds)
    logging.shutdown()
    os._exit(LOST)
