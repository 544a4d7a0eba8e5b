"""The floor of a step by hand, and the table from one small case to the report. Times are never asserted."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import rates, report, step, table
from benchmarks.floor import Work, count
from benchmarks.rates import Rates
from benchmarks.step import BACKBONES, Case, compose_case, parse_case
from recsys_collapse.config import config_dir
from recsys_collapse.cost import cost, outline
from recsys_collapse.model.dnn import DNN

CPU = torch.device("cpu")
MADE_UP = Rates({"32-true": 8.0, "bf16-mixed": 16.0}, [(100, 50.0), (1000, 10.0), (10_000, 20.0)], 5.0)
X_BN = torch.tensor([[0, 0], [0, 1], [1, 1], [0, 4]], dtype=torch.int32)  # 2 + 3 different ids of 8


def tiny() -> DNN:
    with torch.device("meta"):
        return DNN([3, 5], num_sets=2, embed_size=2, hidden_sizes=[4, 3])


def test_the_work_of_a_tiny_model_by_hand() -> None:
    """N=2 fields, M=2, K=2, batch 4. Columns: operations, bytes moved, bytes of rows at random places."""
    found = count(tiny(), X_BN)
    e, gradient = 8 * 4 * 4, 5 * 4 * 4
    assert [work[1:] for work in found.forward] == [
        (0, 3 * 4 * 4, e, 5 * 4 * 8),  # rows of 4 columns: 5 gathered, 3 only written
        (2 * 4 * 2 * 4 * 4, 128 + 4 * 40 + 128, 416, 0),  # two of 4 -> 4
        (0, 128 + 4 * 16 + 128, 320, 0),
        (2 * 4 * 4 * 3, 64 + 4 * 15 + 48, 172, 0),  # shared: 4 -> 3
        (0, 48 + 4 * 6 + 48, 120, 0),
        (2 * 4 * 3, 48 + 4 * 4 + 16, 80, 0),
    ]
    assert [work[1:] for work in found.backward] == [
        (0, e + gradient, e + gradient, 0),
        (512, 128 + 2 * (128 + 160), 704, 0),
        (0, 128 + 2 * (128 + 64), 512, 0),
        (192, 48 + 2 * (64 + 60), 296, 0),
        (0, 48 + 2 * (48 + 24), 192, 0),
        (48, 16 + 2 * (48 + 16), 144, 0),
    ]
    weights, dense = 8 * 4, 40 + 16 + 15 + 6 + 4
    (adam,) = found.optimizer
    assert adam.moved == 24 * weights + 4 * 5 * 4 + 28 * dense
    assert adam.held == 12 * weights + 4 * 5 * 4 + 16 * dense


def test_mixed_precision_halves_activations_only() -> None:
    found = count(tiny(), X_BN, "bf16-mixed")
    assert found.forward[0][1:] == (0, 3 * 4 * 2, 8 * 4 * 2, 5 * 4 * 6)
    assert found.forward[1].moved == 64 + 160 + 64
    assert found.optimizer == count(tiny(), X_BN).optimizer
    with pytest.raises(ValueError, match=r"^precision=16-mixed: expected one of 32-true, bf16-mixed$"):
        count(tiny(), X_BN, "16-mixed")


def test_a_piece_takes_the_longer_of_operations_and_memory() -> None:
    assert Work("", 80, moved=100, held=100).seconds(MADE_UP, "32-true") == 10
    assert Work("", 80, moved=100, held=100).seconds(MADE_UP, "bf16-mixed") == 5
    assert Work("", 8, moved=100, held=100, row_bytes=20).seconds(MADE_UP, "32-true") == 100 / 50 + 20 / 5
    floors = count(tiny(), X_BN).seconds(MADE_UP, "32-true")
    assert floors["optimizer"] == 3116 / 20
    # All but the lookup and the first layer's backward hold fewer than 1000 bytes and are as fast as 100.
    assert floors["forward"] == pytest.approx(48 / 50 + 160 / 5 + 256 / 8 + 320 / 50 + 96 / 8 + 120 / 50 + 24 / 8)


def test_a_working_set_gets_the_rate_of_a_smaller_one_or_of_a_larger_that_was_faster() -> None:
    held = {1: 50, 100: 50, 999: 50, 1000: 20, 9999: 20, 10_000: 20, 10**9: 20}
    assert {size: MADE_UP.bytes_per_second(size) for size in held} == held


def test_the_best_of_two_measurements() -> None:
    other = Rates({"32-true": 9.0, "bf16-mixed": 1.0}, [(100, 1.0), (1000, 11.0), (10_000, 1.0)], 6.0)
    best = Rates({"32-true": 9.0, "bf16-mixed": 16.0}, [(100, 50.0), (1000, 11.0), (10_000, 20.0)], 6.0)
    assert MADE_UP.best(other) == other.best(MADE_UP) == best


@pytest.mark.parametrize("embed", ["se", "me"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_operation_of_a_backbone_is_lost_or_counted_twice(backbone: str, embed: str) -> None:
    config = compose_case(Case(backbone, embed, 3))
    found = count(outline(config, [3, 5]), X_BN)
    assert sum(work.operations for work in found.forward) == 4 * cost(config, [3, 5])["flops_per_sample"]
    assert sum(work.operations for work in found.backward) == 8 * cost(config, [3, 5])["flops_per_sample"]


def test_a_rate_is_work_over_the_fastest_try(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([3.0, 4.0, 2.0, 5.0, 6.0, 7.0] * 20)
    monkeypatch.setattr(rates, "laps", lambda parts, device: [next(tries)])
    monkeypatch.setattr(rates, "PRODUCTS", ((1, 4, 5, 6), (3, 4, 5, 6)))
    monkeypatch.setattr(rates, "WORKING_SETS", (4096, 2 * rates.MEGA))
    found = rates.measure(10, 3, CPU, ["32-true"])
    calls = 64 * 256, 32
    assert found == Rates(
        {"32-true": 2 * 3 * 4 * 5 * 6 / 2},
        [(4096, 2 * 4096 * calls[0] / 2), (2 * rates.MEGA, 2 * 2 * rates.MEGA * calls[1] / 2)],
        2 * rates.ROWS * 3 * 4 / 2,
    )


def test_laps_are_the_calls_in_their_order() -> None:
    called: list[int] = []
    found = rates.laps([lambda: called.append(0), lambda: called.append(1)], CPU)
    assert called == [0, 1] and len(found) == 2 and min(found) >= 0


@pytest.mark.parametrize("text", ["dcnv2", "dcnv2:4", "dcnv2:me:0", "dcnv2:xe:4", "ffm:se:1", "dnn:se:1:1", "dnn:me:x"])
def test_other_words_for_a_case_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}': expected <backbone>:<se or me>:<scale>, e.g."):
        parse_case(text)


def test_one_embedding_set_has_one_name() -> None:
    assert parse_case("dcnv2:me:4") == ("dcnv2", "me", 4) and str(Case("dnn", "se", 1)) == "dnn:se:1"
    with pytest.raises(argparse.ArgumentTypeError, match=r"say dnn:se:1$"):
        parse_case("dnn:me:1")
    assert all(parse_case(str(case)) == case for case in table.CASES)
    assert {case.backbone for case in table.CASES} | {"ffm", "fm"} == {
        path.stem for path in (config_dir() / "model").glob("*.yaml")
    }


def in_this_process(case: Case, options: argparse.Namespace, *words: str) -> Any:
    """As `table.run`, which starts another."""
    return 0.5 if words else step.measure_case(case, options)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred rows, rates that are made up, and no other process."""
    monkeypatch.setattr(step, "log_spaced_cardinalities", lambda: [3, 200, 50])
    monkeypatch.setattr(step, "BATCH", 32)
    monkeypatch.setattr(step, "measure", lambda *shape: MADE_UP)
    monkeypatch.setattr(table, "run", in_this_process)


