"""Figure 8d: multi-embedding DCNv2 whose sets are kept from different patterns (`norm_align`) scales less."""

import sys

from experiments.auc import auc_frame, contrasts, difference, line_cells, shared_base
from experiments.claims import Claim
from experiments.drawing import panels
from experiments.found import NAMES, Cell, Runs
from experiments.lines import draw_lines, test_auc
from experiments.study import Artefact, Output, Words, main, numbers
from experiments.table1 import BOTH, PER_DOUBLING

KEPT = "norm_align"


def grids(words: Words) -> list[Words]:
    """The sizes above the base, where there are several sets; and the base, which both share."""
    above = {} if "scale" not in words else {"scale": ",".join(str(s) for s in numbers(words["scale"]) if s > 1)}
    return [{**words, **above}, {**words, "scale": "1", "embed": "se", "regularizer": "none"}]


def draw(runs: Runs, output: Output) -> None:
    """Both lines from the base on, and the claims."""
    model = runs.models[0]
    base = {1: runs.of(model, "se", 1)}
    lines = {"ME": runs.line(model, "me"), "ME, divergence restricted": base | runs.line(model, "me", KEPT)}
    with panels(1, 1) as (figure, axes):
        draw_lines(axes[0, 0], lines, test_auc, start=1)
        axes[0, 0].set(title=f"{NAMES.get(model, model)} on {runs.dataset}", ylabel="test AUC")
    output.figure(figure, auc_frame(runs))
    free, kept = line_cells(runs, model, "me", above=1), line_cells(runs, model, "me", KEPT, above=1)
    top = free[-1]
    asked = shared_base(Cell(model, "se", 1), free, kept) | {"top": difference(top, top._replace(regularizer=KEPT))}
    found, about = contrasts(runs, asked), NAMES.get(model, model)
    text, with_less = "restricting the sets' divergence takes scalability away", "restricted - free"
    slope = Claim(text, about, f"{PER_DOUBLING}, {with_less}", found["difference"], above=False, sources=BOTH)
    text = f"... and AUC at {top.scale}x"
    output.claim([slope, Claim(text, about, f"test AUC, {with_less}", found["top"], above=False, sources=BOTH)])


ARTEFACT = Artefact("fig8d", draw, grids=grids)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
