"""The model that synthetic rows are drawn from, whose answer is therefore known.

    z = b + s * ( sqrt(w_lin) * lin + sqrt(w_pat / P) * sum_p f_p + sqrt(w_3) * g ),      y ~ Bernoulli(sigmoid(z))

    lin(x) = sum_i a_i(x_i)                                          over all fields but the spurious ones
    f_p(x) = sum_{i<j in S_p} A^p_ij <U_i^p(x_i), U_j^p(x_j)>        on fields S_p of its own, A^p_ij = +-U(.5, 1.5)
    g(x)   = sum_{i<j<k in S} c_i c_j c_k <U_i(x_i), U_j(x_j), U_k(x_k)>

These are the components; each has mean 0 and variance 1. The latents U_i^p (D_i, r) of a field share centroids, so that
rare values can be learned at all. Effects and latents have mean 0 and length 1 under the frequencies of the values: a
field's strength does not depend on its cardinality, and, with independent fields, components of different order are
uncorrelated. So no pattern has main effects, and a model without interactions learns `lin` and nothing else. Two
patterns are nearly uncorrelated, but where they share pairs of fields with few values (4 values have 3 dimensions).

Shapes: n rows, N fields, D values of a field, P patterns, S fields of a pattern, r rank, T components.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_collapse.dataset.calibrate import scale_and_bias
from recsys_collapse.dataset.planted_options import BLOCK, PlantedOptions
from recsys_collapse.seeding import derive

CALIBRATION_BLOCKS = 16
CLUSTERS = 20  # of rows, when fields depend on each other


class Field(NamedTuple):
    """How the values 0 .. D-1 of one field are drawn."""

    cumulative_D: np.ndarray
    """Of the Zipf law, most frequent value first."""
    start_C: np.ndarray
    """Every cluster of rows has the law begin at another value."""
    frequency_D: np.ndarray
    """Share of each value among all rows."""

    def draw(self, rng: np.random.Generator, cluster_n: np.ndarray, dependence: float) -> np.ndarray:
        """Values (n,) int64."""
        size = len(self.cumulative_D)
        value_n = np.searchsorted(self.cumulative_D, rng.random(len(cluster_n))).clip(max=size - 1)
        if dependence == 0:
            return value_n
        by_cluster_n = rng.random(len(cluster_n)) < dependence
        return np.where(by_cluster_n, (value_n + self.start_C[cluster_n]) % size, value_n)


class Pattern(NamedTuple):
    """Fields that interact, each with latents of its own for it."""

    fields_S: np.ndarray
    latents: list[np.ndarray]
    """(D_i, r) of each."""
    weight_SS: np.ndarray
    """A, symmetric with a diagonal of 0; of the third order its diagonal holds c instead."""

    def looked_up(self, values_nN: np.ndarray) -> np.ndarray:
        """Latents of rows: (S, n, r)."""
        return np.stack([latent[values_nN[:, i]] for i, latent in zip(self.fields_S, self.latents, strict=True)])

    def second_order(self, values_nN: np.ndarray) -> np.ndarray:
        """Sum of A_ij <u_i, u_j> over pairs i < j: (n,)."""
        u_Snr = self.looked_up(values_nN)
        weighted_Snr = (self.weight_SS @ u_Snr.reshape(len(u_Snr), -1)).reshape(u_Snr.shape)
        return (weighted_Snr * u_Snr).sum(axis=(0, 2)) / 2

    def third_order(self, values_nN: np.ndarray) -> np.ndarray:
        """Sum of c_i c_j c_k <u_i, u_j, u_k> over i < j < k, by Newton's identity: (n,)."""
        u_Snr = self.looked_up(values_nN) * np.diag(self.weight_SS)[:, None, None]
        p1, p2, p3 = (u_Snr.sum(axis=0), (u_Snr**2).sum(axis=0), (u_Snr**3).sum(axis=0))
        return ((p1**3 - 3 * p1 * p2 + 2 * p3) / 6).sum(axis=1)


