# SPDX-License-Identifier: MIT
"""What holds where nothing is said, and names: the same in all commands, the earlier ones go on working."""

import json
import logging

import pytest

from gluon_quantize.commands import deploy, simulate, train_distributed, train_options
from gluon_quantize.commands.main import main, module_of
from gluon_quantize.report.accuracy import remedies
from gluon_quantize.runs.requests import CalibrationFiles, CalibrationRequest
from gluon_quantize.training.workers import Workers
from quantize.errors import ConfigError

DIGITS = ("simulate", "--model", "digits_lenet", "-j", "1", "--num-images", "20")
NEW = "gluon-quantize simulate"


@pytest.fixture
def result(tmp_path, capsys):
    """function(*arguments) -> (contents of result.json, what was printed) of `gluon-quantize`."""
    def run(*arguments):
        try:
            code = main([*arguments, "--output", str(tmp_path / "out")])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads((tmp_path / "out" / "result.json").read_text()), said.out
    return run


def test_simulate_does_what_is_recommended(result):
    found, out = result(*DIGITS)
    assert "int8/channel" in out and "int8/layer" not in out and "Thresholds by sqnr, 50 images" in out
    assert found["settings"]["quantize_input_offline"] and not found["settings"]["predecessor"]
    assert found["settings"]["merge_bn"] and set(found["bias_corrections"]) >= {"features.4", "output"}
    assert result(*DIGITS, "--bias-correction", "none")[0]["bias_corrections"] == {}
    assert result(*DIGITS, "--no-merge-bn")[0]["bias_corrections"] == {}  # auto: only where it is merged
    assert not result(*DIGITS, "--quant-type", "layer")[0]["settings"]["merge_bn"]


def test_simulate_with_a_target_is_what_deploy_makes(result):
    found, out = result(*DIGITS, "--target", "ncnn")
    assert "excluded" not in out and len(found["bias_corrections"]) == 5


def test_the_predecessors_defaults_stay(result):
    found, out = result(*DIGITS, "--predecessor")
    assert "int8/layer" in out and "each batch's own range" in out and found["thresholds"] == {}
    for parser, is_old in ((simulate.build_parser(), True), (simulate.build_parser(NEW), False),
                           (simulate.build_parser(NEW, True), True)):
        given = vars(parser.parse_args([]))
        assert (given["quant_type"], given["calib_mode"], given["quantize_input_offline"], given["predecessor"]) == (
            ("layer", "naive", False, True) if is_old else ("channel", "sqnr", True, False))
        assert "--predecessor" in parser.format_help()


@pytest.mark.parametrize("options", [("--calib-mode", "naive"), ("--calib-epoch", "2"), ("--eval-per-calib",),
                                     ("--calib-images", "20")])
def test_options_of_a_calibration_imply_one(result, options):
    found, _ = result(*DIGITS, "--predecessor", *options)
    assert found["settings"]["quantize_input_offline"] and len(found["thresholds"]) == 4


def test_online_ranges_and_a_calibration_exclude_each_other(capsys, result):
    with pytest.raises(SystemExit):
        main([*DIGITS, "--online", "--calib-mode", "kl"])
    assert "--calib-mode is about fixed input ranges; leave out --online" in capsys.readouterr().err
    assert result(*DIGITS, "--online")[0]["thresholds"] == {}


def test_correction_follows_batch_norm():
    assert [CalibrationRequest().correction(merged) for merged in (False, True)] == ["none", "parallel"]
    assert CalibrationRequest(bias_correction="sequential").correction(False) == "sequential"
    shard = CalibrationRequest(files=CalibrationFiles(shard=(1, 2), save_state="s"))
    assert shard.correction(True) == "none"


def test_settings_are_printed_on_request_and_always_written(result, caplog):
    quiet, out = result(*DIGITS)
    assert not caplog.records
    assert "Settings" not in out and quiet["settings"]["calib_mode"] == "sqnr"
    loud, out = result(*DIGITS, "-v")
    assert out.startswith("Settings\n") and "  calib_mode              sqnr\n" in out
    assert any("layers quantized" in record.message for record in caplog.records)  # what each phase has done
    assert logging.getLogger("quantize").level == logging.NOTSET
    # but for what was typed
    assert {**loud["settings"], "command_line": ""} == {**quiet["settings"], "command_line": ""}


