# SPDX-License-Identifier: MIT
"""Calibration from the command line: every method, tables, states of shards, comparison, and bad input to them."""

import json
import re

import numpy as np
import pytest

from gluon_quantize.commands.parser import MODES
from gluon_quantize.runs.methods import method_names

DIGITS = ("--model", "digits_lenet", "-j", 1)
FEW = DIGITS + ("--num-images", 50)


@pytest.fixture
def done(cli, tmp_path):
    """function(*arguments) -> printed text of a run that went well."""
    def run(*arguments):
        code, out, err = cli(*arguments)
        assert (code, err) == (0, ""), err
        return out
    return run


@pytest.fixture
def refused(cli, tmp_path):
    """function(*arguments, says=[...]): one line with these words, exit code 2, nothing written."""
    def check(*arguments, says):
        before = sorted(tmp_path.rglob("*"))
        code, _, err = cli(*(arguments + ("--output", tmp_path / "output")))
        assert code == 2 and re.fullmatch("error: [^\n]*\n", err), err
        for words in says:
            assert str(words) in err, err
        after = [path for path in sorted(tmp_path.rglob("*")) if path.name != "output"]
        assert after == before and not list((tmp_path / "output").rglob("*"))
        if (tmp_path / "output").exists():
            (tmp_path / "output").rmdir()
    return check