class Planted:
    """A planted model, drawn from its options; every part from a stream of its own.

    So pattern 1 stays what it is when there are more patterns, and rows stay what they are when there are more rows.

    Raises:
        ValueError: `bayes_auc` cannot be reached, or a component is the same for all rows.
    """

    def __init__(self, options: PlantedOptions) -> None:
        self.options = options
        self.cardinalities = cardinalities(options)
        self.fields = [self._field(i, size) for i, size in enumerate(self.cardinalities)]
        order_N = self._rng("spurious").permutation(len(self.fields))
        self.spurious = sorted(int(i) for i in order_N[: options.spurious_fields])
        self.active_fields = np.sort(order_N[options.spurious_fields :])
        normal = {
            int(i): self._rng("effect", i).standard_normal((self.cardinalities[i], 1)) for i in self.active_fields
        }
        self.effects = {i: self._centred(i, effect_D1) for i, effect_D1 in normal.items()}
        self.patterns = [self._pattern("pattern", p) for p in range(options.num_patterns)]
        self.third = self._pattern("third order", 0) if options.third_order_share else None
        shares = {"linear": options.linear_share}
        rest = max(0.0, 1 - options.linear_share - options.third_order_share)
        shares |= {f"pattern{p + 1}": rest / options.num_patterns for p in range(options.num_patterns)}
        shares |= {"third_order": options.third_order_share} if self.third else {}
        self._mean_T, self._sd_T = np.zeros(len(shares)), np.ones(len(shares))
        self.coefficients, self.bias = self._calibrate(shares)
        """Of every component in the logit, and what is added to them."""

    def _calibrate(self, shares: dict[str, float]) -> tuple[dict[str, float], float]:
        """Mean and sd of the components from rows of their own, then scale and bias of a logit with these shares."""
        rows = [self.values("calibration", block) for block in range(CALIBRATION_BLOCKS)]
        raw_nT = np.concatenate([self.components(values_nN) for values_nN in rows])
        self._mean_T, self._sd_T = raw_nT.mean(axis=0), raw_nT.std(axis=0)
        for name, sd in zip(shares, self._sd_T.tolist(), strict=True):
            if sd < 1e-6:  # all parts have length 1, so this is rounding; it would be blown up to variance 1
                raise ValueError(
                    f"dataset: {name} is the same for all rows: expected more values per field "
                    "(dataset.cardinalities), more dataset.centroids, or a dataset.own_share above 0"
                )
        weight_T = np.sqrt(list(shares.values()))
        logit_n = ((raw_nT - self._mean_T) / self._sd_T) @ weight_T
        scale, bias = scale_and_bias(logit_n, self.options.base_rate, self.options.bayes_auc)
        return dict(zip(shares, (scale * weight_T).tolist(), strict=True)), bias

    def values(self, *place: object) -> np.ndarray:
        """A whole block of rows, (n, N) int64; `place` names it."""
        rng = self._rng("values", *place)
        cluster_n = rng.integers(CLUSTERS, size=BLOCK)
        return np.stack([field.draw(rng, cluster_n, self.options.dependence) for field in self.fields], axis=1)

    def components(self, values_nN: np.ndarray) -> np.ndarray:
        """All components of rows, (n, T): those of `coefficients`, in its order."""
        linear_n = sum(effect_D1[values_nN[:, i], 0] for i, effect_D1 in self.effects.items())
        found = [linear_n, *(pattern.second_order(values_nN) for pattern in self.patterns)]
        found += [self.third.third_order(values_nN)] if self.third else []
        return (np.stack(found, axis=1) - self._mean_T) / self._sd_T

    def logits(self, components_nT: np.ndarray) -> np.ndarray:
        """The true logits z (n,)."""
        return self.bias + components_nT @ np.array(list(self.coefficients.values()))

    def labels(self, logit_n: np.ndarray, *place: object) -> np.ndarray:
        """Labels (n,) uint8 of a whole block, drawn with the probability that the logits say."""
        return (self._rng("labels", *place).random(BLOCK) < 1 / (1 + np.exp(-logit_n))).astype(np.uint8)

    def field_ranks(self) -> list[int]:
        """Rank of every field's latents, all patterns side by side: what an embedding needs to hold them."""
        return [
            rank([p.latents[list(p.fields_S).index(i)] for p in self.patterns if i in p.fields_S])
            for i in range(len(self.fields))
        ]

    def _rng(self, *purpose: object) -> np.random.Generator:
        """Counter-based, so a stream begins anywhere at no cost."""
        return np.random.Generator(np.random.Philox(key=derive(self.options.data_seed, "synthetic", *purpose)))

    def _field(self, i: int, size: int) -> Field:
        law_D = (np.arange(1, size + 1.0) + self.options.zipf_shift) ** -self.options.zipf
        law_D /= law_D.sum()
        start_C, dependence = self._rng("clusters", i).integers(size, size=CLUSTERS), self.options.dependence
        of_clusters_D = sum(np.roll(law_D, start) for start in start_C) / CLUSTERS if dependence else law_D
        return Field(np.cumsum(law_D), start_C, (1 - dependence) * law_D + dependence * of_clusters_D)

    def _pattern(self, kind: str, number: int) -> Pattern:
        rng, options = self._rng(kind, number), self.options
        size = min(options.fields_per_pattern, len(self.active_fields))
        fields_S = np.sort(rng.choice(self.active_fields, size, replace=False))
        half_SS = np.triu(rng.choice([-1, 1], (size, size)) * rng.uniform(0.5, 1.5, (size, size)), 1)
        weight_SS = half_SS + half_SS.T
        if kind == "third order":
            weight_SS = np.diag(rng.choice([-1, 1], size) * rng.uniform(0.5, 1.5, size))
        return Pattern(fields_S, [self._latents(kind, number, i) for i in fields_S], weight_SS)

    def _latents(self, kind: str, number: int, i: int) -> np.ndarray:
        """(D_i, r)."""
        rng, options, size = self._rng(kind, number, i), self.options, self.cardinalities[i]
        centroids = rng.standard_normal((options.centroids, options.rank))
        shared_Dr = centroids[rng.integers(options.centroids, size=size)]
        own_Dr = rng.standard_normal((size, options.rank))
        return self._centred(i, np.sqrt(1 - options.own_share) * shared_Dr + np.sqrt(options.own_share) * own_Dr)

    def _centred(self, i: int, values_Dr: np.ndarray) -> np.ndarray:
        """With mean 0 and mean square length 1 under the field's frequencies; 0 if all values are the same."""
        frequency_D = self.fields[i].frequency_D
        centred_Dr = values_Dr - frequency_D @ values_Dr
        length = np.sqrt(frequency_D @ (centred_Dr**2).sum(axis=1))
        is_rounding = length <= 1e-9 * np.abs(values_Dr).max()
        return np.zeros_like(centred_Dr) if is_rounding else centred_Dr / length


def cardinalities(options: PlantedOptions) -> list[int]:
    """D_i of every field."""
    if options.cardinalities is not None:
        return list(options.cardinalities)
    sizes = np.geomspace(options.min_cardinality, options.max_cardinality, options.num_fields).round().astype(int)
    if options.cardinality_order == "shuffled":
        rng = np.random.Generator(np.random.Philox(key=derive(options.data_seed, "synthetic", "cardinalities")))
        sizes = rng.permutation(sizes)
    return sizes.tolist()


def rank(latents: Sequence[np.ndarray]) -> int:
    """Numerical rank of matrices (D, r) side by side; 0 of none."""
    if not latents:
        return 0
    all_Dr = np.concatenate(latents, axis=1)
    return int(np.linalg.matrix_rank(all_Dr.T @ all_Dr, hermitian=True))
