"""Finished runs that no training made: every number of every file is chosen, and told apart from its neighbours.

At the best epoch, at another one and at initialisation (-1), of every field, set and seed, values differ, so that what
reads the wrong ones finds another number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments import claims
from experiments.drawing import save_data
from experiments.found import Runs
from experiments.output import Output
from recsys_collapse.callback.spectrum import COLLAPSE, SPECTRA
from recsys_collapse.stats import Interval
from tests.test_records import result

BEST, OTHER, START = 2, 4, -1
"""Epochs: the best one, the last one, initialisation."""
CARDINALITY = {"big": 500, "two": 2, "mid": 40, "low": 9, "few": 5, "top": 90}
"""Of the fields, in the order of the data set, which is not the order of a figure."""
SHIFT = {"big": 0.03, "two": -0.01, "mid": 0.02, "low": -0.04, "few": 0.05, "top": -0.05}
"""Of a field's IA / random from the mean over fields: sum 0."""
RANDOM = {"big": 7.0, "two": 1.5, "mid": 5.5, "low": 3.25, "few": 2.5, "top": 5.0}
"""IA of a random table of a field's shape, all sets side by side; that of a single set is `ONE_SET` times as much."""
ONE_SET = 0.4
SPREAD = {"big": 1.0, "two": 2.0, "mid": 4.0, "low": 5.0, "few": 2.5, "top": 3.5}
"""How much the sets of a field differ, relative to `spread`: mean 3."""
SIZE = 2
"""Embedding size at 1x."""
SIDE = 500
"""Test rows of each class: one AUC is a multiple of 1 / SIDE^2."""


