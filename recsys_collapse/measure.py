"""Collapse of the embedding tables of any `nn.Module`: find them, measure them, tell it as a data frame.

    from recsys_collapse.measure import measure

    print(measure(model))                                           # every nn.Embedding and nn.EmbeddingBag
    print(measure(model, counts={"user": count_D}, variants=["all", "seen", "seen+centred"]))

Which rows count, how much, and whether their mean is taken off is a *variant*: see `variant.py`.

Shapes: D rows, C columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from recsys_collapse.spectrum import METRICS, FieldSpectrum, TableSpectra, why_null
from recsys_collapse.variant import Variant, parse_variants

COLLAPSE = {
    "field": pl.String,
    "embedding_set": pl.Int32,
    "cardinality": pl.Int64,
    "metric": pl.String,
    "value": pl.Float64,
    "random_value": pl.Float64,
    "reason": pl.String,
}
"""Columns of what is measured. `metric` is `<metric>` for all rows as they are, else `<metric>@<variant>`;
`cardinality` the number of rows that count; `reason` says why there is no value."""


@dataclass(frozen=True)
class Table:
    """An embedding table (D, C) and what its rows and columns are."""

    name: str
    weight: Tensor
    fields: Sequence[str]
    field_slices: Sequence[slice]
    num_sets: int = 1
    entries: str = "uniform"
    """How it is initialised, `uniform` or `normal`."""
    count_D: Tensor | None = None
    """How often every id occurs in the training data; None: not known."""
    padding_idx: int | None = None
    """A row that is no embedding: it never counts."""

    def row_weight(self, variant: Variant) -> Tensor | None:
        """Weights (D,) of the rows under a variant; None: all count once.

        Raises:
            ValueError: the variant needs counts, and there are none or not one for each row.
        """
        weight_D: Tensor | None = None
        if variant.needs_counts:
            if self.count_D is None or self.count_D.shape != self.weight.shape[:1]:
                found = "none" if self.count_D is None else f"shape {tuple(self.count_D.shape)}"
                raise ValueError(
                    f"table {self.name}: variant {variant} needs to know how often every id occurs: found {found}; "
                    f"expected counts={{'{self.name}': tensor of {len(self.weight)} counts}}"
                )
            count_D = self.count_D.to(self.weight.device)
            weight_D = count_D >= max(1, variant.min_count)
            if variant.weighting:
                power = 1.0 if variant.weighting == "frequency" else 0.5
                weight_D = torch.where(weight_D, count_D.double() ** power, 0.0)
        if self.padding_idx is not None:
            kept_D = torch.ones(len(self.weight), dtype=torch.bool, device=self.weight.device)
            kept_D[self.padding_idx] = False
            weight_D = kept_D if weight_D is None else weight_D * kept_D
        return weight_D


def find_tables(
    module: nn.Module,
    counts: Mapping[str, Tensor] | None = None,
    fields: Mapping[str, Mapping[str, int]] | None = None,
) -> list[Table]:
    """Every `nn.Embedding`, `nn.EmbeddingBag` and `FieldEmbedding` of a module, each weight once.

    Args:
        module: searched with all its parts.
        counts: for some tables, by their name in the module: how often every id occurs, (D,).
        fields: for tables that hold several fields below each other: name and cardinality of each, in order.

    Raises:
        ValueError: there is no table; a name in `counts` or `fields` is not one; the cardinalities are not the rows; a
            count is negative; two fields have the same name.
    """
    counts, fields, found, seen = counts or {}, fields or {}, list[Table](), set[int]()
    part: Any
    for name, part in module.named_modules():
        fused = hasattr(part, "field_slices") and hasattr(part, "num_sets")
        weight: Any = getattr(part, "weight", None)
        if not (fused or isinstance(part, nn.Embedding | nn.EmbeddingBag)) or id(weight) in seen:
            continue
        seen.add(id(weight))
        if fused:
            own = {f"{name}.{i}".lstrip("."): rows.stop - rows.start for i, rows in enumerate(part.field_slices)}
            options: dict[str, Any] = {"num_sets": part.num_sets, "entries": getattr(part, "entries", "uniform")}
        else:
            own = {name or type(part).__name__: len(weight)}
            options = {"entries": "normal", "padding_idx": part.padding_idx}
        sizes = fields.get(name, own)
        if sum(sizes.values()) != len(weight) or (fused and [*sizes.values()] != [*own.values()]):
            rows = [*own.values()] if fused else f"{len(weight)} in all"
            raise ValueError(f"fields[{name!r}] has {[*sizes.values()]} rows; the table has {rows}")
        ends = accumulate(sizes.values())
        slices = [slice(end - size, end) for end, size in zip(ends, sizes.values(), strict=True)]
        count_D = torch.as_tensor(counts[name]) if name in counts else None
        if count_D is not None and (count_D < 0).any():
            raise ValueError(f"counts[{name!r}]: found a negative one; expected how often every id occurs, 0 or more")
        found.append(Table(name, weight, [*sizes], slices, count_D=count_D, **options))
    if not found:
        raise ValueError(f"{type(module).__name__} has no nn.Embedding, nn.EmbeddingBag or FieldEmbedding")
    if unknown := sorted((set(counts) | set(fields)) - {table.name for table in found}):
        known = ", ".join(table.name for table in found)
        raise ValueError(f"no table named {', '.join(unknown)}; the tables of {type(module).__name__} are {known}")
    names = [field for table in found for field in table.fields]
    if twice := sorted({field for field in names if names.count(field) > 1}):
        raise ValueError(
            f"fields: {', '.join(twice)} named in several tables; expected a name of its own for every field"
        )
    return found


def spectra_of_table(
    table: Table, variants: Sequence[Variant], exact: bool = True
) -> Iterator[tuple[Variant, list[FieldSpectrum]]]:
    """Spectra of every variant; the table is read once for all variants that count the same rows."""
    read: dict[tuple[int, str], TableSpectra] = {}
    for variant in variants:
        if variant.unit_norm and table.num_sets == 1:  # that of the whole
            continue
        rows = (variant.min_count, variant.weighting)
        if rows not in read:
            weight_D = table.row_weight(variant)
            read[rows] = TableSpectra(
                table.weight, table.field_slices, table.num_sets, weight_D, table.entries, exact=exact
            )
        yield variant, read[rows].spectra(variant.centred, variant.unit_norm)


def collapse_rows(
    table: Table, variant: Variant, spectra: Sequence[FieldSpectrum], metrics: Sequence[str] = tuple(METRICS)
) -> Iterator[tuple[Any, ...]]:
    """Rows in the order of `COLLAPSE`."""
    suffix = "" if variant == Variant() else f"@{variant}"
    for spectrum in spectra:
        random = spectrum.random_metrics
        for metric in metrics:
            value = spectrum.metrics[metric]
            reason = None if value == value else why_null(metric, spectrum.sigma)
            field = table.fields[spectrum.field]
            own = (field, spectrum.embedding_set, spectrum.cardinality, metric + suffix, value, random[metric], reason)
            yield own


@torch.no_grad()
def measure(
    module: nn.Module,
    *,
    variants: Sequence[str] | str = ("all", "centred"),
    counts: Mapping[str, Tensor] | None = None,
    fields: Mapping[str, Mapping[str, int]] | None = None,
    exact: bool = True,
) -> pl.DataFrame:
    """Every metric of every embedding table of a module, beside that of a random matrix of the same shape.

    Args:
        module: any; its tables are read where they are, block by block, and nothing is changed.
        variants: see `Variant.parse`.
        counts: see `find_tables`. A table that is left out has null where a variant needs them.
        fields: see `find_tables`.
        exact: QR where a Gram matrix does not resolve the small singular values.

    Returns:
        A frame with the columns of `COLLAPSE`; null and a reason where there is no value.

    Raises:
        ValueError: from `Variant.parse`, `find_tables` and `Table.row_weight`.
    """
    wanted, rows = parse_variants(variants), list[tuple[Any, ...]]()
    for table in find_tables(module, counts, fields):
        unknown = [variant for variant in wanted if counts and table.count_D is None and variant.needs_counts]
        known = [variant for variant in wanted if variant not in unknown]
        for variant, spectra in spectra_of_table(table, known, exact):
            rows += collapse_rows(table, variant, spectra)
        why = "how often ids occur is not known"
        names = [f"{metric}@{variant}" for variant in unknown for metric in METRICS]
        rows += [(field, None, None, name, None, None, why) for name in names for field in table.fields]
    return pl.DataFrame(rows, schema=COLLAPSE, orient="row").fill_nan(None)


def by_field(frame: pl.DataFrame, metric: str = "information_abundance") -> pl.DataFrame:
    """One row per field and embedding set of what `measure` returns, for reading.

    Columns: field, embedding_set, cardinality and the metric itself (of the first variant), then for every variant the
    value relative to random: 1 is as spread out as at initialisation.

    Raises:
        ValueError: an unknown metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric}: expected one of {', '.join(METRICS)}")
    parts = pl.col("metric").str.split("@")
    own = frame.filter(parts.list.first() == metric).with_columns(
        variant=parts.list.get(1, null_on_oob=True).fill_null("all"), relative=pl.col("value") / pl.col("random_value")
    )
    key = ["field", "embedding_set"]
    first = own.group_by(key, maintain_order=True).agg(pl.first("cardinality"), pl.first("value").alias(metric))
    wide = own.pivot("variant", index=key, values="relative")
    return first.join(wide, on=key, how="left", nulls_equal=True, maintain_order="left")
