"""Figure 8d: multi-embedding DCNv2 whose sets are kept from different patterns (`norm_align`) scales less."""

import sys

from experiments import needs
from experiments.auc import auc_frame, contrasts, difference, line_cells, slopes
from experiments.claims import BELOW, Claim
from experiments.drawing import panels
from experiments.found import NAMES, Cell, Runs, one_model
from experiments.lines import AUC_LABEL, draw_lines, test_auc
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.sub_embeddings import patterns
from experiments.table1 import BOTH, PER_DOUBLING
from experiments.words import Words, numbers
from recsys_collapse.similarity import pattern_divergence
from recsys_collapse.stats import paired

KEPT = "norm_align"


def grids(words: Words) -> list[Words]:
    """The sizes above the base, where there are several sets; and the base, which both share."""
    larger = [scale for scale in numbers(words.get("scale", "2")) if scale > 1]
    if not larger:
        raise ValueError(f"scale={words['scale']}: expected sizes of 2 or more, where there are several sets")
    above = {"scale": ",".join(map(str, larger))} if "scale" in words else {}
    return [{**words, **above}, {**words, "scale": "1", "embed": "se", "regularizer": "none"}]


def draw(runs: Runs, output: Output) -> None:
    """Both lines from the base on, and the claims."""
    model = one_model(runs)
    base = {1: runs.of(model, "se", 1)}
    lines = {"ME": runs.line(model, "me"), "ME, divergence restricted": base | runs.line(model, "me", KEPT)}
    with panels(1, 1) as (figure, axes):
        draw_lines(axes[0, 0], lines, test_auc, start=1)
        axes[0, 0].set(title=f"{NAMES.get(model, model)} on {runs.dataset}", ylabel=AUC_LABEL)
    output.figure(figure, auc_frame(runs))
    free = line_cells(runs, model, "me")
    kept = [cell if cell.scale == 1 else cell._replace(regularizer=KEPT) for cell in free]
    top, name, less = free[-1], NAMES.get(model, model), "restricted - free"
    found = contrasts(runs, slopes(free, kept) | {"top": difference(top, kept[-1])})
    text, quantity = "restricting the sets' divergence takes scalability away", f"{PER_DOUBLING}, {less}"
    made = [
        Claim(text, name, quantity, found["difference"], kind=BELOW, sources=BOTH),
        Claim(f"... and AUC at {top.scale}x", name, f"test AUC, {less}", found["top"], kind=BELOW, sources=BOTH),
    ]
    output.claim_if(alike(runs, top, name), made)


def alike(runs: Runs, top: Cell, name: str) -> Claim:
    """Whether the regularizer did what it is for."""
    free, kept = (
        {seed: pattern_divergence(patterns(runs.loaded(run))).variation for seed, run in runs.cells[cell].items()}
        for cell in (top, top._replace(regularizer=KEPT))
    )
    quantity = f"sd / mean over sets of ||W_i→j||, mean over pairs, {top.scale}x, restricted - free"
    return Claim("check: the sets' patterns diverge less", name, quantity, paired(kept, free), digits=3, kind=BELOW)


ARTEFACT = Artefact(
    "fig8d", draw, grids=grids, check=needs.all_of(needs.pair_projections, needs.values("regularizer", "none", KEPT))
)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