def scores(auc: float, seed: int, side: int = SIDE) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Logits and labels (2 side,) with exactly this AUC, rounded to pairs; models of a seed differ in the same way.

    The i-th positive is above i + s negatives, so that two models differ by nearly the same in every row: what a
    difference of them varies over test rows is small.
    """
    pairs = round(auc * side * side)
    low, high = -side, side
    while high - low > 1:  # the largest shift that is not above
        middle = (low + high) // 2
        low, high = (middle, high) if _below(middle, side).sum() <= pairs else (low, middle)
    below = _below(low, side)
    open_places = np.flatnonzero(_below(low + 1, side) > below)
    below[open_places[: pairs - below.sum()]] += 1
    positive, negative = below - 0.5, np.arange(side, dtype=float)
    order = np.random.default_rng(seed).permutation(side)
    label = np.concatenate([np.ones(side, np.int8), np.zeros(side, np.int8)])
    mixed = np.random.default_rng(7).permutation(2 * side)  # of rows: the same for all seeds
    logit = np.concatenate([positive[order], negative[order]])
    return (logit / 10 - 3)[mixed], label[mixed]


def _below(shift: int, side: int) -> NDArray[np.int64]:
    return np.clip(np.arange(side) + shift, 0, side)


def epoch_rows(
    *, train: Sequence[float], valid: Sequence[float], auc: Sequence[float], ia: Sequence[float]
) -> list[dict[str, Any]]:
    """Of epochs.jsonl: initialisation, then one for each value of `train`; `ia` has one more, the first."""
    rows: list[dict[str, Any]] = [
        {"epoch": START, "train_loss": None, "val_auc": 0.5, "val_logloss": 0.7, "ia_relative": ia[0]}
    ]
    for epoch, (loss, logloss, area, abundance) in enumerate(zip(train, valid, auc, ia[1:], strict=True)):
        rows.append(
            {"epoch": epoch, "train_loss": loss, "val_auc": area, "val_logloss": logloss, "ia_relative": abundance}
        )
    return rows


@dataclass
class MadeUp:
    """A folder that fills with finished runs."""

    folder: Path
    dataset: str = "clicks"
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runs(self) -> Runs:
        """As an artefact gets them."""
        return Runs(self.folder, tuple(self.results))

    def add(
        self,
        model: str = "dcnv2",
        embed: str = "se",
        scale: int = 1,
        regularizer: str = "none",
        seed: int = 0,
        *,
        auc: float = 0.7,
        relative: float = 0.5,
        spread: tuple[float, float] = (0.02, 0.01),
        small: tuple[Mapping[str, int], Mapping[str, int]] | None = None,
        epochs: list[dict[str, Any]] | None = None,
        best: int = BEST,
        cardinality: Mapping[str, int] = CARDINALITY,
        shift: Mapping[str, float] = SHIFT,
        logits: tuple[NDArray[np.float64], NDArray[Any]] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """A run and its files.

        Args:
            model: of the cell, as are the next three.
            embed: likewise.
            scale: likewise.
            regularizer: likewise.
            seed: of the cell.
            auc: of the test rows.
            relative: mean over fields of IA / random at the best epoch, whole tables. It is .25 more at another epoch,
                and .9 at initialisation.
            spread: how far neighbouring sets are apart in IA / random, mean over fields: trained, initialisation.
            small: how many singular values of every field are below half of the largest: trained, initialisation.
            epochs: of epochs.jsonl.
            best: epoch, not the last one.
            cardinality: of every field.
            shift: of every field's IA / random from the mean.
            logits: and labels, in place of those of `auc`.
            more: keys of the result.
        """
        num_sets = scale if embed == "me" else 1
        whole = {name: (relative + shift[name]) * RANDOM[name] for name in cardinality}
        found = result(
            **{
                "dataset": self.dataset, "model": model, "embed": embed, "scale": scale, "regularizer": regularizer,
                "seed": seed, "num_sets": num_sets, "embed_size": SIZE * scale // num_sets, "split_seed": 0,
                "protocol": "paper", "test_auc": auc, "val_auc": auc + 0.011, "test_logloss": 1.2 - auc,
                "best_epoch": best, "null_reasons": {}, "code_version": "1", "data_fingerprint": "f",
                "parameters": {"embedding": 1000 * scale, "dense": 70 * scale if embed == "se" else 60 + 10 * scale},
                "flops_per_sample": 300 * scale,
                "information_abundance": {
                    name: {"whole": whole[name], "random": RANDOM[name], "random_per_set": ONE_SET * RANDOM[name],
                           "per_set": [0.3 * RANDOM[name]] * num_sets}
                    for name in cardinality
                },
            }
            | more
        )  # fmt: skip
        name = f"{model}-{embed}-{scale}x-{regularizer}-s{seed}"
        found |= {"run_name": name, "run_id": f"id of {name}"}
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True)
        logit, label = logits or scores(auc, seed)
        pl.DataFrame({"label": label, "logit": logit}).write_parquet(folder / "test_scores.parquet")
        self._collapse(best, relative, spread, num_sets, cardinality, shift).write_parquet(folder / "collapse.parquet")
        self._spectra(best, small, SIZE * scale, cardinality).write_parquet(folder / "spectra.parquet")
        rows = epochs or epoch_rows(
            train=[0.5, 0.45, 0.4, 0.35, 0.3],
            valid=[0.55, 0.5, 0.48, 0.49, 0.5],
            auc=[0.6, 0.65, auc + 0.011, 0.66, 0.64],
            ia=[0.9, 0.8, 0.7, relative, relative + 0.1, relative + 0.25],
        )
        (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.results.append(found)
        return found

    def _collapse(
        self,
        best: int,
        relative: float,
        spread: tuple[float, float],
        num_sets: int,
        cardinality: Mapping[str, int],
        shift: Mapping[str, float],
    ) -> pl.DataFrame:
        rows = []
        sets = [None, *range(num_sets)] if num_sets > 1 else [None]
        of_epoch = {START: (0.9, spread[1]), best: (relative, spread[0]), OTHER: (relative + 0.25, 3 * spread[0])}
        for (epoch, (mean, apart)), name, m in product(of_epoch.items(), cardinality, sets):
            random = RANDOM[name] * (1 if m is None else ONE_SET)
            own = mean + shift[name] if m is None else 0.3 + apart * SPREAD[name] / 3 * m
            for metric, factor in (("information_abundance", 1.0), ("information_abundance@centred", 1.7)):
                rows.append((epoch, name, m, cardinality[name], metric, factor * own * random, random, None))
            rows.append((epoch, name, m, cardinality[name], "stable_rank", 0.1, 0.2, None))
        return pl.DataFrame(rows, schema=COLLAPSE, orient="row")

    def _spectra(
        self,
        best: int,
        small: tuple[Mapping[str, int], Mapping[str, int]] | None,
        columns: int,
        cardinality: Mapping[str, int],
    ) -> pl.DataFrame:
        rows = []
        trained, new = small or ({}, {})
        for (epoch, counts), (place, name) in product(
            ((START, new), (best, trained), (OTHER, {})), enumerate(cardinality)
        ):
            length, largest = min(columns, cardinality[name]), 10.0 / (1 + place)
            below = min(counts.get(name, 0), length - 1)
            values = [largest * (1 - 0.01 * k) for k in range(length - below)]
            values += [largest * (0.45 - 0.01 * k if k < below - 1 else 0.05) for k in range(below)]  # one below .1
            rows += [(epoch, name, None, k, value) for k, value in enumerate(values)]
        return pl.DataFrame(rows, schema=SPECTRA, orient="row")


@dataclass
class Shown(Output):
    """An output whose figures can be looked at: not rendered, only their data are written."""

    drawn: dict[str, Any] = field(default_factory=dict)

    def figure(self, figure: Any, data: pl.DataFrame, name: str = "") -> None:
        """Keep the figure as it is."""
        self.drawn[name or self.artefact] = figure
        self.figures.append(name or self.artefact)
        save_data(data, self.folder, name or self.artefact)

    def csv(self, name: str = "") -> pl.DataFrame:
        """What was written."""
        return pl.read_csv(self.folder / f"{name or self.artefact}.csv", infer_schema_length=None)

    def about(self, start: str) -> dict[str, Any]:
        """The claims whose text starts so, by what they are asked of."""
        exact = any(claim.text == start for claim in self.claims)
        found = [c for c in self.claims if (c.text == start if exact else c.text.startswith(start))]
        assert found and len({claim.text for claim in found}) == 1
        return {claim.about: claim for claim in found}

    def only(self, start: str) -> Any:
        """The one claim whose text starts so."""
        (found,) = self.about(start).values()
        return found


def lines_of(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """What `errorbar` drew in a panel: heights and half lengths of the bars, by the line's label."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container
        ends = [segment[:, 1] for segment in bars.get_segments()]
        found[container.get_label()] = (
            [float(y) for y in line.get_ydata()],
            [float(high - low) / 2 for low, high in ends],
        )
    return found


SEEDS = (0, 1, 2)
NOISE = {0: 0.0, 1: 0.000004, 2: -0.000004}
"""Of the test AUC of a seed, in what only its size or its kind tells apart: sum 0."""


def claim_row(text: str = "it holds", **more: Any) -> dict[str, Any]:
    found = claims.decided([claims.Claim(text, "DNN", "number", Interval(0.5, 0.01, 7), digits=3)])[0]
    return found.row() | more


def artefact_json(name: str, **more: Any) -> dict[str, Any]:
    return {"artefact": name, "figures": [], "tables": [], "notes": [], "claims": [], "code_version": "abc",
            "command": f"python -m experiments.{name}", "dataset": "mini", "data_fingerprint": "f", "seeds": [0, 1],
            "runs": ["r"], "run_versions": ["1"]} | more  # fmt: skip