def test_the_images_that_are_evaluated_are_counted(result):
    assert "digits_lenet on digits (20 images)" in result(*DIGITS)[1]


def test_hints_leave_out_what_is_done_already(result):
    found, out = result(*DIGITS, "--weight-bits", "1", "--input-bits", "1", "--merge-bn")
    assert "warning    the quantized network agrees" in out and "--quant-type channel" not in out
    out = result(*DIGITS, "--weight-bits", "1", "--input-bits", "1", "--quant-type", "layer", "--merge-bn")[1]
    assert "try --quant-type channel, another --calib-mode" in out
    assert remedies().startswith("--quant-type channel, --input-signed auto, ")


@pytest.mark.parametrize("old, new", [
    (("--weight-bits-width", "4", "--input-bits-width", "3"), ("--weight-bits", "4", "--input-bits", "3")),
    (("--num-calib-images", "7", "--num-calib-batches", "2"), ("--calib-images", "7", "--calib-batches", "2")),
    (("--fixed-random-seed", "3"), ("--seed", "3"))])
def test_earlier_names_go_on_working(old, new):
    parser = simulate.build_parser(NEW)
    first, second = (vars(parser.parse_args(list(words))) for words in (old, new))
    assert {**first, "asking": ()} == {**second, "asking": ()}


def test_a_training_names_a_config_entry_only_where_there_is_one(tmp_path, capsys):
    arguments = ["train", "--model", "digits_lenet", "--epochs", "1", "--num-train-images", "64", "--num-images", "20",
                 "--batch-size", "32", "--no-plots", "--output"]
    assert main([*arguments, str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "config entry" not in out and "uint8 lsq   command line" in out and "Settings" not in out
    (tmp_path / "rules.json").write_text('[{"op_names": ["output"], "exclude": true}]')
    assert main([*arguments, str(tmp_path / "b"), "--config", str(tmp_path / "rules.json"), "-v"]) == 0
    out = capsys.readouterr().out
    assert "excluded: config entry 0" in out and out.startswith("Settings\n")


def test_the_same_things_have_one_name():
    """Options that several commands have mean the same; what one command calls otherwise is an alias there."""
    parsers = {"simulate": simulate.build_parser(NEW), "deploy": deploy.build_parser("gluon-quantize deploy"),
               "train": train_options.build_parser("gluon-quantize train")}
    names = {command: {option for action in parser._actions for option in action.option_strings}
             for command, parser in parsers.items()}
    for option in ("--params", "--calib-images", "--calib-mode", "--quant-type", "--seed", "--config", "--verbose"):
        having = [command for command in names if option in names[command]]
        assert having == list(names) or (option == "--quant-type" and "deploy" not in having), option
    assert {"--weight-bits", "--input-bits"} <= names["simulate"] & names["train"]
    spelled: dict = {}
    for command in ("simulate", "search", "train", "deploy", "recheck", "report"):
        for action in module_of(command).build_parser(f"gluon-quantize {command}")._actions:
            for option in action.option_strings:  # with any of its spellings an option has all of them
                assert spelled.setdefault(option, action.option_strings) == action.option_strings, (command, option)


@pytest.mark.parametrize("script", ["train", "train_qat.py", "folder/train_digits.py"])
def test_workers_of_our_own_trainings_train_together(script):
    assert train_distributed.worker_command(script, ["--output", "o"])[-2:] == ["--kvstore", "dist_sync"]
    assert train_distributed.worker_command(script, ["--kvstore=none"])[-1] == "--kvstore=none"
    assert train_distributed.worker_command("mine.py", ["a"])[1:] == ["mine.py", "a"]


def test_workers_that_would_train_alone_are_refused(monkeypatch):
    monkeypatch.setenv("DMLC_ROLE", "worker")
    monkeypatch.setenv("DMLC_NUM_WORKER", "2")
    with pytest.raises(ConfigError, match="one of 2 workers, and with --kvstore none each would train"):
        Workers.connect("none")
    monkeypatch.setenv("DMLC_NUM_WORKER", "1")
    assert Workers.connect("none").count == 1