# --- methods ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", MODES)
def test_every_method(done, tmp_path, mode):
    out = done(*FEW, "--quantize-input-offline", "--calib-mode", mode, "--output", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    name = "kl-ncnn" if mode == "kl" else mode
    assert result["calibration"]["method"] == name and f"Thresholds by {name}, 50 images" in out
    assert result["agreement_count"] >= 47 and len(result["thresholds"]) == 4
    assert result["calibration"]["samples"] == 50 and re.fullmatch("[0-9a-f]{16}", result["calibration"]["data"])


def test_comparison(done, tmp_path):
    out = done(*FEW, "--compare-calibrators", "--calib-mode", "mse", "--batch-size", 25, "--output", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["comparison"]) == set(method_names()) == set(MODES) - {"kl"}
    for method, row in result["comparison"].items():
        assert len(row["thresholds"]) == 4 and re.search(rf"\n{re.escape(method)} +{row['top1_count']} .*\b"
                                                         rf"{row['agreement_count']} +{row['mean_threshold_ratio']:.3f}"
                                                         r"\n", out)
    assert result["comparison"]["minmax"]["mean_threshold_ratio"] == 1
    chosen = result["comparison"]["mse"]
    assert chosen["thresholds"] == result["thresholds"] and chosen["top1_count"] == result["quantized"]["top1_count"]
    for method in ("naive", "kl-mxnet", "easyquant"):
        done(*FEW, "--quantize-input-offline", "--calib-mode", method, "--calib-epoch", 1, "--batch-size", 25,
             "--output", tmp_path)
        alone = json.loads((tmp_path / "result.json").read_text())
        assert alone["thresholds"] == result["comparison"][method]["thresholds"]
        assert alone["quantized"]["top1_count"] == result["comparison"][method]["top1_count"]


def test_stability_and_silent_channels_are_told(done, tmp_path):
    out = done(*FEW, "--quantize-input-offline", "--calib-mode", "kl", "--output", tmp_path)
    assert re.search(r"Stability between the halves: thresholds move by [\d.]+% \(median\) and [\d.]+% \(most\)", out)
    assert re.search(r"note: output.input_quantizer: \d+ channels are 0 for all calibration images", out)
    judgement = json.loads((tmp_path / "result.json").read_text())["calibration"]
    moved = {path for path, share in judgement["movement"].items() if share > 0.1}
    assert moved == set(re.findall(r"warning: (\S+) moves by", out)) and len(judgement["movement"]) == 4
    one = done(*FEW, "--quantize-input-offline", "--calib-mode", "kl", "--num-calib-images", 1)
    assert "Stability" not in one


def test_exact_methods_take_one_pass(done, tmp_path):
    for options in (("--calib-mode", "kl"), ("--calib-mode", "kl", "--calib-epoch", 1)):
        done(*FEW, "--quantize-input-offline", "--eval-per-calib", *options, "--output", tmp_path)
        assert len(json.loads((tmp_path / "result.json").read_text())["top1_count_per_calibration"]) == 1


# --- bias correction ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["parallel", "sequential"])
def test_bias_correction(done, tmp_path, method):
    options = FEW + ("--merge-bn", "--weight-bits-width", 4, "--calib-mode", "mse", "--output", tmp_path)
    done(*options, "--quantize-input-offline")
    plain = json.loads((tmp_path / "result.json").read_text())
    out = done(*options, "--bias-correction", method)
    result = json.loads((tmp_path / "result.json").read_text())
    assert plain["bias_corrections"] == {} and result["thresholds"] == plain["thresholds"]
    added = {path: np.abs(values).max() for path, values in result["bias_corrections"].items()}
    assert set(added) == {path.replace(".input_quantizer", "") for path in result["thresholds"]}
    largest = max(added, key=added.get)
    assert f"Biases of 4 layers corrected ({method}), by {added[largest]:.6g} at most, in {largest}\n" in out
    assert result["agreement_count"] >= plain["agreement_count"]
    # ranges from a table: the biases are corrected from the images again
    done(*options, "--save-table", tmp_path / "t.table")
    done(*options, "--load-table", tmp_path / "t.table", "--bias-correction", method)
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["bias_corrections"].keys() == added.keys() and again["agreement_count"] == result["agreement_count"]
    for path, values in again["bias_corrections"].items():
        np.testing.assert_allclose(values, result["bias_corrections"][path], atol=1e-5)


def test_comparison_with_bias_correction(done, tmp_path):
    options = FEW + ("--merge-bn", "--bias-correction", "sequential", "--weight-bits-width", 4, "--output", tmp_path)
    done(*options, "--compare-calibrators", "--calib-mode", "mse")
    compared = json.loads((tmp_path / "result.json").read_text())
    for method in ("mse", "kl-ncnn"):
        done(*options, "--calib-mode", method)
        alone = json.loads((tmp_path / "result.json").read_text())
        assert alone["agreement_count"] == compared["comparison"][method]["agreement_count"]
        assert method != "mse" or alone["bias_corrections"] == compared["bias_corrections"]


def test_bias_correction_needs_images(refused, done, tmp_path):
    table = tmp_path / "t.table"
    done(*FEW, "--save-table", table)
    refused(*FEW, "--load-table", table, "--bias-correction", "parallel", "--calib-data-dir", tmp_path / "absent",
            says=[tmp_path / "absent", "--calib-data-dir"])


# --- tables -------------------------------------------------------------------------------------------------------

def test_a_table_gives_the_same_result(done, tmp_path):
    table = tmp_path / "t.table"
    done(*FEW, "--calib-mode", "kl", "--save-table", table, "--output", tmp_path / "a")
    out = done(*FEW, "--load-table", table, "--output", tmp_path / "b")
    assert f"Thresholds by table {table} (kl-ncnn), 50 images" in out
    first, second = (json.loads((tmp_path / name / "result.json").read_text()) for name in "ab")
    assert first["thresholds"] == second["thresholds"]
    assert first["agreement_count"] == second["agreement_count"]
    text = table.read_text()
    table.write_text(text.replace("\nfeatures.8 ", "\n#features.8 "))
    done(*FEW, "--load-table", table, "--output", tmp_path / "b")
    second = json.loads((tmp_path / "b" / "result.json").read_text())
    assert set(first["thresholds"]) - set(second["thresholds"]) == {"features.8.input_quantizer"}


def test_tables_that_do_not_fit(refused, done, tmp_path):
    table = tmp_path / "t.table"
    done(*FEW, "--calib-mode", "minmax", "--save-table", table)
    text = table.read_text()
    refused(*FEW, "--load-table", tmp_path / "absent", says=["absent"])
    refused(*FEW, "--load-table", table, "--input-bits-width", 4, says=[table, "features.4 input", "8 bits"])
    refused(*FEW, "--load-table", table, "--exclude-first-conv", "false", says=["features.0", "no line"])
    table.write_text(text.replace("features.4", "stem.4"))
    refused(*FEW, "--load-table", table, says=["stem.4", "another network"])
    table.write_text(text[:-10])
    refused(*FEW, "--load-table", table, says=[table, "not whole"])
    table.write_text(text.replace("minmax 8", "minmax 99", 1))
    refused(*FEW, "--load-table", table, says=["line 3 column", "'99'"])


# --- states -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["kl", "mse"])
def test_shards_give_the_bytes_of_one_process(done, tmp_path, mode):
    options = DIGITS + ("--num-images", 9, "--calib-mode", mode)
    whole = ("--save-state", tmp_path / "whole.json", "--save-table", tmp_path / "whole.table")
    done(*options, "--batch-size", 64, *whole)
    for shard, size in zip((1, 2, 3, 4), (1, 64, 5, 64)):
        out = done(*options, "--batch-size", size, "--calib-shard", f"{shard}/4", "--save-state",
                   tmp_path / f"{shard}.json")
        assert "Top-1" not in out and re.search("state of 1[23] images .data [0-9a-f]{16}. written to", out)
    for number, order in enumerate(((1, 2, 3, 4), (4, 2, 3, 1))):
        out = done(*options, "--merge-states", *[tmp_path / f"{shard}.json" for shard in order],
                   "--save-state", tmp_path / "merged.json", "--save-table", tmp_path / "merged.table")
        assert "Stability between the shards" in out
        for name in ("json", "table"):
            assert (tmp_path / f"merged.{name}").read_bytes() == (tmp_path / f"whole.{name}"
                                                                          ).read_bytes(), (number, name)


@pytest.mark.parametrize("recorded", ["sqnr", "kl", "minmax"])
def test_states_serve_every_method_but_moving_averages(done, tmp_path, recorded):
    """Whatever method they were recorded with, as one run would decide."""
    for number in (1, 2):
        done(*FEW, "--calib-mode", recorded, "--calib-shard", f"{number}/2", "--save-state", tmp_path / f"{number}")
    for mode in ("minmax", "mse", "aciq", "percentile:99.9", "kl-mxnet"):
        done(*FEW, "--calib-mode", mode, "--merge-states", tmp_path / "1", tmp_path / "2", "--output", tmp_path / "a")
        done(*FEW, "--calib-mode", mode, "--output", tmp_path / "b")
        merged, alone = (json.loads((tmp_path / name / "result.json").read_text())["thresholds"] for name in "ab")
        assert merged == alone and len(merged) == 4


@pytest.fixture
def shards(done, tmp_path):
    """Two states of two shards."""
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, path in enumerate(paths, 1):
        done(*FEW, "--calib-mode", "kl", "--calib-shard", f"{number}/2", "--save-state", path)
    return paths


def test_states_that_do_not_fit(refused, done, shards, tmp_path):
    merge = FEW + ("--calib-mode", "kl", "--merge-states")
    other = tmp_path / "other.json"
    refused(*merge, shards[0], says=["of 2 shards these are missing: 2"])
    refused(*merge, shards[0], shards[0], says=["both hold shard 1/2"])
    refused(*merge, tmp_path / "absent", says=["absent", "cannot be read"])
    refused(*FEW, "--calib-mode", "naive", "--merge-states", *shards, says=["needs the observer ema"])
    refused(*merge, *shards, "--input-bits-width", 4, says=["1.json", "another network"])
    for options, says in ((("--num-sample", 2), ["calibration set"]), (("--calib-values", 9), ["values per image"])):
        done(*FEW, "--calib-mode", "kl", "--calib-shard", "2/2", "--save-state", other, *options)
        refused(*merge, shards[0], other, says=["other.json"] + says)
    done(*FEW, "--calib-mode", "naive", "--calib-shard", "2/2", "--save-state", other)
    refused(*merge, shards[0], other, says=["other.json", "only states of one calibration"])
    other.write_bytes(shards[1].read_bytes()[:5000])
    refused(*merge, shards[0], other, says=["other.json", "not a whole calibration state"])


def test_a_merged_moving_average_is_the_sum_of_the_shards(done, tmp_path):
    for number in (1, 2):
        done(*FEW, "--calib-shard", f"{number}/2", "--save-state", tmp_path / f"{number}")
    out = done(*FEW, "--merge-states", tmp_path / "2", tmp_path / "1", "--calib-data-dir", "not-needed")
    assert "Thresholds by naive, 50 images" in out


# --- options ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, says", [
    (("--calib-shard", "0/4"), ["--calib-shard", "'0/4'", "i/n"]), (("--calib-shard", "5/4"), ["'5/4'"]),
    (("--calib-shard", "two"), ["'two'"]), (("--calib-shard", "1/2"), ["needs --save-state"]),
    (("--calib-shard", "1/2", "--save-state", "s", "--save-table", "t"), ["only observes"]),
    (("--calib-shard", "1/2", "--save-state", "s", "--bias-correction", "parallel"), ["--bias-correction"]),
    (("--bias-correction", "full"), ["--bias-correction", "'full'", "sequential"]),
    (("--load-table", "t", "--merge-states", "s"), ["exclude each other"]),
    (("--load-table", "t", "--save-table", "u"), ["--load-table calibrates nothing"]),
    (("--calib-shard", "51/51", "--save-state", "s"), ["--calib-shard 51/51", "fewer shards"]),
    (("--calib-values", "-1"), ["--calib-values"]), (("--num-calib-images", 0), ["--num-calib-images"])])
