# SPDX-License-Identifier: MIT
"""Retrain a CNN with fake quantization, so that it gets back what rounding costs."""

import pathlib
from typing import Any, List, Optional

from gluon_quantize.commands import reporting, running
from gluon_quantize.commands.terminal import Terminal, say
from gluon_quantize.commands.train_options import PROG, Wanted, build_parser, target_of, wanted


class Shown(Terminal):
    """Prints what a training tells; the log in the output folder grows with every epoch."""

    def __init__(self, asked: Wanted):
        from gluon_quantize.report.training import step_text
        super().__init__(lambda step: step_text(step, asked.print_model))
        self._request, self._verbose, self._table = asked.request, asked.verbose, asked.table

    def tell(self, step: Any) -> None:
        """See `Silent.tell`."""
        from gluon_quantize.report.training import write_log, write_table
        from gluon_quantize.runs.train import Begun, EpochDone
        if isinstance(step, Begun) and not self._verbose:
            return
        if isinstance(step, EpochDone):
            write_log(self._request.output, self._request.settings, step.history, step.before)
            if self._table:
                write_table(self._request.output, step.history)
        super().tell(step)


def train(asked: Wanted) -> None:
    """Train, and write and print what came of it."""
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.report import curves, training
    from gluon_quantize.runs import train as runs
    request = asked.request
    if asked.page:
        reporting.require()
    result = runs.train(request, Shown(asked))
    if result is None:
        return  # the first worker reports
    training.write_result(request.output, request.settings, result)
    if asked.plots:
        curves.plot(request.output, result.history, result.before)
    say(training.result_text(result))
    say(f"written to {pathlib.Path(request.output)}")
    if asked.page:
        say("\n".join(reporting.beside(request.output, request.images)))


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run_request(build_parser(prog, target_of(prog, argv)), argv, wanted, train)
