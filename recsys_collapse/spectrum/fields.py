"""Spectra and metrics of every field of a fused table: whole, per embedding set, centred, at unit norm per set.

Shapes: D rows of all fields, C = M*K columns of all sets, M embedding sets, N fields, K embedding size per set, R rows
of a factor, S spectra.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys_collapse.spectrum.gram import Moments, Rows, field_moments, set_grams, unit_norm_gram, unit_norm_scale
from recsys_collapse.spectrum.metrics import spectrum_metrics
from recsys_collapse.spectrum.random import Reference, grouped_weights, random_metrics
from recsys_collapse.spectrum.singular import coarse, factor_spectrum, field_factor, singular_spectrum, without_rounding


class FieldSpectrum(NamedTuple):
    """What the spectrum of one field says, for all sets side by side (`embedding_set` None) or for one of them."""

    field: int
    embedding_set: int | None
    sigma: Tensor
    """Singular values, descending, (min(D, columns),) float64 on the CPU; D - 1 instead of D if centred."""
    metrics: dict[str, float]
    """Every one of `METRICS`; NaN where it has no value."""
    reference: Reference

    @property
    def cardinality(self) -> int:
        """Rows that count."""
        return self.reference.rows

    @property
    def information_abundance(self) -> float:
        """IA, the paper's Definition 1."""
        return self.metrics["information_abundance"]

    @property
    def random(self) -> float:
        """Mean information abundance of random matrices of this shape; NaN without a row."""
        return self.random_metrics["information_abundance"]

    @property
    def random_metrics(self) -> Mapping[str, float]:
        """Every metric for random matrices of this shape."""
        return random_metrics(self.reference)


