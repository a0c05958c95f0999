# SPDX-License-Identifier: MIT
"""The program of the scheduler and the server of a distributed training: MXNet's, but nothing is unpickled.

MXNet's own server unpickles, and so executes, whatever a worker sends it as an optimizer, and whoever reaches its port
is a worker. Workers of this project update by themselves and have the server add alone, so an optimizer is either a
stranger's or a mistake (`gluon.Trainer(kvstore="dist_sync")`): this server ends, and with it the training.

It is handed to ``python -c`` as text, so that no folder of this package comes in front of the installed libraries.
"""

import ctypes
import os
import sys


def refuse(command: int, body: bytes, _: object) -> None:
    """What is done with a command: it is not obeyed."""
    what = "an optimizer" if command == 0 else f"command {command}"
    sys.stderr.write(f"error: the server was sent {what} ({len(body or b'')} bytes), which is code that it would have "
                     "to run; it refuses, and ends. Training scripts use Workers, not gluon.Trainer(kvstore=...); if "
                     "it was none of yours, a stranger has reached this network\n")
    sys.stderr.flush()
    os._exit(1)  # the caller is MXNet's thread, which no exception passes


def serve() -> None:
    """Do what the role in the environment says, until all workers have ended."""
    role = os.environ.pop("DMLC_ROLE")  # importing MXNet would begin to serve in its own way
    import mxnet as mx
    from mxnet.base import _LIB, check_call
    os.environ["DMLC_ROLE"] = role
    store = mx.kv.create("dist")
    controller = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(refuse)
    check_call(_LIB.MXKVStoreRunServer(store.handle, controller, None))


if __name__ == "__main__":
    serve()
    sys.exit()
