# SPDX-License-Identifier: MIT
"""Retrain a CNN with fake quantization, so that it gets back what rounding costs."""

import pathlib
from typing import Any, List, Optional

from gluon_quantize.commands import running
from gluon_quantize.commands.terminal import Terminal
from gluon_quantize.commands.train_options import PROG, Wanted, build_parser, wanted
from gluon_quantize.report.settings import settings_text


class Shown(Terminal):
    """Prints what a training tells and shows how far it is; the log in the output folder grows with every epoch."""

    def __init__(self, asked: Wanted):
        super().__init__()
        self._asked = asked

    def tell(self, step: Any) -> None:
        """See `Terminal.tell`."""
        from gluon_quantize.runs.train import Begun, EpochDone, Opened
        if isinstance(step, Begun):
            print(settings_text(dict(sorted(step.request.settings.items()))), flush=True)
        elif isinstance(step, Opened):
            self._opened(step)
        elif isinstance(step, EpochDone):
            self._epoch(step)

    def _opened(self, opened):
        from gluon_quantize.report import training
        print("\n" + training.opened_text(opened), flush=True)
        if self._asked.print_model:
            print(opened.net)
        if opened.plan is not None:
            print(f"\nPlan\n{opened.plan}\n", flush=True)

    def _epoch(self, done):
        from gluon_quantize.report import training
        request = self._asked.request
        training.write_log(request.output, request.settings, done.history)
        print(training.epoch_text(done.record), flush=True)


def train(asked: Wanted) -> None:
    """Train, and write and print what came of it."""
    from gluon_quantize.runs import train as runs  # MXNet takes seconds to load, which --help need not wait for
    request = asked.request
    result = runs.train(request, Shown(asked))
    if result is None:
        return  # the first worker reports
    from gluon_quantize.report import training
    training.write_result(request.output, request.settings, result)
    if asked.plots:
        training.plot(request.output, result.history)
    print(training.result_text(result))
    print(f"written to {pathlib.Path(request.output)}")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run_request(build_parser(prog), argv, wanted, train)
