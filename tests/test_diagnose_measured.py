"""What is said of a field: numbers against numpy, and verdicts and advice on tables that were made to have them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recsys_collapse.diagnose.advice import advise, paper_evidence
from recsys_collapse.diagnose.fields import FieldTable
from recsys_collapse.diagnose.measured import FieldRecord, measure_field, measure_fields
from recsys_collapse.diagnose.seen import read_seen
from recsys_collapse.diagnose.verdict import WORDS, Numbers, verdict
from recsys_collapse.paper import paper_auc

D, K = 400, 12


def random_table(seed: int = 0, rows: int = D, columns: int = K) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def with_spectrum(sigma: list[float]) -> Tensor:
    """A table with these singular values and random directions."""
    u, _ = torch.linalg.qr(random_table(1, D, K).double())
    v, _ = torch.linalg.qr(random_table(2, K, K).double())
    return (u[:, : len(sigma)] * torch.tensor(sigma).double()) @ v[:, : len(sigma)].T


def measured(table: Tensor, num_sets: int = 1, name: str = "field") -> FieldRecord:
    return measure_field(FieldTable(name, [("w", slice(0, len(table)))], num_sets), {"w": table})


def test_the_numbers_are_those_of_numpy() -> None:
    table = random_table() * torch.logspace(0, -2, K)
    sigma = np.linalg.svd(table.double().numpy(), compute_uv=False)
    found = measured(table)
    np.testing.assert_allclose(found.spectrum, sigma, rtol=1e-9)
    assert found.information_abundance == pytest.approx(sigma.sum() / sigma[0])
    assert found.first_share == pytest.approx(sigma[0] / sigma.sum())
    assert found.first_energy == pytest.approx(sigma[0] ** 2 / (sigma**2).sum())
    share = sigma / sigma.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found.k99 == np.searchsorted((sigma**2).cumsum() / (sigma**2).sum(), 0.99) + 1
    drawn = [np.linalg.svd(np.random.default_rng(i).normal(size=(D, K)), compute_uv=False) for i in range(50)]
    expected = np.mean([one / np.linalg.norm(one) for one in drawn], axis=0) * np.linalg.norm(sigma)
    np.testing.assert_allclose(found.random_spectrum, expected, rtol=0.01)
    assert found.random == pytest.approx(np.mean([one.sum() / one[0] for one in drawn]), rel=0.01)
    assert found.relative == pytest.approx(found.information_abundance / found.random)


@pytest.mark.parametrize("parts", [1, 3])
def test_embedding_sets_have_numbers_of_their_own(parts: int) -> None:
    """Three sets, in three tensors or side by side in one: the same."""
    tables = [random_table(0, columns=4), with_spectrum([9.0, 1.0])[:, :4], random_table(5, columns=4)]
    tensors = {f"t{i}": one.double() for i, one in enumerate(tables)} if parts == 3 else {"t0": torch.cat(tables, 1)}
    rows = slice(100, 300)
    found = measure_field(FieldTable("field", [(name, rows) for name in tensors], 3), tensors)
    assert (found.rows, found.columns, found.num_sets) == (200, 12, 3)
    for one, table in zip(found.per_set, tables, strict=True):
        np.testing.assert_allclose(one.spectrum, np.linalg.svd(table[rows].double(), compute_uv=False), atol=1e-6)
    whole = torch.cat([table[rows].double() for table in tables], dim=1)
    np.testing.assert_allclose(found.spectrum, np.linalg.svd(whole, compute_uv=False), rtol=1e-6, atol=1e-6)


TABLES = {
    "spread out": random_table(),
    "partly collapsed": with_spectrum([3.0] + [1.6] * (K - 1)),
    "collapsed": with_spectrum([5.0, 4.0, 3.0, 2.0, 1.0]),
    "strongly collapsed": with_spectrum([10.0, 1.0, 0.5]),
    "shared mean": random_table() + 5,
    "few rows": random_table(rows=3),
    "constant": random_table(rows=1).expand(D, K).clone(),
    "all zero": torch.zeros(D, K),
    "not finite": random_table().index_fill(0, torch.tensor([7]), math.inf),
}


@pytest.mark.parametrize("word", WORDS)
def test_verdicts(word: str) -> None:
    found = measured(TABLES[word])
    assert found.verdict == word
    assert found.reason.endswith(".")
    has_value = word not in ("all zero", "not finite")
    assert (found.relative is not None) == has_value
    assert (found.centred.relative is not None) == (has_value and word != "constant")
    assert (found.information_abundance is not None) == has_value


def test_reasons_have_the_numbers() -> None:
    assert "without it 9" in measured(TABLES["shared mean"]).reason
    assert "at most 8 dimensions" in measured(random_table(rows=8)).reason
    found = measured(with_spectrum([10.0, 1.0, 0.5]))
    assert f"Information abundance {found.information_abundance:.3g}" in found.reason
    assert "The first of 12 singular values holds 99% of the energy" in found.reason


def test_one_strong_direction_on_an_even_rest_is_told_from_a_spectrum_that_ends() -> None:
    """Both have a low information abundance; the paper's measure alone does not tell them apart."""
    even, ends = measured(with_spectrum([4.0] + [1.2] * (K - 1))), measured(with_spectrum([1.0] * 5 + [0.01] * 7))
    assert even.verdict == ends.verdict == "collapsed"
    assert "Behind the first ones the spectrum is even" in even.reason
    assert "is even" not in ends.reason and "is even" not in measured(TABLES["spread out"]).reason


