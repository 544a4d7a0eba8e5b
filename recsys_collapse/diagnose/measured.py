"""What is measured of the fields of a checkpoint: spectra, metrics and a verdict each, field by field.

A table is read once, in blocks, from where it lies: memory does not grow with it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recsys_collapse.diagnose.fields import FieldTable
from recsys_collapse.diagnose.verdict import Numbers, alike, verdict
from recsys_collapse.spectrum import FieldSpectrum, TableSpectra, random_spectrum


@dataclass(frozen=True)
class Abundance:
    """Information abundance beside that of random tables of the same shape; None where there is no value."""

    information_abundance: float | None
    random: float | None
    relative: float | None


@dataclass(frozen=True)
class SetRecord(Abundance):
    """The same of one embedding set, and its singular values, descending."""

    embedding_set: int
    spectrum: list[float] = field(repr=False)


@dataclass(frozen=True)
class FieldRecord(Abundance):
    """Everything that is said of a field."""

    field: str
    verdict: str
    reason: str
    rows: int
    seen_rows: int | None
    """Rows that training has seen, which alone count then; None: not known, all rows count."""
    columns: int
    num_sets: int
    dtype: str
    bytes: int
    effective_rank: float | None
    numerical_rank: float | None
    k90: float | None
    k99: float | None
    first_share: float | None
    """sigma_1 / sum sigma = 1 / IA."""
    first_energy: float | None
    """sigma_1^2 / sum sigma^2 = 1 / stable rank."""
    centred: Abundance
    spectrum: list[float]
    random_spectrum: list[float]
    """Mean of random tables of this shape, at the same Frobenius norm."""
    per_set: list[SetRecord]
    sets_alike: bool
    """See `verdict.alike`."""


def measure_fields(
    tables: Sequence[FieldTable],
    tensors: Mapping[str, Tensor],
    seen: Mapping[str, Tensor] | None = None,
    done: Callable[[int], None] = lambda rows: None,
) -> list[FieldRecord]:
    """Measure every field; the most collapsed first, and those without a value last.

    Args:
        tables: from `cut`.
        tensors: of the checkpoint.
        seen: weights of the rows (D,) for every field, see `read_seen`; None: all count once.
        done: told of every field when it is measured: its rows.
    """
    records = []
    for table in tables:
        records.append(measure_field(table, tensors, None if seen is None else seen[table.name]))
        done(records[-1].rows)
    return sorted(records, key=lambda one: math.inf if one.relative is None else one.relative)


@torch.no_grad()
def measure_field(table: FieldTable, tensors: Mapping[str, Tensor], seen_D: Tensor | None = None) -> FieldRecord:
    """Spectra, metrics and verdict of one field; its rows with the weights `seen_D` (D,), if they are known."""
    rows = table.rows(tensors)
    spectra = TableSpectra(rows, [slice(0, len(rows))], table.num_sets, seen_D, table.entries)
    whole, *sets = spectra.spectra()
    centred = _abundance(spectra.spectra(centred=True)[0])
    metrics, sigma = {name: _known(value) for name, value in whole.metrics.items()}, whole.sigma
    per_set = [
        SetRecord(**vars(_abundance(one)), embedding_set=number, spectrum=one.sigma.tolist())
        for number, one in enumerate(sets)
    ]
    own, stable = _abundance(whole), metrics["stable_rank"]
    numbers = Numbers(
        rows=whole.cardinality,
        columns=rows.shape[1],
        abundance=_number(own.information_abundance),
        random=_number(own.random),
        centred_relative=_number(centred.relative),
        first_energy=1 / _number(stable),
        k99=_number(metrics["k99"]),
        effective_rank=_number(metrics["effective_rank"]),
        random_effective_rank=whole.random_metrics["effective_rank"],
        per_set=[_number(one.relative) for one in per_set],
    )
    word, reason = verdict(numbers, finite=bool(sigma.isfinite().all()))
    norm = torch.linalg.vector_norm(sigma)
    return FieldRecord(
        **vars(own),
        field=table.name,
        verdict=word,
        reason=reason,
        rows=len(rows),
        seen_rows=None if seen_D is None else whole.cardinality,
        columns=rows.shape[1],
        num_sets=table.num_sets,
        dtype=str(rows.dtype).removeprefix("torch."),
        bytes=len(rows) * rows.shape[1] * rows.dtype.itemsize,
        effective_rank=metrics["effective_rank"],
        numerical_rank=metrics["numerical_rank"],
        k90=metrics["k90"],
        k99=metrics["k99"],
        first_share=None if own.information_abundance is None else 1 / own.information_abundance,
        first_energy=None if stable is None else 1 / stable,
        centred=centred,
        spectrum=_finite(sigma),
        random_spectrum=_finite(random_spectrum(whole.reference) * norm),
        per_set=per_set,
        sets_alike=alike(numbers),
    )


def _abundance(spectrum: FieldSpectrum) -> Abundance:
    value, random = _known(spectrum.information_abundance), _known(spectrum.random)
    return Abundance(value, random, None if value is None or not random else value / random)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(sigma: Tensor) -> list[float]:
    """A spectrum for JSON, which has no NaN: then it is empty."""
    return sigma.tolist() if sigma.isfinite().all() else []
