"""Figure 8b: the embedding sets of multi-embedding DCNv2 differ in their information abundance.

Sets differ by chance even before training, so how much they do is compared with the same run's initialisation.
"""

import sys

import polars as pl

from experiments import needs
from experiments.claims import Claim
from experiments.drawing import panels
from experiments.fig2 import METRIC, field_frame, name_of
from experiments.found import Runs
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.words import several_sets
from recsys_collapse.callback.figures import heat_map
from recsys_collapse.stats import paired


def draw(runs: Runs, output: Output) -> None:
    """A heat map (field x set) of the first seed, IA relative to random tables of the same shape."""
    frames = {cell: field_frame(runs, cell, every_set=True).drop_nulls("embedding_set") for cell in runs.cells}
    frame = pl.concat(list(frames.values())).with_columns((pl.col("ia") / pl.col("random")).alias("relative"))
    count = frame["field"].n_unique()
    with panels(1, len(frames), size=(4.2, max(2.6, 0.18 * count + 1))) as (figure, axes):
        for place, cell in zip(axes[0], frames, strict=True):
            own = frame.filter(*(pl.col(key) == value for key, value in cell._asdict().items()))
            own = own.filter(pl.col("seed") == pl.col("seed").min())
            names = own["field"].unique(maintain_order=True).to_list()
            sets = [str(m) for m in sorted(own["embedding_set"].unique())]
            values = own.pivot("embedding_set", index="field", values="relative").select(sets).to_numpy()
            image = heat_map(place, values, names, sets, aspect="auto")
            place.grid(False)
            place.set(title=f"{name_of(cell)} on {runs.dataset}: IA / random", xlabel="embedding set")
            figure.colorbar(image, ax=place)
    output.figure(figure, frame)
    made = []
    for cell, by_seed in runs.cells.items():
        spread = {
            epoch: {seed: spread_of(runs.frame(run, "collapse", epoch)) for seed, run in by_seed.items()}
            for epoch in (None, -1)
        }
        quantity = "sd over sets of IA / random, mean over fields, trained - initialisation"
        claim = Claim(
            "sets vary in information abundance", name_of(cell), quantity, paired(spread[None], spread[-1]), 4
        )
        made.append(claim)
    output.claim(made)


def spread_of(collapse: pl.DataFrame) -> float:
    """Sample standard deviation over sets of IA / random, mean over fields."""
    own = collapse.filter((pl.col("metric") == METRIC) & pl.col("embedding_set").is_not_null())
    relative = own.with_columns((pl.col("value") / pl.col("random_value")).alias("relative"))
    found = relative.group_by("field").agg(pl.col("relative").std())["relative"].mean()
    assert isinstance(found, float)
    return found


ARTEFACT = Artefact("fig8b", draw, grids=several_sets, check=needs.values("embed", "me"))

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