@pytest.mark.usefixtures("small")
def test_every_step_is_taken_on_a_new_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    weight = torch.nn.Parameter(torch.zeros(()))

    class Model(torch.nn.Module):
        def forward(self, x_BN: torch.Tensor) -> torch.Tensor:
            seen.append(x_BN)
            return weight.expand(len(x_BN))

    take = step.timed_step(step.Side(Model(), torch.optim.SGD([weight], lr=1.0)), [3, 200, 50], CPU)
    assert len(take()) == len(take()) == 3
    assert seen[0].shape == seen[1].shape == (32, 3) and not torch.equal(*seen)
    assert weight.item() != 0 and weight.grad is None


@pytest.mark.usefixtures("small")
def test_from_one_case_to_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    for name, words in (("cpu", []), ("bf16", ["--precision", "bf16-mixed", "--same-adam"])):
        cases = ["--case", "dnn:se:1", "--case", "dnn:me:2"]
        table.main([*cases, "--repeats", "3", "--json", str(results / f"step-{name}.json"), *words])
    written = json.loads((results / "step-cpu.json").read_text())
    se, me = written["cases"]
    assert (se["num_sets"], me["num_sets"], "loop" in se, me["loop"]["peak_gb"]) == (1, 2, False, 0.5)
    assert written["device"] == "cpu" and written["machine"]["torch"] == torch.__version__
    for record in (se, me):
        assert record["step"]["floor_ms"] == pytest.approx(sum(record[phase]["floor_ms"] for phase in step.PHASES))
        assert all(record[phase]["low"] <= record[phase]["ms"] <= record[phase]["high"] for phase in step.PHASES)
        assert record["step"]["ms"] > max(record[phase]["ms"] for phase in step.PHASES)
    peer = {"backbone": "dnn", "scale": 1, "library": "Other", "trained": "equal", "ratio": 0.5}
    (results / "peers.json").write_text(json.dumps({"cases": [peer]}))
    (tmp_path / "RESULTS.md").write_text("# Mine\n\nSaid by hand.\n")
    for _ in range(2):  # the second replaces what the first wrote
        assert report.main(["--folder", str(tmp_path)]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith("# Mine\n\nSaid by hand.\n\n") and text.count("\n## ") == 2
    (line,) = [line for line in text.splitlines() if "Other" in line]
    assert line.startswith("| dnn:se:1 |") and line.endswith("| Other (equal) 2.00 |")
    assert "![ms per step against scale](results/step-cpu.png)" in text
    assert (results / "step-cpu.png").stat().st_size > 1000 and (results / "step-bf16.png").is_file()


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--folder", str(tmp_path)]) == 1
    assert "run python -m benchmarks.table --json FILE first" in capsys.readouterr().err


def test_a_lost_mark_is_not_guessed() -> None:
    for text in (report.BEGIN, report.END, f"{report.END}\n{report.BEGIN}", report.BEGIN * 2 + report.END):
        with pytest.raises(ValueError, match=r"^RESULTS\.md: expected one line"):
            report.insert(text, "section")


def record(case: str, ms: float, fraction: float = 0.7, speedup: float | None = None, peak_gb: float = 1.0) -> Any:
    loop = {} if speedup is None else {"loop": {"speedup": speedup, "peak_gb": 1.5}}
    return {**parse_case(case)._asdict(), "step": {"ms": ms, "fraction": fraction}, "peak_gb": peak_gb, **loop}


def test_what_is_missed() -> None:
    good = [record("dcnv2:se:10", 100), record("dcnv2:me:10", 30, speedup=2.1), record("dnn:me:4", 9, speedup=1.95)]
    assert table.missed(good, "32-true") == []
    assert table.missed(good, "bf16-mixed") == ["2.02 times the loop's speed in the geometric mean, 3.5 is wanted"]
    bad = [
        record("dcnv2:se:10", 100, fraction=0.5),
        record("dcnv2:me:10", 40, speedup=9),
        record("dnn:me:4", 9, speedup=1.05, peak_gb=1.6),
    ]
    assert table.missed(bad, "32-true") == [
        "dcnv2:se:10: the floor is 50% of the step, 60% is wanted",
        "dnn:me:4 is 1.05 times as fast as the loop, 1.1 is wanted",
        "dnn:me:4 peaks at 1.60 GB, the loop at 1.50 GB",
        "dcnv2:me:10 takes 0.40 of the time of dcnv2:se:10, at most 0.33 is wanted",
    ]


@pytest.mark.gpu
@pytest.mark.usefixtures("small")
def test_a_case_on_cuda() -> None:
    options = argparse.Namespace(device=torch.device("cuda"), precision="32-true", repeats=2, same_adam=False)
    found = step.measure_case(Case("dnn", "me", 2), options)
    assert found["peak_gb"] > 0 and all(found[phase]["ms"] > 0 for phase in step.PHASES)
