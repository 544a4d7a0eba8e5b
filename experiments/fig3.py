"""Figure 3, Evidence I and II: information abundance of sub-embeddings E_i^{->j} of FFM and DCNv2, and its sums.

Fields are sorted by the information abundance (IA) of their own table, as in the paper. Measured on the best weights of
finished runs, means over seeds. The interaction-collapse law is asked of these means: for each field i, Spearman's rho
of IA(E_i^{->j}) and IA(E_j) over j, its mean over i, against permutations of the fields (`similarity.collapse_law`).
"""

import math
import sys
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from experiments import needs
from experiments.claims import Claim
from experiments.drawing import look, panels
from experiments.fig2 import name_of
from experiments.found import Cell, Runs
from experiments.output import Output
from experiments.study import Artefact, main
from experiments.sub_embeddings import sub_embeddings
from recsys_collapse.callback.figures import heat_map, ticks
from recsys_collapse.similarity import axis_sums, collapse_law
from recsys_collapse.stats import Interval


class Measured(NamedTuple):
    """Of a cell, first set: (S, N, N) and (S, N), S seeds."""

    fields: list[str]
    ia_SNN: torch.Tensor
    ia_SN: torch.Tensor


def draw(runs: Runs, output: Output) -> None:
    """A row of panels for each cell; the law as it is, and with centred tables."""
    found = {cell: measured(runs, cell) for cell in runs.cells}
    fields = max(len(one.fields) for one in found.values())
    side = max(3.0, 0.16 * fields + 2)
    with panels(len(found), 3, size=(side, side)) as (figure, axes):
        for row, (cell, one) in zip(axes, found.items(), strict=True):
            draw_row(row, name_of(cell), one)
    output.figure(figure, pl.concat([frame_of(cell, one) for cell, one in found.items()]))
    centred = {cell: measured(runs, cell, centred=True) for cell in runs.cells}
    laws = [law_claim(cell, one, "interaction-collapse law") for cell, one in found.items()]
    control = "... with the mean row taken off (control, not in the paper)"
    laws += [law_claim(cell, one, control) for cell, one in centred.items()]
    output.claim([law for law in laws if law is not None])
    if None in laws:
        output.notes.append("the law is asked of 3 fields or more that have different information abundance")


def measured(runs: Runs, cell: Cell, centred: bool = False) -> Measured:
    """Sub-embeddings of every seed."""
    loaded = [runs.loaded(run) for run in runs.cells[cell].values()]
    each = [sub_embeddings(run, centred) for run in loaded]
    ia_SNN = torch.stack([one.ia_MNN[0] for one in each])
    return Measured(loaded[0].store.fields, ia_SNN, torch.stack([one.ia_MN[0] for one in each]))


def law_claim(cell: Cell, one: Measured, text: str) -> Claim | None:
    """The law on the means over seeds, with its p-value made two-sided; None with too few fields."""
    ia_NN, ia_N = one.ia_SNN.nanmean(dim=0), one.ia_SN.nanmean(dim=0)
    law = collapse_law(ia_NN, ia_N)
    if not math.isfinite(law.p_value):
        return None
    each = [
        collapse_law(ia_NN, ia_N, permutations=1).mean_rho for ia_NN, ia_N in zip(one.ia_SNN, one.ia_SN, strict=True)
    ]
    quantity = "mean over i of Spearman's rho of IA(E_i→j) and IA(E_j), of means over seeds"
    quantity += f" (single seeds: {min(each):.2f} to {max(each):.2f})"
    two_sided = min(1.0, 2 * min(law.p_value, collapse_law(-ia_NN, ia_N).p_value))
    interval = Interval(law.mean_rho, None)
    return Claim(text, name_of(cell), quantity, interval, digits=2, p_value=two_sided, sources="permuted fields")


def frame_of(cell: Cell, one: Measured) -> pl.DataFrame:
    """field, towards, mean IA over seeds, and that of the field towards."""
    ia_NN, ia_N = one.ia_SNN.nanmean(dim=0), one.ia_SN.nanmean(dim=0)
    rows = [
        {**cell._asdict(), "field": i, "towards": j, "ia": ia_NN[a, b].item(), "ia_towards": ia_N[b].item()}
        for a, i in enumerate(one.fields)
        for b, j in enumerate(one.fields)
    ]
    return pl.DataFrame(rows)


def draw_row(row: Any, name: str, one: Measured) -> None:
    """Heat map; sum over j for each i; sum over i for each j, less the mean of i: the missing i = j would bend it."""
    ia_NN = one.ia_SNN.nanmean(dim=0)
    order_N = torch.argsort(one.ia_SN.nanmean(dim=0), stable=True)
    ia_NN, names = ia_NN[order_N][:, order_N], [one.fields[i] for i in order_N]
    image = heat_map(row[0], ia_NN.numpy(), names, names)
    row[0].figure.colorbar(image, ax=row[0])
    row[0].grid(False)
    row[0].set(title=f"{name}: IA(E_i→j)", xlabel="towards field j", ylabel="field i")
    of_field_1N, _ = axis_sums(ia_NN[None])
    _, towards_1N = axis_sums(ia_NN[None] - of_field_1N[..., None] / max(1, len(names) - 1))
    titles = ("sum over j", "sum over i of (IA - mean of i)")
    for place, sum_1N, title, along in zip(row[1:], (of_field_1N, towards_1N), titles, "ij", strict=True):
        place.bar(np.arange(len(names)), sum_1N[0].numpy(), color=look("ij".index(along))["color"])
        ticks(place, "x", names)
        place.set(title=title, xlabel=f"field {along}, by ascending IA(E_{along})")


ARTEFACT = Artefact("fig3", draw, check=needs.sub_embeddings, own_scale=True)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
