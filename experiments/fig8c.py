"""Figure 8c: the interaction patterns ||W_{i->j}^(m)||_F of the sets of multi-embedding DCNv2.

Measured on the best weights of finished runs, first cross layer. Norms of new projections differ by chance, so how much
they vary between sets is compared with new models (`similarity.random_pattern_divergence`).
"""

import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import polars as pl
from torch import Tensor

from experiments import needs
from experiments.claims import BELOW, Claim
from experiments.drawing import panels
from experiments.fig2 import name_of
from experiments.found import Cell, Runs
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.sub_embeddings import patterns
from experiments.words import several_sets
from recsys_collapse.callback.figures import heat_map, limits
from recsys_collapse.similarity import pattern_divergence, random_pattern_divergence
from recsys_collapse.stats import student

SHOWN = 5  # sets


def draw(runs: Runs, output: Output) -> None:
    """Heat maps of some sets of the first seed; whether patterns vary more than by chance."""
    frames, vary = [], []
    pairs = {cell: {seed: loaded(runs, run) for seed, run in own.items()} for cell, own in runs.cells.items()}
    names = next(iter(next(iter(pairs.values())).values()))[0]
    side = max(2.0, 0.13 * len(names))
    columns = min(SHOWN, max(cell.scale for cell in pairs))
    with panels(len(pairs), columns, size=(side, side)) as (figure, axes):
        for row, (cell, by_seed) in zip(axes, pairs.items(), strict=True):
            fields, norm_MNN = by_seed[min(by_seed)]
            draw_sets(figure, row, name_of(cell), fields, norm_MNN)
            frames += [frame_of(cell, seed, *own) for seed, own in by_seed.items()]
            norms = [norm_MNN for _, norm_MNN in by_seed.values()]
            vary += claims(cell, next(iter(runs.cells[cell].values()))["embed_size"], norms)
    output.figure(figure, pl.concat(frames))
    output.claim(vary)


def loaded(runs: Runs, run: dict[str, Any]) -> tuple[list[str], Tensor]:
    """Names of the fields, and norms (M, N, N)."""
    found = runs.loaded(run)
    return found.store.fields, patterns(found)


def claims(cell: Cell, embed_size: int, norms: Sequence[Tensor]) -> list[Claim]:
    """Variation over sets and correlation of sets, less those of new models: norms may vary more and yet agree."""
    own = [pattern_divergence(norm_MNN) for norm_MNN in norms]
    new = random_pattern_divergence(*norms[0].shape[:2], embed_size)
    vary = student([found.variation - new.variation for found in own])
    agree = student([found.correlation - new.correlation for found in own])
    name, less = name_of(cell), "trained - new models"
    quantity = f"sd / mean over sets of the norms, mean over pairs, {less}"
    return [
        Claim("sets learn different interaction patterns", name, quantity, vary, digits=4),
        Claim(
            "... and are no more alike than by chance", name, f"correlation of two sets' norms, {less}", agree, 3, BELOW
        ),
    ]


def draw_sets(figure: Any, row: Any, name: str, fields: list[str], norm_MNN: Tensor) -> None:
    """The first sets, one scale of colours."""
    shared = limits(norm_MNN[: len(row)].numpy())
    for m, place in enumerate(row):
        if m >= len(norm_MNN):
            place.set_axis_off()
            continue
        image = heat_map(place, norm_MNN[m].numpy(), fields if m == 0 else [], [], **shared)
        place.grid(False)
        place.set(title=f"{name}, set {m}" if m == 0 else f"set {m}", xlabel="towards field j")
    figure.colorbar(image, ax=list(row), label="norm", shrink=0.7)
    row[0].set_ylabel("field i")


def frame_of(cell: Cell, seed: int, fields: list[str], norm_MNN: Tensor) -> pl.DataFrame:
    """seed, embedding_set, field, towards, norm."""
    places = product(range(len(norm_MNN)), range(len(fields)), range(len(fields)))
    rows = [
        {**cell._asdict(), "seed": seed, "embedding_set": m, "field": fields[i], "towards": fields[j], "norm": norm}
        for (m, i, j), norm in zip(places, norm_MNN.flatten().tolist(), strict=True)
    ]
    return pl.DataFrame(rows)


ARTEFACT = Artefact(
    "fig8c", draw, grids=several_sets, check=needs.all_of(needs.values("embed", "me"), needs.pair_projections)
)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
