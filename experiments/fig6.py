"""Figure 6, Evidence IV: DNN, without explicit interaction of pairs, collapses less than DCNv2 and scales worse."""

import sys

from experiments.auc import auc_frame, contrasts, line_cells, own_base
from experiments.claims import Claim
from experiments.drawing import panels
from experiments.found import NAMES, Runs, abundance
from experiments.lines import draw_lines, test_auc
from experiments.study import Artefact, Output, main
from experiments.table1 import BOTH, PER_DOUBLING
from recsys_collapse.stats import paired

WITH, WITHOUT = "dcnv2", "dnn"


def draw(runs: Runs, output: Output) -> None:
    """AUC and information abundance by embedding size, and the claims."""
    lines = {NAMES[model]: runs.line(model, "se") for model in (WITH, WITHOUT)}
    with panels(1, 2) as (figure, axes):
        draw_lines(axes[0, 0], lines, test_auc)
        draw_lines(axes[0, 1], lines, abundance)
        axes[0, 0].set(title="(a)", ylabel="test AUC")
        axes[0, 1].set(title="(b)", ylabel="IA / random")
    frame = auc_frame(runs)
    output.figure(figure, frame)
    if len(runs.scales) > 1:
        output.claim(claims(runs))


def claims(runs: Runs) -> list[Claim]:
    """IA at the largest size; the slopes."""
    top = runs.scales[-1]
    one, other = ({s: abundance(run) for s, run in runs.of(model, "se", top).items()} for model in (WITH, WITHOUT))
    slopes = contrasts(runs, own_base(*(line_cells(runs, model, "se") for model in (WITH, WITHOUT))))
    both = f"{NAMES[WITHOUT]} - {NAMES[WITH]}"
    less, worse = "DNN collapses less than DCNv2", "... yet scales worse"
    return [
        Claim(less, both, f"IA / random at {top}x", paired(other, one), digits=3),
        Claim("DNN gets worse with size", "DNN", PER_DOUBLING, slopes["other"], above=False, sources=BOTH),
        Claim(worse, both, PER_DOUBLING, slopes["difference"], above=False, sources=BOTH),
    ]


ARTEFACT = Artefact("fig6", draw)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
