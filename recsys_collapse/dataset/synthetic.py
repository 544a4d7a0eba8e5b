"""A small data set made from a seed: Zipf values and planted low-rank interactions between fields.

For trying things without data. The logit is a linear term plus P patterns; in a pattern every pair of its fields
interacts through the product of r-dimensional latents, and values share a few centroids, so that rare values can be
learned at all. Rank r per pattern and field is the answer a spectrum can be held against.

Shapes: n rows, N fields, D values of one field, r rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from recsys_collapse.dataset.source import Rows, Source
from recsys_collapse.seeding import derive

NUM_CENTROIDS = 16
CENTROID_SHARE = 0.9  # of a latent's variance; the rest is the value's own


@dataclass(kw_only=True)
class Synthetic(Source):
    """Rows drawn from a known model.

    Args:
        rows: number of rows.
        num_fields: N.
        min_cardinality, max_cardinality: D_1 and D_N; those between are log-spaced.
        zipf: exponent a of the value frequencies, P(v) ~ v^-a.
        num_patterns: P.
        fields_per_pattern: how many fields interact in a pattern.
        rank: r of every pattern.
        signal: standard deviation of the logit; 1.4 is a best possible AUC near 0.80.
        base_rate: expected share of label 1.
        data_seed: seed of everything drawn here.
    """

    rows: int
    num_fields: int
    min_cardinality: int
    max_cardinality: int
    zipf: float
    num_patterns: int
    fields_per_pattern: int
    rank: int
    signal: float
    base_rate: float
    data_seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"rows": 10, "num_fields": 2, "min_cardinality": 2, "max_cardinality": self.min_cardinality}
        least |= {"num_patterns": 1, "fields_per_pattern": 2, "rank": 1, "zipf": 0, "signal": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: expected {lowest} or more")
        if not 0 < self.base_rate < 1:
            raise ValueError(f"dataset.base_rate={self.base_rate}: expected a share between 0 and 1")

    def files(self) -> list[Path]:
        return []

    def read(self) -> Iterator[Rows]:
        rng = np.random.default_rng(derive(self.data_seed, "synthetic"))
        cardinalities = np.geomspace(self.min_cardinality, self.max_cardinality, self.num_fields).round().astype(int)
        values_nN = np.stack([self._zipf_values(rng, size) for size in cardinalities], axis=1)
        linear = [rng.standard_normal(size)[values_nN[:, i]] for i, size in enumerate(cardinalities)]
        patterns = [self._pattern(rng, values_nN, cardinalities) for _ in range(self.num_patterns)]
        score_n = np.sqrt(0.4) * _standardised(np.sum(linear, axis=0)) + np.sqrt(0.6) * _standardised(
            np.sum(patterns, axis=0)
        )
        logit_n = self.signal * _standardised(score_n)
        probability_n = 1 / (1 + np.exp(-(logit_n + _bias(logit_n, self.base_rate))))
        labels_n = (rng.random(self.rows) < probability_n).astype(np.uint8)
        names = [f"field{i + 1:02d}" for i in range(self.num_fields)]
        yield Rows(pl.DataFrame(values_nN, schema=names), labels_n)

    def _zipf_values(self, rng: np.random.Generator, cardinality: int) -> np.ndarray:
        weights = np.arange(1, cardinality + 1.0) ** -self.zipf
        return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(self.rows)).clip(max=cardinality - 1)

    def _pattern(self, rng: np.random.Generator, values_nN: np.ndarray, cardinalities: np.ndarray) -> np.ndarray:
        """Sum of A_ij <u_i, u_j> over the pairs of a random subset of fields, to unit variance."""
        chosen = rng.choice(self.num_fields, size=min(self.fields_per_pattern, self.num_fields), replace=False)
        latents_nr = {i: self._latents(rng, cardinalities[i])[values_nN[:, i]] for i in chosen}
        pairs = [
            rng.choice([-1, 1]) * rng.uniform(0.5, 1.5) * (latents_nr[i] * latents_nr[j]).sum(axis=1)
            for i, j in combinations(chosen, 2)
        ]
        return _standardised(np.sum(pairs, axis=0))

    def _latents(self, rng: np.random.Generator, cardinality: int) -> np.ndarray:
        centroids = rng.standard_normal((NUM_CENTROIDS, self.rank))
        own = rng.standard_normal((cardinality, self.rank))
        member = rng.integers(NUM_CENTROIDS, size=cardinality)
        return np.sqrt(CENTROID_SHARE) * centroids[member] + np.sqrt(1 - CENTROID_SHARE) * own


def _standardised(values_n: np.ndarray) -> np.ndarray:
    return (values_n - values_n.mean()) / values_n.std()


def _bias(logit_n: np.ndarray, base_rate: float) -> float:
    """B with mean sigmoid(logit + b) = base rate, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(logit_n + middle)))).mean() < base_rate else (low, middle)
    return low
