"""Rows whose answer is known: drawn block by block from a planted model (`planted.py`), whose truth is kept with them.

Rows of train, valid and test come from streams of their own, and a smaller data set is the beginning of a larger one:
runs with more training rows are tested on the same rows. Memory does not grow with the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from recsys_collapse.dataset.planted_options import BLOCK, PlantedOptions
from recsys_collapse.dataset.source import PARTS, Rows, Source

if TYPE_CHECKING:
    from recsys_collapse.dataset.planted import Planted

LEAST = {
    "num_fields": 2,
    "min_cardinality": 2,
    "num_patterns": 1,
    "fields_per_pattern": 2,
    "rank": 1,
    "centroids": 1,
    "zipf": 0,
    "zipf_shift": 0,
    "spurious_fields": 0,
    "train_rows": 10,
    "valid_rows": 10,
    "test_rows": 10,
}
SHARES = ("dependence", "own_share", "linear_share", "third_order_share")


@dataclass(kw_only=True)
class Synthetic(PlantedOptions, Source):
    """Rows drawn from a planted model; its options are those of `PlantedOptions`.

    Args:
        train_rows, valid_rows, test_rows: number of rows of each part; `split_seed` has no part in it.
    """

    version: ClassVar[int] = 2

    train_rows: int
    valid_rows: int
    test_rows: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, lowest in {**LEAST, "max_cardinality": self.min_cardinality}.items():
            if not getattr(self, name) >= lowest:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: expected {lowest} or more")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: expected a share from 0 to 1")
        if not 0 < self.base_rate < 1:
            raise ValueError(f"dataset.base_rate={self.base_rate}: expected a share between 0 and 1")
        if not 0.5 < self.bayes_auc < 1:
            raise ValueError(f"dataset.bayes_auc={self.bayes_auc}: expected an AUC between 0.5 and 1")
        if self.cardinality_order not in ("sorted", "shuffled"):
            raise ValueError(f"dataset.cardinality_order={self.cardinality_order}: expected sorted or shuffled")
        if self.linear_share + self.third_order_share > 1:
            raise ValueError(
                f"dataset.linear_share={self.linear_share}, dataset.third_order_share={self.third_order_share}: "
                "expected at most 1 together; the patterns have the rest"
            )
        if self.num_fields - self.spurious_fields < 2:
            raise ValueError(
                f"dataset.spurious_fields={self.spurious_fields} of dataset.num_fields={self.num_fields}: expected two "
                "fields or more that are not spurious"
            )
        most = min(self.fields_per_pattern, self.num_fields - self.spurious_fields)
        if self.third_order_share > 0 and most < 3:
            raise ValueError(
                f"dataset.third_order_share={self.third_order_share}: expected 3 fields or more in a pattern, found "
                f"{most} (dataset.fields_per_pattern, and fields that are not spurious)"
            )
        given = self.cardinalities
        if given is not None and (len(given) != self.num_fields or min(given) < 2):
            raise ValueError(
                f"dataset.cardinalities={given}: expected {self.num_fields} (dataset.num_fields) integers of 2 or more"
            )

    @cached_property
    def planted(self) -> "Planted":
        """The model that the rows are drawn from.

        Raises:
            ValueError: as `Planted`.
        """
        from recsys_collapse.dataset.planted import Planted  # numpy takes a while: only when rows are drawn

        return Planted(self)

    def files(self) -> list[Path]:
        return []

    def check(self) -> None:
        """Nothing is read, so nothing can be missing; whether `bayes_auc` can be reached shows when rows are drawn."""

    def read(self) -> Iterator[Rows]:
        sizes = {part: getattr(self, f"{part}_rows") for part in PARTS}
        done, total = 0, sum(sizes.values())
        for part, size in sizes.items():
            for block, start in enumerate(range(0, size, BLOCK)):
                rows = min(BLOCK, size - start)
                done += rows
                yield self.block(part, block, rows)._replace(done=done / total)

    def block(self, part: str, number: int, rows: int = BLOCK) -> Rows:
        """The first rows of one block of a part: the same whatever else is drawn."""
        import polars as pl

        planted = self.planted
        values_nN = planted.values(part, number)
        components_nT = planted.components(values_nN)
        logit_n = planted.logits(components_nT)
        truth = pl.DataFrame({"logit": logit_n}).with_columns(
            pl.Series(name, components_nT[:, t]) for t, name in enumerate(planted.coefficients)
        )
        return Rows(
            pl.DataFrame(values_nN[:rows], schema=self.field_names()),
            planted.labels(logit_n, part, number)[:rows],
            part=part,
            truth=truth[:rows],
        )

    def field_names(self) -> list[str]:
        """`field01`, `field02`, ..."""
        digits = max(2, len(str(self.num_fields)))
        return [f"field{i + 1:0{digits}}" for i in range(self.num_fields)]

    def answer(self) -> dict[str, Any]:
        """What was planted: in which fields, of which rank, with which coefficients, in how many values."""
        from recsys_collapse.dataset.planted import cardinalities

        planted, names = self.planted, self.field_names()
        return {
            "coefficients": planted.coefficients,
            "bias": planted.bias,
            "base_rate": self.base_rate,
            "bayes_auc": self.bayes_auc,
            "pattern_fields": [[names[i] for i in pattern.fields_S] for pattern in planted.patterns],
            "planted_rank": dict(zip(names, planted.field_ranks(), strict=True)),
            "values": dict(zip(names, cardinalities(self), strict=True)),
            "spurious": [names[i] for i in planted.spurious],
        }