@dataclass(frozen=True)
class TableSpectra:
    """A fused table (D, M*K), read once when something is first asked; again only by fields that need QR.

    Args:
        weight: the table, any floating type, any device.
        field_slices: the rows of every field.
        num_sets: M; the columns of set m are m*K to (m+1)*K.
        row_weight_D: (D,) weights of the rows, 0 or more. Bool: of these rows only, as those that training samples have
            (others stay where the optimizer leaves them, at initialisation or at zero, and say nothing of what was
            learned). Frequencies: what lookups see.
        entries: how the table is initialised, `uniform` or `normal`.
        exact: QR for fields with singular values that a Gram matrix does not resolve.
    """

    weight: Rows
    field_slices: Sequence[slice]
    num_sets: int = 1
    row_weight_D: Tensor | None = None
    entries: str = "uniform"
    exact: bool = True
    _factors: dict[tuple[int, bool], Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def moments(self) -> Moments:
        """Gram matrices (N, C, C), sums and counts, float64 on the table's device."""
        return field_moments(self.weight, self.field_slices, self.row_weight_D)

    def grams(self, centred: bool = False) -> Tensor:
        """Gram matrices of all sets side by side, (N, C, C)."""
        return self.moments.centred_gram() if centred else self.moments.gram_NCC

    def spectra(self, centred: bool = False, unit_norm: bool = False) -> list[FieldSpectrum]:
        """Spectrum and metrics of every field: whole (D_i, C), then, if M > 1, in every set (D_i, K).

        Args:
            centred: the (weighted) mean row is taken off first. A mean that all rows share is often harmless, a bias,
                and alone can halve information abundance.
            unit_norm: only the whole, after every set is scaled to Frobenius norm 1.
        """
        raw_NCC, gram_NCC, num_sets = self.moments.gram_NCC, self.grams(centred), self.num_sets
        scale_NC: Tensor | float = 1.0
        if unit_norm:
            scale_NC, gram_NCC = unit_norm_scale(gram_NCC, num_sets), unit_norm_gram(gram_NCC, num_sets)
        sigma: dict[int | None, Tensor] = {None: singular_spectrum(gram_NCC).cpu()}
        # Norms before centring: rounding is relative to what was summed.
        norm_N: dict[int | None, Tensor] = {None: _norm(raw_NCC, scale_NC).cpu()}
        if num_sets > 1 and not unit_norm:
            sigma |= enumerate(singular_spectrum(set_grams(gram_NCC, num_sets)).cpu())
            norm_N |= enumerate(_norm(set_grams(raw_NCC, num_sets)).cpu())
        rows_N = self.moments.rows_N.cpu()
        for i in self._unresolved(sigma, norm_N, rows_N - int(centred)):
            factor_RC = self._factor(i, int(rows_N[i]), centred)
            if unit_norm:
                factor_RC = _unit_norm_factor(factor_RC, num_sets)
            for m, sigma_NK in sigma.items():
                _put(sigma_NK[i], factor_spectrum(factor_RC if m is None else factor_RC.chunk(num_sets, dim=1)[m]))
        return [spectrum for m in sigma for spectrum in self._described(m, sigma[m], norm_N[m], rows_N, centred)]

    def _unresolved(
        self, sigma: Mapping[int | None, Tensor], norm_N: Mapping[int | None, Tensor], rank_N: Tensor
    ) -> list[int]:
        """Fields whose spectra are to be taken from a factor: those of lower rank than columns, and coarse ones."""
        wide_N = (rank_N > 0) & (rank_N < sigma[None].shape[1])
        coarse_N = sum(coarse(sigma[m], rank_N.clamp(max=sigma[m].shape[1]), norm_N[m]) for m in sigma) > 0
        finite_N = norm_N[None].isfinite()  # in a factor a NaN would spread to other sets
        return (wide_N | (coarse_N & finite_N & self.exact)).nonzero().flatten().tolist()

    def _factor(self, i: int, rows: int, centred: bool) -> Tensor:
        if (i, centred) not in self._factors:
            mean_C = self.moments.mean_NC()[i] if centred else None
            own = self.field_slices[i]
            factor_RC = field_factor(self.weight, own, rows, self.row_weight_D, mean_C).cpu()
            self._factors[i, centred] = without_rounding(factor_RC, self.moments.gram_NCC[i]) if centred else factor_RC
        return self._factors[i, centred]

    def _described(
        self, embedding_set: int | None, sigma_NC: Tensor, norm_N: Tensor, rows_N: Tensor, centred: bool
    ) -> Iterable[FieldSpectrum]:
        columns, eps = sigma_NC.shape[1], torch.finfo(self.weight.dtype).eps
        size_N = (rows_N - int(centred)).clamp(0, columns)
        inside_NC = torch.arange(columns) < size_N.unsqueeze(1)
        sigma_NC = torch.where(inside_NC, sigma_NC, 0.0)
        values = {name: value_N.tolist() for name, value_N in spectrum_metrics(sigma_NC, size_N, eps, norm_N).items()}
        for i, (rows, size) in enumerate(zip(rows_N.tolist(), size_N.tolist(), strict=True)):
            reference = Reference(rows, columns, self.entries, centred, self._weights[i], eps)
            metrics = {name: value_N[i] for name, value_N in values.items()}
            yield FieldSpectrum(i, embedding_set, sigma_NC[i, :size], metrics, reference)

    @cached_property
    def _weights(self) -> list[tuple[tuple[float, int], ...]]:
        """Row weights of every field in groups; nothing where rows count once or not at all."""
        if self.row_weight_D is None or self.row_weight_D.dtype == torch.bool:
            return [()] * len(self.field_slices)
        return [grouped_weights(self.row_weight_D[rows]) for rows in self.field_slices]


def _norm(gram_NCC: Tensor, scale_NC: Tensor | float = 1.0) -> Tensor:
    """Frobenius norm (..., N) of the tables behind Gram matrices (..., N, C, C), their columns scaled."""
    return (gram_NCC.diagonal(dim1=-2, dim2=-1) * scale_NC**2).sum(-1).sqrt()


def _put(sigma: Tensor, found: Tensor) -> None:
    """Overwrite the first of (C,) with (r,), r <= C; the others are zero."""
    sigma.zero_()
    sigma[: len(found)] = found


def _unit_norm_factor(factor_RC: Tensor, num_sets: int) -> Tensor:
    sets_RMK = factor_RC.unflatten(1, (num_sets, -1))
    norm_RMK = torch.linalg.vector_norm(sets_RMK, dim=(0, 2), keepdim=True)
    return torch.where(norm_RMK == 0, 0.0, sets_RMK / norm_RMK).flatten(1)  # NaN stays NaN


def field_spectra(
    weight: Tensor, field_slices: Sequence[slice], num_sets: int = 1, row_weight_D: Tensor | None = None
) -> list[FieldSpectrum]:
    """Spectrum of every field of a fused table, whole and per set: `TableSpectra(...).spectra()`."""
    return TableSpectra(weight, field_slices, num_sets, row_weight_D).spectra()


def abundance_of_fields(
    weight: Tensor,
    field_slices: Sequence[slice],
    num_sets: int,
    fields: Sequence[str],
    seen_D: Tensor,
    entries: str = "uniform",
) -> dict[str, dict[str, Any]]:
    """Information abundance by field name, as `result.json` has it; None where there is no value.

    `whole` (all sets side by side), `per_set`, and `random`, `random_per_set` for random matrices of the same shapes;
    `seen`: `rows`, `whole` and `random` of the rows `seen_D` (D,) bool alone, those of ids that training samples have.
    """
    found: dict[str, dict[str, Any]] = {name: {"per_set": []} for name in fields}
    for spectrum in TableSpectra(weight, field_slices, num_sets, entries=entries).spectra():
        field, value = found[fields[spectrum.field]], _known(spectrum.information_abundance)
        random = _known(spectrum.random)
        if spectrum.embedding_set is None:
            field |= {"whole": value, "random": random, "random_per_set": random}
        else:
            field["per_set"].append(value)
            field["random_per_set"] = random
    for field in found.values():
        field["per_set"] = field["per_set"] or [field["whole"]]
    for spectrum in TableSpectra(weight, field_slices, 1, seen_D.to(weight.device), entries).spectra():
        values = {"whole": _known(spectrum.information_abundance), "random": _known(spectrum.random)}
        found[fields[spectrum.field]]["seen"] = {"rows": spectrum.cardinality, **values}
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean_relative(spectra: Iterable[FieldSpectrum], per_set: bool = False) -> float:
    """Mean over fields of IA / random IA, of the whole or (`per_set`) of the single sets; NaN if no field has one."""
    ratios = [s.information_abundance / s.random for s in spectra if (s.embedding_set is None) != per_set]
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
    return sum(ratios) / len(ratios) if ratios else math.nan
