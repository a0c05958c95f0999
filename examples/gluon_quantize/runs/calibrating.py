# SPDX-License-Identifier: MIT
"""What a run does between the float network and the quantized one."""

from calib.bias_correction import restore_biases
from calib.state import write_state
from gluon_quantize.report import text as report
from gluon_quantize.runs import calibration, simulation
from quantize.modes import unfix_params


class Run:
    """The calibration of one run of the program: what to do is in `args`, what came of it in the attributes.

    Attributes
    ----------
    outcome : calibration.Outcome or None
    history : list of int
        Top-1 counts after earlier passes.
    compared : dict
        Method -> (Predictions, thresholds, mean ratio).
    corrections : dict
        Layer -> what was added to its bias.
    """

    def __init__(self, args, task, before):
        self.args, self.task, self.before = args, task, before
        self.net = task.model.net
        self.outcome, self.history, self.compared, self.corrections = None, [], {}, {}

    def calibrate(self):
        """Get the ranges as the options say: from a table, from states, or from the images; write the files."""
        args = self.args
        if args.load_table:
            self.outcome = calibration.load_table(args.load_table, self.net)
            return
        if args.merge_states:
            state, self.outcome = calibration.merged(args, self.task)
        else:
            self._observe()
            state = calibration.state_of(args, self.task, self.outcome)
        if args.save_state:
            write_state(args.save_state, state)
            print(f"\nstate of {state.samples} images (data {state.data}) written to {args.save_state}")
        if args.calib_shard:
            return
        print("\n" + calibration.judgement_text(self.net, self.outcome), flush=True)
        if args.compare_calibrators:
            self._compare()
        if args.save_table:
            calibration.save_table(args.save_table, self.net, self.outcome)
            print(f"table written to {args.save_table}")

    def _observe(self):
        for number, is_last, outcome in calibration.passes(self.args, self.task):
            self.outcome = outcome
            if self.args.eval_per_calib and not is_last:
                after = self._evaluation()
                self.history.append(after.top1_count)
                print("after calibration {}: {}".format(number, report.accuracy_text("quantized", after)), flush=True)

    def switch_to_quantized(self):
        """From now on the network computes as the options say."""
        self.corrections = simulation.switch_to_quantized(self.args, self.task)

    def _evaluation(self):
        self.switch_to_quantized()
        after = simulation.evaluation(self.args, self.task, "quantized")
        unfix_params(self.net)
        restore_biases(self.net)
        return after

    def _compare(self):
        chosen = self.outcome
        largest = calibration.decided(self.args, self.task, chosen, "minmax").thresholds
        for method in calibration.method_names():
            outcome = calibration.decided(self.args, self.task, chosen, method)
            ratio = calibration.mean_ratio(outcome.thresholds, largest)
            self.compared[method] = (self._evaluation(), outcome.thresholds, ratio)
        print("\n" + report.comparison_text(self.compared, self.before), flush=True)
        self.outcome = calibration.decided(self.args, self.task, chosen, chosen.method)

    def evaluated(self):
        """Predictions of the quantized network; the comparison has them already."""
        if self.outcome is not None and self.outcome.method in self.compared:
            return self.compared[self.outcome.method][0]
        return simulation.evaluation(self.args, self.task, "quantized")

    def results(self, after):
        """This part of result.json."""
        return {"thresholds": {} if self.outcome is None else self.outcome.thresholds,
                "top1_count_per_calibration": self.history + [after.top1_count],
                "calibration": {} if self.outcome is None else calibration.judgement(self.net, self.outcome),
                "bias_corrections": {path: values.tolist() for path, values in self.corrections.items()},
                "comparison": report.comparison(self.compared, self.before)}
