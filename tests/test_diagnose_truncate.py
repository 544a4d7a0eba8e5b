"""Functional collapse: truncated tables by numpy's SVD, planted models whose answer is known, and what is refused."""

import copy
import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from recsys_collapse.dataset.store import Store
from recsys_collapse.diagnose.fields import FieldTable
from recsys_collapse.diagnose.truncation import of_function, of_run
from recsys_collapse.diagnose.truncation.curves import Curve, Point, Truncation, enough
from recsys_collapse.diagnose.truncation.of_function import load_score, truncate_tables, truncated
from recsys_collapse.diagnose.truncation.of_run import sampled, truncate_run
from recsys_collapse.diagnose.truncation.truncate import Directions, placed, ranks_of
from recsys_collapse.load import LoadedRun, load_run
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.model.fm import FM
from recsys_collapse.scoring import Scorer
from recsys_collapse.stats import delong
from tests.predicting import clicks_run

CARDINALITIES = [3, 40, 17]  # of the first, fewer rows than columns
ROWS = 400


def made_up(backbone: Backbone, **trainer: Any) -> LoadedRun:
    """A run with spread-out random weights, on random ids whose label depends on the second field."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.copy_(
                torch.randn(weight.shape, generator=generator) / (1 + math.sqrt(weight.shape[-1] if weight.ndim else 0))
            )
        for table in backbone.tables():
            table.weight.copy_(torch.randn(table.weight.shape, generator=generator))
            table.weight *= 2.0 ** -torch.arange(table.weight.shape[1]).roll(1)
    draws = [torch.randint(size, (2 * ROWS,), generator=generator) for size in CARDINALITIES]
    ids = torch.stack(draws, dim=1).int()
    labels = ((ids[:, 1] % 3 == 0) ^ (torch.rand(2 * ROWS, generator=generator) < 0.3)).byte()
    order = torch.randperm(2 * ROWS, generator=generator).int()
    splits = {"train": order[:0], "valid": order[:ROWS], "test": order[ROWS:]}
    store = Store(Path("store"), "", ["day", "item", "site"], CARDINALITIES, ids, labels, splits)
    config = OmegaConf.create({"trainer": {"precision": "32-true", "eval_batch_size": 128} | trainer})
    return LoadedRun(Path("run"), config, {}, store, backbone.eval())


def dcnv2(num_sets: int, embed_size: int) -> Backbone:
    options: dict[str, Any] = {"num_cross_layers": 2, "hidden_sizes": [8, 8], "dropout": 0.2}
    return DCNv2(CARDINALITIES, num_sets, embed_size, **options)


MODELS: dict[str, Callable[[], Backbone]] = {
    "SE": lambda: dcnv2(1, 8),
    "ME": lambda: dcnv2(2, 5),
    "first order": lambda: FM(CARDINALITIES, 1, 8, first_order=True),
}


@pytest.fixture(params=MODELS)
def run(request: pytest.FixtureRequest) -> LoadedRun:
    return made_up(MODELS[request.param]())


def svd_truncated(e_DC: np.ndarray, rank: int) -> np.ndarray:
    u, sigma, vt = np.linalg.svd(e_DC, full_matrices=False)
    return (u[:, :rank] * sigma[:rank]) @ vt[:rank]


def slow_auc(run: LoadedRun, ranks: Mapping[str, int], num_parts: int = 1) -> float:
    """With tables that are really truncated: whole (one part), or set by set."""
    model = copy.deepcopy(run.backbone)
    with torch.no_grad():
        for field, rank in ranks.items():
            rows = model.embedding.field_slices[run.store.fields.index(field)]
            parts = np.split(model.embedding.weight[rows].double().numpy(), num_parts, axis=1)
            replaced = np.concatenate([svd_truncated(part, rank) for part in parts], axis=1)
            model.embedding.weight[rows] = torch.from_numpy(replaced).float()
        row_n = run.store.splits["valid"]
        return float(roc_auc_score(run.store.labels[row_n], model(run.store.ids[row_n])))


def test_every_point_is_that_of_tables_truncated_by_svd(run: LoadedRun) -> None:
    embedding, names = run.backbone.embedding, run.store.fields
    before = copy.deepcopy(run.backbone.state_dict())
    found = truncate_run(run, "it")
    sets = [("each set", None)] if embedding.num_sets > 1 else []
    expected = [("all fields", None), *sets, *(("field", name) for name in names)]
    assert [(curve.curve, curve.field) for curve in found.curves] == expected
    for curve in found.curves:
        num_parts = embedding.num_sets if curve.curve == "each set" else 1
        columns = embedding.weight.shape[1] // num_parts
        assert [point.rank for point in curve.points] == [r for r in (0, 1, 2, 4, 8) if r < columns] + [columns]
        for point in curve.points:
            slow = slow_auc(run, dict.fromkeys([curve.field] if curve.field else names, point.rank), num_parts)
            assert point.auc == pytest.approx(slow, abs=3e-5)  # a pair of rows is 2.6e-5
            assert point.change == pytest.approx(point.auc - found.auc, abs=1e-15)
            assert point.low is not None and point.high is not None and point.low <= point.change <= point.high
        assert curve.points[-1].auc == found.auc and curve.points[-1].change == 0
    assert len({point.auc for point in found.curves[0].points}) > 3  # it is a curve
    assert all(torch.equal(value, before[name]) for name, value in run.backbone.state_dict().items())
    assert not embedding._forward_hooks


def test_all_fields_at_the_ranks_that_they_need_alone_are_cut_at_once(run: LoadedRun) -> None:
    found = truncate_run(run, "it", tolerance=0.02)
    together = found.together
    assert together is not None
    assert together.ranks == {curve.field: curve.needed for curve in found.curves if curve.field}
    assert min(together.ranks.values()) < 8
    assert together.auc == pytest.approx(slow_auc(run, together.ranks), abs=3e-5)
    assert together.change == pytest.approx(together.auc - found.auc, abs=1e-15)
    assert together.low < together.change < together.high
    some = truncate_run(run, "it", ranks=[1], alone=["item"])
    assert some.together is None
    assert [curve.field for curve in some.curves if curve.curve == "field"] == ["item"]
    with pytest.raises(ValueError, match="no field shop; expected some of day, item, site"):
        truncate_run(run, "it", alone=["shop"])


def test_the_whole_model_is_the_plain_one_to_the_last_bit(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    row_n, seen = run.store.splits["valid"], []
    with torch.inference_mode():
        plain_n = torch.cat([run.backbone(x) for x in run.store.ids[row_n].split(128)])
    logits = Scorer.logits
    monkeypatch.setattr(Scorer, "logits", lambda self, ids: seen.append(logits(self, ids)) or seen[-1])
    found = truncate_run(run, "it", ranks=[2, 100])
    assert torch.equal(torch.cat(seen[:4]), plain_n) and not torch.equal(torch.cat(seen[4:8]), plain_n)
    assert found.auc == pytest.approx(roc_auc_score(run.store.labels[row_n], plain_n), abs=1e-14)
    assert {(curve.points[-1].auc, curve.points[-1].change) for curve in found.curves} == {(found.auc, 0.0)}
    assert torch.equal(run.backbone(run.store.ids[row_n[:128]]), plain_n[:128])


def test_a_field_has_its_full_rank_with_as_many_directions_as_rows() -> None:
    day = truncate_run(made_up(dcnv2(1, 8)), "it").curves[1]
    assert day.field == "day" and [point.change == 0 for point in day.points] == [False, False, False, True, True]


def test_intervals_are_delongs(run: LoadedRun) -> None:
    logits = []

    def score(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits.append(scored_by(run)(tensors)[0])
        return logits[-1], run.store.labels[run.store.splits["valid"]]

    point = truncate_tables(tables_of(run), run.backbone.state_dict(), score, "it", ranks=[1]).curves[0].points[0]
    expected = delong(logits[1], logits[0], run.store.labels[run.store.splits["valid"]])
    assert (point.change, point.low, point.high) == (expected.estimate, expected.low, expected.high)


@pytest.mark.parametrize("num_sets", [1, 3])
def test_projections_keep_the_energy_of_the_leading_singular_values(num_sets: int) -> None:
    e_DC = torch.randn(50, 6, dtype=torch.float64) * torch.tensor([1, 5, 0.1, 3, 2, 0.5])
    field = Directions("it", e_DC.T @ e_DC, 50, num_sets)
    kept = [torch.linalg.norm(e_DC @ field.projection(rank, False)).item() ** 2 for rank in range(6)]
    assert kept == pytest.approx([0, *np.cumsum(np.linalg.svd(e_DC, compute_uv=False) ** 2)[:5]])
    p_CC = field.projection(1, True)
    assert torch.allclose(p_CC @ p_CC, p_CC) and torch.linalg.matrix_rank(p_CC) == num_sets
    expected = np.concatenate([svd_truncated(part, 1) for part in np.split(e_DC.numpy(), num_sets, 1)], 1)
    np.testing.assert_allclose(e_DC @ p_CC, expected, atol=1e-12)


def planted(important: int, generator: torch.Generator) -> Truncation:
    """One table; its first direction has nearly all energy, and the label hangs on direction `important` alone."""
    v_CC = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    u_DC = torch.randn(3000, 6, generator=generator)
    table_DC = (u_DC * torch.tensor([100.0, 5, 4, 3, 2, 1])) @ v_CC.T
    label_n = u_DC[:, important] > 0.3

    def score(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return tensors["table"] @ v_CC[:, important], label_n

    return truncate_tables([FieldTable("it", [("table", slice(0, 3000))], 1)], {"table": table_DC}, score, "planted")


def test_one_direction_is_enough_where_the_label_hangs_on_the_leading_one() -> None:
    all_fields = planted(0, torch.Generator().manual_seed(1)).curves[0]
    assert [point.auc for point in all_fields.points] == pytest.approx([0.5, 1, 1, 1, 1], abs=1e-3)
    assert all_fields.needed == 1


def test_a_direction_without_energy_can_hold_all_that_matters() -> None:
    """The spectrum is that of the test above: it alone does not say which directions the model needs."""
    all_fields = planted(5, torch.Generator().manual_seed(1)).curves[0]
    chance = 4 / math.sqrt(12 * 0.38 * 0.62 * 3000)  # 4 standard errors of an AUC by chance
    assert [point.auc for point in all_fields.points] == pytest.approx([0.5, 0.5, 0.5, 0.5, 1], abs=chance)
    assert all_fields.needed == 6
    assert all_fields.points[1].high is not None and all_fields.points[1].high < -0.4


def tables_of(run: LoadedRun) -> list[FieldTable]:
    embedding = run.backbone.embedding
    return [
        FieldTable(name, [("embedding.weight", rows)], embedding.num_sets)
        for name, rows in zip(run.store.fields, embedding.field_slices, strict=True)
    ]


def scored_by(run: LoadedRun) -> Callable[[dict[str, Tensor]], tuple[Any, Any]]:
    """The user's function, for tensors of the backbone's own names, or those of its sets."""

    def score(tensors: dict[str, Tensor]) -> tuple[Any, Any]:
        model = copy.deepcopy(run.backbone)
        sets = [tensors[name] for name in sorted(tensors) if name.startswith("set")]
        model.load_state_dict({"embedding.weight": torch.cat(sets, 1)} if sets else tensors, strict=False)
        row_n = run.store.splits["valid"]
        logit_n = torch.cat([model(x) for x in run.store.ids[row_n].split(128)])  # as the run is scored
        return logit_n, run.store.labels[row_n]

    return score


def test_a_users_function_sees_the_same_tables_as_a_run(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_function, "BLOCK_ROWS", 7)
    own = replace(truncate_run(run, "it"), split=None)
    assert truncate_tables(tables_of(run), run.backbone.state_dict(), scored_by(run), "it") == own
    num_sets = run.backbone.embedding.num_sets
    sets = dict(zip(["set0", "set1"], run.backbone.embedding.weight.detach().chunk(num_sets, 1), strict=False))
    split = [FieldTable(table.name, [(name, table.parts[0][1]) for name in sets], num_sets) for table in tables_of(run)]
    assert truncate_tables(split, sets, scored_by(run), "it") == own


def test_only_the_tensors_concerned_are_copied() -> None:
    tables = [FieldTable("a", [("x", slice(0, 4)), ("y", slice(3, 7))], 2), FieldTable("b", [("z", slice(0, 9))], 1)]
    tensors = {name: torch.randn(9, 2).to(torch.bfloat16) for name in "xyz"}
    before = copy.deepcopy(tensors)
    found = truncated(tables, tensors, {"a": torch.zeros(4, 4, dtype=torch.float64)})
    assert found["z"] is tensors["z"] and {value.dtype for value in found.values()} == {torch.bfloat16}
    assert not found["x"][:4].any() and torch.equal(found["x"][4:], before["x"][4:])
    assert not found["y"][3:7].any() and torch.equal(found["y"][:3], before["y"][:3])
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())


def test_a_run_from_its_directory(tmp_path: Path) -> None:
    found = load_run(clicks_run(tmp_path, "embed=me", "scale=2", "save_scores=false"))
    valid = truncate_run(found, "epoch 0", split="valid")
    assert valid.auc == pytest.approx(found.result["val_auc"], abs=1e-12)
    assert truncate_run(found, "epoch 0", split="test", ranks=[0]).auc == pytest.approx(found.result["test_auc"])
    entry = json.loads(json.dumps(asdict(valid), allow_nan=False))
    assert [*entry] == ["label", "split", "rows", "auc", "tolerance", "curves", "together"]
    assert (entry["label"], entry["split"], entry["rows"]) == ("epoch 0", "valid", len(found.store.splits["valid"]))
    assert {tuple(curve) for curve in entry["curves"]} == {("curve", "field", "points", "needed", "certain")}
    assert {tuple(point) for curve in entry["curves"] for point in curve["points"]} == {
        ("rank", "auc", "change", "low", "high")
    }


def test_rows_are_taken_evenly() -> None:
    store = made_up(dcnv2(1, 8)).store
    id_nN, label_n = sampled(store, "test", 100)
    assert np.array_equal(id_nN, store.ids[store.splits["test"][::4]]) and len(label_n) == 100
    assert len(sampled(store, "valid", 10**6)[0]) == ROWS


def test_the_model_is_asked_once_for_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    logits = Scorer.logits
    monkeypatch.setattr(Scorer, "logits", lambda self, ids: calls.append(len(ids)) or logits(self, ids))
    truncate_run(made_up(dcnv2(1, 8)), "it", rows=128)
    assert calls == [128] * (1 + 4 + 3 + 4 + 4 + 1)  # the last of 5 points is the whole; 3 rows: rank 3; all at once


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_in_every_precision(precision: str) -> None:
    whole, same = (truncate_run(made_up(dcnv2(2, 5), precision=precision), "it", ranks=[r]).curves[0] for r in (0, 9))
    assert whole.points[0].auc == 0.5 and abs(same.points[0].change) < 0.01  # the tenth direction is next to nothing


def test_ctrl_c_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up(dcnv2(1, 8))
    monkeypatch.setattr(Scorer, "logits", lambda self, ids: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        truncate_run(found, "it")
    assert not found.backbone.embedding._forward_hooks


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_if_a_person_watches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    truncate_run(made_up(dcnv2(1, 8)), "it", ranks=[1])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stdout", Terminal())
    truncate_run(made_up(dcnv2(1, 8)), "it", ranks=[1])
    assert "truncating" in sys.stdout.getvalue() and "100%" in sys.stdout.getvalue()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_that_are_one_up_to_rounding_are_ties(kind: torch.dtype) -> None:
    eps = min(torch.finfo(kind).eps, torch.finfo(torch.float32).eps)
    label_n = np.array([0, 1, 0, 1])
    for steps, auc in {1: 0.5, 100: 1.0 if kind != torch.bfloat16 else 0.5}.items():
        score_n = (-4 + 8 * steps * eps * torch.from_numpy(label_n).double()).to(kind)
        assert placed(score_n, label_n, "it").auc == auc
    assert placed(torch.tensor([0, 1e-30, 0, 1e-30]).to(kind), label_n, "it").auc == 1


def test_ranks() -> None:
    assert ranks_of(10, None) == [0, 1, 2, 4, 8, 10] and ranks_of(8, None) == [0, 1, 2, 4, 8]
    assert ranks_of(1, None) == [0, 1]
    assert ranks_of(10, [20, 3, 3]) == [3, 10] and ranks_of(10, [5]) == [5, 10]


def test_needed_is_where_the_loss_stays_small() -> None:
    def of(*changes: float, half: float | None = 0.005) -> tuple[int, int]:
        lows = [None if half is None else change - half for change in changes[:-1]] + [0.0]
        return enough([Point(i, 0.7, change, lows[i], None) for i, change in enumerate(changes)], 0.01)

    assert of(-0.2, -0.01, -0.05, -0.01, 0.02, 0) == (3, 4)  # that at rank 1 does not last
    assert of(-0.2, -0.02, 0) == (2, 2) and of(0.1, 0) == (0, 0)
    assert of(-0.2, -0.005, -0.004, 0) == (1, 1) and of(-0.2, -0.006, -0.004, 0) == (1, 2)
    assert of(-0.2, -0.001, 0, half=None) == (1, 2)  # without an interval nothing is certain but the whole


def test_no_interval_with_a_single_row_of_a_class() -> None:
    table = FieldTable("it", [("x", slice(0, 4))], 1)
    found = truncate_tables([table], {"x": torch.randn(4, 2)}, lambda t: (t["x"][:, 0], [0, 0, 1, 0]), "it")
    assert {(point.low, point.high) for curve in found.curves for point in curve.points} == {(None, None)}


ONE = [FieldTable("it", [("x", slice(0, 4))], 1)]
X = torch.tensor([[1.0, 2], [3, 5], [5, -6], [-7, 8]])


@pytest.mark.parametrize(
    "of", [list, np.asarray, lambda values: np.asarray(values, dtype=np.uint16), lambda values: torch.tensor(values)]
)
def test_numbers_of_any_kind(of: Callable[[Any], Any]) -> None:
    found = truncate_tables(ONE, {"x": X}, lambda t: (of([3, 1, 2, 4]), of([0, 0, 1, 1])), "it")
    assert found.auc == 0.75 and isinstance(found.curves[0], Curve)
    assert truncate_tables(ONE, {"x": X}, lambda t: (X[:, 0].half(), np.array([True, False, True, False])), "it").auc


def shuffled(tensors: dict[str, Tensor]) -> tuple[Any, Any]:
    whole = torch.equal(tensors["x"], X)
    return X[:, 0], [0, 1, 0, 1] if whole else [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda t: t["y"], "raised KeyError: 'y' .*test_diagnose_truncate.py, line"),
        (lambda t: t["x"][:, 0], "returned Tensor: expected two: scores"),
        (lambda t: (t["x"], [0, 1, 0, 1]), r"scores are of shape \(4, 2\).*one real number per row"),
        (lambda t: (t["x"][:, 0], ["a", "b", "a", "b"]), "labels are list and no numbers"),
        (lambda t: ([], []), r"scores are of shape \(0,\)"),
        (lambda t: (t["x"][:, 0], [0, 1]), r"AUC cannot be computed: expected scores .*found \(4,\) and \(2,\)"),
        (lambda t: (t["x"][:, 0] * math.nan, [0, 1, 0, 1]), "NaN has no rank: found 4 among 4"),
        (lambda t: (t["x"][:, 0], [0, 0, 0, 0]), "needs both classes: found 0 positives and 4 negatives"),
        (lambda t: (t["x"][:, 0], [1, 2, 1, 2]), "labels are 0 or 1"),
        (shuffled, r"--score shuffled: the labels of this call \(4 rows, 2 of them 1\) are not those of the first"),
    ],
)
def test_what_a_function_should_not_do(score: Callable[[dict[str, Tensor]], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)--score .*{message}" if score is not shuffled else message):
        truncate_tables(ONE, {"x": X}, score, "it")


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_scoring.py").write_text("size = 3\ndef score(tensors):\n    return [1], [0]\n")
    (tmp_path / "my_broken.py").write_text("import sys\nsys.exit(3)\n")
    assert load_score("my_scoring:score")({}) == ([1], [0])
    for target, message in {
        "my_scoring": "expected package.module:function, such as",
        "my_nothing:score": "my_nothing cannot be imported: ModuleNotFoundError.*PYTHONPATH",
        "my_broken:score": "my_broken cannot be imported: SystemExit: 3",
        "my_scoring:other": "expected a function other; .*my_scoring.py has none of this name",
        "my_scoring:size": "has a int of this name",
    }.items():
        with pytest.raises(ValueError, match=f"--score {target}: .*{message}|--score {target}: {message}"):
            load_score(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "split train: expected valid or test"),
        ({"rows": 0}, "rows 0: expected .* 1 or more"),
        ({"ranks": []}, r"ranks \[\]: expected one or more"),
        ({"ranks": [-1, 2]}, r"ranks \[-1, 2\]: expected"),
        ({"tolerance": math.nan}, "tolerance nan: expected"),
        ({"rows": 1}, "run: rows of split valid: the AUC cannot be computed: an AUC needs both classes"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncate_run(made_up(dcnv2(1, 8)), "it", **options)


def test_tables_that_are_not_finite() -> None:
    found = made_up(dcnv2(1, 8))
    with torch.no_grad():
        found.backbone.embedding.weight[5, 3] = math.nan
    with pytest.raises(ValueError, match="field item: its table has NaN or infinite entries"):
        truncate_run(found, "it")
    with pytest.raises(ValueError, match="at least one field"):
        truncate_tables([], {}, lambda t: ([0, 1], [0, 1]), "it")


def test_batches_are_those_of_the_run_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    logits = Scorer.logits
    monkeypatch.setattr(Scorer, "logits", lambda self, ids: sizes.append(len(ids)) or logits(self, ids))
    monkeypatch.setattr(of_run, "CPU_BATCH", 150)
    truncate_run(made_up(dcnv2(1, 8), eval_batch_size=8192), "it", ranks=[100])
    assert sizes == [150, 150, 100]
