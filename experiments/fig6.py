"""Figure 6, Evidence IV: DNN, without explicit interaction of pairs, collapses less than DCNv2 and scales worse."""

import sys

from experiments import needs
from experiments.auc import auc_frame, contrasts, line_cells, slopes
from experiments.claims import BELOW, Claim
from experiments.drawing import panels
from experiments.found import NAMES, Runs, abundance
from experiments.lines import AUC_LABEL, draw_lines, test_auc
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.table1 import BOTH, PER_DOUBLING
from recsys_collapse.stats import paired

WITH, WITHOUT = "dcnv2", "dnn"


def draw(runs: Runs, output: Output) -> None:
    """AUC and information abundance by embedding size, and the claims."""
    lines = {NAMES[model]: runs.line(model, "se") for model in (WITH, WITHOUT)}
    with panels(1, 2) as (figure, axes):
        draw_lines(axes[0, 0], lines, test_auc)
        draw_lines(axes[0, 1], lines, abundance)
        axes[0, 0].set(title="(a)", ylabel=AUC_LABEL)
        axes[0, 1].set(title="(b)", ylabel="IA / random (95% over seeds)")
    frame = auc_frame(runs)
    output.figure(figure, frame)
    output.claim(claims(runs))


def claims(runs: Runs) -> list[Claim]:
    """IA at the largest size; the slopes, if there are several sizes."""
    top = runs.scales[-1]
    one, other = ({s: abundance(run) for s, run in runs.of(model, "se", top).items()} for model in (WITH, WITHOUT))
    both = f"{NAMES[WITHOUT]} - {NAMES[WITH]}"
    made = [Claim("DNN collapses less than DCNv2", both, f"IA / random at {top}x", paired(other, one), 3)]
    lines = [line_cells(runs, model, "se") for model in (WITH, WITHOUT)]
    if min(map(len, lines)) > 1:
        found = contrasts(runs, slopes(*lines))
        made += [
            Claim("DNN gets worse with size", "DNN", PER_DOUBLING, found["other"], kind=BELOW, sources=BOTH),
            Claim("... and scales worse", both, PER_DOUBLING, found["difference"], kind=BELOW, sources=BOTH),
        ]
    return made


ARTEFACT = Artefact("fig6", draw, check=needs.values("model", WITH, WITHOUT))

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