def test_numbers_near_the_end_of_the_range_are_not_called_equal() -> None:
    found = measured(random_table().double() * 1e-170)  # whose squares are 0
    assert found.verdict != "constant"


def test_sets_that_are_alike_are_called_so() -> None:
    table = random_table(columns=6)
    alike, different = torch.cat([table, table], dim=1), random_table(3)
    assert "the sets share directions" in measured(alike, num_sets=2).reason
    assert "share directions" not in measured(different, num_sets=2).reason
    titles = [one.title for one in advise([measured(alike, num_sets=2)])]
    assert "The embedding sets share directions" in titles


def test_the_most_collapsed_field_is_first_and_what_has_no_value_last() -> None:
    tensors = TABLES
    told = []
    tables = [FieldTable(word, [(word, slice(0, len(table)))]) for word, table in tensors.items()]
    records = measure_fields(tables, tensors, done=told.append)
    assert told == [len(table) for table in tensors.values()]
    values = [one.relative for one in records if one.relative is not None]
    assert values == sorted(values) and {one.field for one in records[-2:]} == {"all zero", "not finite"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tables_of_every_precision(dtype: torch.dtype) -> None:
    table = random_table().to(dtype)
    found = measured(table)
    assert found.dtype == str(dtype).removeprefix("torch.")
    assert found.bytes == D * K * dtype.itemsize
    np.testing.assert_allclose(found.spectrum, np.linalg.svd(table.double(), compute_uv=False), rtol=1e-9)


# --- advice


def titles(*words: str) -> dict[str, list[str]]:
    return {one.title: one.fields for one in advise([measured(TABLES[word], name=word) for word in words])}


def test_advice_follows_from_the_numbers() -> None:
    found = titles(*TABLES)
    assert found["Try multi-embedding at equal size"] == ["partly collapsed", "collapsed", "strongly collapsed"]
    assert found["Read these fields without their mean"] == ["shared mean"]
    assert found["Look at these fields first"] == ["constant", "all zero", "not finite"]
    assert titles("spread out", "few rows") == {"Nothing to mend here": []}


def test_multi_embedding_is_not_advised_where_there_is_nothing_to_fold() -> None:
    narrow, short = measured(with_spectrum([9.0, 1.0, 0.5])[:, :4]), measured(with_spectrum([9.0, 1.0])[:K])
    for one in (narrow, short):
        assert one.verdict in ("collapsed", "strongly collapsed")
        assert "Try multi-embedding at equal size" not in [advice.title for advice in advise([one])]


def test_a_mean_is_named_as_the_reason_only_if_it_is() -> None:
    numbers = Numbers(D, K, 7.4, 10.0, 0.0, 0.2, 10, 8.0, 11.0, [])
    assert [verdict(numbers._replace(centred_relative=value))[0] for value in (0.76, 0.83, 0.85)] == [
        "partly collapsed",
        "partly collapsed",
        "shared mean",
    ]


def test_a_field_that_is_not_needed_is_called_so() -> None:
    low = measured(with_spectrum([10.0, 9.0, 0.01]), name="low")
    curve = {"curve": "field", "field": "low", "points": [], "needed": 0}
    (fewer,) = (one for one in advise([low], {"rows": 9, "tolerance": 0.1, "curves": [curve]}) if one.saved_bytes)
    assert "low 12 to 0" in fewer.text and "not needed" in fewer.text and fewer.saved_bytes == low.bytes


def test_multi_embedding_is_not_advised_to_one_that_has_it() -> None:
    found = advise([measured(TABLES["collapsed"], num_sets=2)])
    assert "Try multi-embedding at equal size" not in [one.title for one in found]


def test_bytes_saved_are_those_of_the_factors() -> None:
    """(400, 12) of rank 2 to (400, 2) and (2, 12); a table with few rows would only grow."""
    low = measured(with_spectrum([10.0, 9.0, 0.01]).float(), name="low")
    assert low.k99 == 2
    found = {one.title: one for one in advise([low, measured(TABLES["spread out"])])}
    advice = found["Fewer dimensions where the spectrum ends early"]
    assert advice.fields == ["low"] and advice.saved_bytes == 4 * (D * K - 2 * (D + K))
    assert "12 to 2" in advice.text and "--run or --score" in advice.evidence
    wide = measured(random_table(rows=4, columns=6), name="wide")
    assert advise([wide])[0].title == "Nothing to mend here"


def test_measured_truncation_is_the_evidence_where_there_is_some() -> None:
    low = measured(with_spectrum([10.0, 9.0, 0.01]), name="low")
    curve = {"curve": "field", "field": "low", "points": [], "needed": 4}
    advice = advise([low], {"rows": 1000, "tolerance": 0.001, "curves": [curve]})
    fewer = next(one for one in advice if one.title.startswith("Fewer"))
    assert "12 to 4" in fewer.text and "Measured for 1 of 1 fields on 1,000 rows" in fewer.evidence


def test_the_paper_is_counted_and_not_quoted() -> None:
    cells = {tuple(row[:-2]): row[-2] for row in paper_auc().rows()}
    gains = [cells[(*key[:2], "me", 10)] - auc for key, auc in cells.items() if key[2:] == ("se", 10)]
    assert f"in {sum(gain > 0 for gain in gains)} of {len(gains)} cases, by {np.mean(gains):.5f}" in paper_evidence()


# --- rows that training has seen


def write_counts(path: Path, rows: list[tuple[Any, ...]], columns: tuple[str, ...] = ("field", "id", "count")) -> Path:
    frame = pl.DataFrame(rows, schema=list(columns), orient="row")
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_that_were_not_seen_do_not_count(suffix: str, tmp_path: Path) -> None:
    """A collapsed table whose unseen rows are still at their initialisation, which hides it."""
    table = random_table()
    table[:200] = with_spectrum([10.0, 1.0, 0.5])[:200].float()
    path = write_counts(tmp_path / f"c.{suffix}", [("field", i, int(i < 200)) for i in range(300)])
    seen = read_seen(path, {"field": D})
    assert seen["field"].tolist() == [i < 200 for i in range(D)]
    tables = [FieldTable("field", [("w", slice(0, D))])]
    (found,) = measure_fields(tables, {"w": table}, seen=seen)
    (everything,) = measure_fields(tables, {"w": table})
    np.testing.assert_allclose(found.spectrum, np.linalg.svd(table[:200].double(), compute_uv=False), atol=1e-5)
    assert (found.rows, found.seen_rows, everything.seen_rows) == (D, 200, None)
    assert (found.verdict, everything.verdict) == ("strongly collapsed", "spread out")
    assert found.random == pytest.approx(measured(random_table(rows=200)).random, rel=1e-6)


def test_rows_count_as_often_as_they_were_seen(tmp_path: Path) -> None:
    """The spectrum of a table in which every row stands so many times."""
    table, count = random_table(rows=50), [i % 4 for i in range(50)]
    rows = [("field", i, 1) for i in range(50) for _ in range(count[i])]
    seen = read_seen(write_counts(tmp_path / "c.csv", rows), {"field": 50}, frequency=True)
    assert seen["field"].tolist() == count
    (found,) = measure_fields([FieldTable("field", [("w", slice(0, 50))])], {"w": table}, seen=seen)
    repeated = table.double().repeat_interleave(torch.tensor(count), dim=0)
    np.testing.assert_allclose(found.spectrum, np.linalg.svd(repeated, compute_uv=False), rtol=1e-9)
    assert found.seen_rows == sum(one > 0 for one in count)
    path = write_counts(tmp_path / "d.csv", [("field", 1)], ("field", "id"))
    with pytest.raises(ValueError, match=r"--frequency: .* has no column count"):
        read_seen(path, {"field": 50}, frequency=True)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("other", 1, 1)], ("field", "id", "count"), "no seen id of field; expected some of every field .* other"),
        ([("field", 1, 0)], ("field", "id", "count"), "no seen id of field"),
        ([("field", D, 1)], ("field", "id", "count"), f"field field has ids {D} to {D}; expected 0 to {D - 1}"),
        ([("field", -1, 1)], ("field", "id", "count"), "has ids -1 to -1"),
        ([("field", 1, 1)], ("field", "row", "count"), "expected columns field, id.*no column id: found field, row"),
    ],
)
def test_counts_that_do_not_fit(
    rows: list[tuple[Any, ...]], columns: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_seen(write_counts(tmp_path / "c.csv", rows, columns), {"field": D})


def test_counts_that_cannot_be_read(tmp_path: Path) -> None:
    for content in (b"", b"PAR1", b"\xff\xfe\x00", b"field,id\na,x\n", b"field,id\na,0.7\n", b"field,id\na,1\na,\n"):
        (tmp_path / "c").write_bytes(content)
        with pytest.raises(ValueError, match=r"c: expected columns field, id"):
            read_seen(tmp_path / "c", {"field": D})
    with pytest.raises(ValueError, match="FileNotFoundError"):
        read_seen(tmp_path / "none", {"field": D})
