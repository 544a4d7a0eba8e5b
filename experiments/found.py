"""The finished runs of a study, and what its figures read from them.

Shapes: n test rows, M embedding sets, N fields, K embedding size per set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recsys_collapse.load import LoadedRun, load_run
from recsys_collapse.runs.identity import flatten
from recsys_collapse.runs.table import relative_abundance

NAMES = {"dnn": "DNN", "ipnn": "IPNN", "nfwfm": "NFwFM", "xdeepfm": "xDeepFM", "dcnv2": "DCNv2",
         "finalmlp": "FinalMLP", "ffm": "FFM", "fm": "FM"}  # fmt: skip


class Cell(NamedTuple):
    """Runs that differ in their seed only."""

    model: str
    embed: str
    scale: int
    regularizer: str = "none"


@dataclass(frozen=True)
class Runs:
    """Finished runs on one data set, each cell and seed once.

    Raises:
        ValueError: two runs of the same cell and seed, or of different data: names what tells them apart.
    """

    output_dir: Path
    results: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        self._refuse_different("dataset", "split_seed", "protocol")
        for cell, runs in self._listed().items():
            for seed in {run["seed"] for run in runs}:
                same = [flatten(run["identity"]) for run in runs if run["seed"] == seed]
                keys = sorted({key for flat in same for key in flat if flat[key] != same[0].get(key)})
                if len(same) > 1:
                    raise ValueError(
                        f"{' '.join(map(str, cell))}, seed {seed}: {len(same)} runs that differ in {', '.join(keys)}: "
                        "an artefact of the paper compares models, sizes, SE and ME; give one value for all else"
                    )

    def _refuse_different(self, *keys: str) -> None:
        for key in keys:
            if len(values := sorted({str(run[key]) for run in self.results})) > 1:
                raise ValueError(f"{key}={','.join(values)}: expected one for an artefact; run the command for each")

    def _listed(self) -> dict[Cell, list[dict[str, Any]]]:
        found: dict[Cell, list[dict[str, Any]]] = {}
        for run in self.results:
            found.setdefault(Cell(run["model"], run["embed"], run["scale"], run["regularizer"]), []).append(run)
        return found

    @cached_property
    def cells(self) -> dict[Cell, dict[int, dict[str, Any]]]:
        """Results by cell and seed."""
        return {cell: {run["seed"]: run for run in runs} for cell, runs in sorted(self._listed().items())}

    @property
    def models(self) -> list[str]:
        """In the paper's order, then the others."""
        known = {cell.model for cell in self.cells}
        return [model for model in NAMES if model in known] + sorted(known - {*NAMES})

    @property
    def scales(self) -> list[int]:
        """Ascending."""
        return sorted({cell.scale for cell in self.cells})

    @property
    def dataset(self) -> str:
        """Its name."""
        return self.results[0]["dataset"]

    def of(self, model: str, embed: str, scale: int, regularizer: str = "none") -> dict[int, dict[str, Any]]:
        """Results of a cell by seed, empty if there are none. At scale 1, SE and ME are the same model."""
        return self.cells.get(Cell(model, "se" if scale == 1 else embed, scale, regularizer), {})

    def line(self, model: str, embed: str, regularizer: str = "none") -> dict[int, dict[int, dict[str, Any]]]:
        """Results by scale and seed, the base model first."""
        found = {scale: self.of(model, embed, scale, regularizer) for scale in self.scales}
        return {scale: runs for scale, runs in found.items() if runs}

    def folder(self, run: dict[str, Any]) -> Path:
        """Where a run's files are."""
        return self.output_dir / "runs" / run["run_name"]

    def scores(self, run: dict[str, Any]) -> tuple[Any, Any]:
        """Logits and labels (n,) of the test rows.

        Raises:
            ValueError: the run kept none.
        """
        path = self.folder(run) / "test_scores.parquet"
        if not path.is_file():
            raise ValueError(f"{path} is not there, and intervals of AUC need it: remove {path.parent} to run it again")
        frame = pl.read_parquet(path, columns=["label", "logit"])
        return frame["logit"].to_numpy(), frame["label"].to_numpy()

    def frame(self, run: dict[str, Any], name: str, epoch: int | None = None) -> pl.DataFrame:
        """What a callback measured, at the best epoch or at another one (-1: initialisation).

        Raises:
            ValueError: the run has no such file.
        """
        path = self.folder(run) / f"{name}.parquet"
        if not path.is_file():
            raise ValueError(
                f"{path} is not there: the run was made without callback=[spectrum]; remove it to run again"
            )
        return pl.read_parquet(path).filter(pl.col("epoch") == (run["best_epoch"] if epoch is None else epoch))

    def epochs(self, run: dict[str, Any]) -> pl.DataFrame:
        """`epochs.jsonl`."""
        return pl.read_ndjson(self.folder(run) / "epochs.jsonl", infer_schema_length=None)

    def loaded(self, run: dict[str, Any]) -> LoadedRun:
        """Its backbone with the best weights, and its data."""
        return load_run(self.folder(run))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.results)


def abundance(run: dict[str, Any]) -> float:
    """Mean over fields of IA / random IA, all sets side by side."""
    value = relative_abundance(run)["ia_relative"]
    assert value is not None
    return value


def one_model(runs: Runs) -> str:
    """The model of runs that have one.

    Raises:
        ValueError: they have several.
    """
    if len(runs.models) > 1:
        raise ValueError(f"model={','.join(runs.models)}: expected one for this figure; run the command for each")
    return runs.models[0]