def test_options_that_make_no_sense(refused, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    refused(*FEW, *options, says=says)


@pytest.mark.parametrize("option", ["--save-table", "--save-state"])
def test_files_that_cannot_be_written_are_told_at_once(refused, tmp_path, option):
    refused(*FEW, option, tmp_path / "absent" / "file", says=["absent", "does not exist"])
    refused(*FEW, option, tmp_path, says=["is a folder"])


def test_never_active_inputs_and_dead_channels(done, tmp_path):
    import mxnet as mx

    from gluon_quantize.models.loading import EMBEDDED_PARAMS
    arrays = mx.nd.load(str(EMBEDDED_PARAMS))
    arrays["features.4.weight"][3] = 0
    arrays = {name: array * 0 if name.startswith("features.0.") else array for name, array in arrays.items()}
    for name in ("features.1.beta", "features.1.running_mean"):
        arrays[name] = arrays[name] * 0
    mx.nd.save(str(tmp_path / "p"), arrays)
    out = done(*FEW, "--params", tmp_path / "p", "--quantize-input-offline", "--calib-mode", "kl")
    assert "warning: features.4.input_quantizer: 0 for all calibration images" in out
    assert "warning: features.4: all weights of 1 output channels are 0" in out
    assert np.isfinite([float(text) for text in re.findall(r"_quantizer +([\d.]+)\n", out)]).all()


def test_a_collapse_is_said_in_words(cli):
    """One bit for every operand of the digits network leaves little of it; eight bits lose nothing."""
    bits = ("--model", "digits_lenet", "--exclude-first-conv", "false", "--weight-bits-width")
    bad = cli(*bits, 1, "--input-bits-width", 1)
    assert bad.code == 0 and "warning    the quantized network agrees with the float one on less than 75%" in bad.out
    assert "warning" not in cli(*bits, 8).out
