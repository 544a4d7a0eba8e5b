"""Table 1 with Tables 3 and 4, and Figures 7, 9 and 10: test AUC of every model, SE and ME, by embedding size.

The paper's claims are asked of every model: SE does not scale, ME does, and the difference of the two slopes. On Criteo
and Avazu every AUC also stands beside the paper's.
"""

import statistics
import sys
from dataclasses import replace
from typing import Any

import polars as pl
from rich.table import Table

from experiments.auc import MARGIN, auc_frame, contrasts, difference, line_cells, slopes
from experiments.claims import AT_MOST, WITHIN, Claim
from experiments.drawing import panels
from experiments.found import NAMES, Cell, Runs
from experiments.lines import AUC_LABEL, draw_lines, test_auc
from experiments.output import Output
from experiments.study import Artefact, main
from recsys_collapse.paper import paper_cell, reached
from recsys_collapse.stats import minimum_detectable

BOTH = "seeds and test rows"
IN_PAPER = ("criteo", "avazu")
SLIGHTLY = ("dcnv2", "nfwfm")
"""Whose SE gains slightly in the paper: 0.6e-4 to 5.6e-4 AUC per doubling."""
PER_DOUBLING = "test AUC per doubling of the size"


def draw(runs: Runs, output: Output) -> None:
    """Both tables, both figures, the claims."""
    frame = auc_frame(runs)
    output.table(auc_table(runs, frame, spread=False), frame)
    output.table(auc_table(runs, frame, spread=True), frame, detailed_name(runs.dataset))
    output.figure(scalability(runs), frame, "fig7")
    output.figure(by_model(runs), frame, {"criteo": "fig9", "avazu": "fig10"}.get(runs.dataset, "fig9_10"))
    if runs.dataset in IN_PAPER:
        beside_the_paper(runs, output)
    made = {model: claims(runs, model) for model in runs.models}
    output.claim([claim for own in made.values() for claim in own])
    unasked = [NAMES.get(model, model) for model, own in made.items() if not any(c.kind == AT_MOST for c in own)]
    if unasked:
        output.notes.append(f"{', '.join(unasked)}: slopes need two sizes or more of both SE and ME; not asked")


def detailed_name(dataset: str) -> str:
    """Of the table with standard deviations: Criteo's is Table 3, Avazu's Table 4."""
    return {"criteo": "table3", "avazu": "table4"}.get(dataset, "table3_4")


def claims(runs: Runs, model: str) -> list[Claim]:
    """What the paper says of every model, as far as there are runs for it."""
    single, several = line_cells(runs, model, "se"), line_cells(runs, model, "me")
    name, made = NAMES.get(model, model), list[Claim]()
    about = f"{name} (paper: slightly)" if model in SLIGHTLY else name
    if len(single) > 1 and len(several) > 1:
        found = contrasts(runs, slopes(single, several))
        made += [
            Claim("SE scales poorly", about, f"SE: {PER_DOUBLING}, at most {MARGIN}", found["one"], 5, AT_MOST, MARGIN),
            Claim("SE is flat", about, f"SE: {PER_DOUBLING}, within ±{MARGIN}", found["one"], 5, WITHIN, MARGIN),
            Claim("ME scales", name, f"ME: {PER_DOUBLING}", found["other"]),
            Claim("ME scales better than SE", name, f"ME - SE: {PER_DOUBLING}", found["difference"]),
        ]
    for top in [cell for cell in several if cell.scale > 1][-1:]:
        others = {"base": Cell(model, "se", 1), f"SE {top.scale}x": top._replace(embed="se")}
        for label, other in others.items():
            if other in runs.cells:
                gain = contrasts(runs, {"gain": difference(other, top)})["gain"]
                text = "the largest ME is better than " + (
                    "the base model" if label == "base" else "SE of the same size"
                )
                made.append(Claim(text, name, f"test AUC, ME {top.scale}x - {label}", gain))
    return [replace(claim, sources=BOTH) for claim in made]


def auc_table(runs: Runs, frame: pl.DataFrame, spread: bool) -> Table:
    """As the paper's: the best of SE underlined, of ME bold, with all that are at most 0.0001 below."""
    seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
    table = Table(
        title=f"test AUC on {runs.dataset}, mean {'± sample sd ' * spread}over seeds {seeds}",
        caption="best of SE underlined, of ME bold, as in the paper with what is at most 0.0001 below; it is no test",
    )
    for name in ("model", "", *("base" if scale == 1 else f"{scale}x" for scale in runs.scales)):
        table.add_column(name, justify="left" if name in ("model", "") else "right")
    for model in runs.models:
        for embed, style in (("se", "underline"), ("me", "bold")):
            own = frame.filter((pl.col("model") == model) & ((pl.col("embed") == embed) | (pl.col("scale") == 1)))
            by_scale, marked = {row["scale"]: row for row in own.iter_rows(named=True)}, best(own)
            texts = []
            for scale in runs.scales:
                row = by_scale.get(scale)
                if row is None or (scale == 1 and embed == "me"):
                    texts.append("" if row else "–")
                    continue
                text = f"{row['test_auc']:.5f}" + (f" ±{row['sd']:.5f}" if spread and row["sd"] is not None else "")
                texts.append(f"[{style}]{text}[/{style}]" if scale in marked else text)
            if any(texts):
                table.add_row(NAMES.get(model, model) if embed == "se" else "", embed.upper(), *texts)
        table.add_section()
    return table


def best(own: pl.DataFrame) -> set[int]:
    """Scales of the highest mean AUC, and of those at most 0.0001 below: so the paper marks its best (all but one)."""
    return {*own.filter(pl.col("test_auc") >= pl.col("test_auc").max() - 1e-4 - 1e-9)["scale"]}


def scalability(runs: Runs) -> Any:
    """Figure 7: what a model gains over its base, SE and ME beside each other, all models in each."""
    with panels(1, 2, sharey=True) as (figure, axes):
        for place, embed in zip(axes[0], ("se", "me"), strict=True):
            lines = {NAMES.get(model, model): runs.line(model, embed) for model in runs.models}
            base = {model: runs.of(model, "se", 1) for model in runs.models}
            lines = {name: line for name, line in lines.items() if 1 in line}

            def gain(run: dict[str, Any], base: Any = base) -> float:
                return test_auc(run) - test_auc(base[run["model"]][run["seed"]])

            draw_lines(place, lines, gain)
            place.set(title={"se": "single-embedding", "me": "multi-embedding"}[embed])
        axes[0, 0].set_ylabel("test AUC - base of the seed")
    return figure


def by_model(runs: Runs) -> Any:
    """Figures 9 and 10: a panel for each model, SE against ME, with 95% intervals over seeds."""
    columns = min(3, len(runs.models))
    rows = -(-len(runs.models) // columns)
    with panels(rows, columns) as (figure, axes):
        for place, model in zip(axes.flat, runs.models, strict=False):
            draw_lines(place, {embed.upper(): runs.line(model, embed) for embed in ("se", "me")}, test_auc)
            place.set_title(NAMES.get(model, model))
        for place in list(axes.flat)[len(runs.models) :]:
            place.set_axis_off()
        for place in axes[:, 0]:
            place.set_ylabel(AUC_LABEL)
    return figure


def beside_the_paper(runs: Runs, output: Output) -> None:
    """Every AUC beside the paper's mean and sd, reached or not; what differs from the paper's training is a note."""
    table = Table(title=f"beside the paper's Table {3 if runs.dataset == 'criteo' else 4}")
    for name in ("model", "", "ours", "paper", "ours - paper", "detectable", "", "verdict"):
        table.add_column(name, justify="left" if name in ("model", "", "verdict") else "right")
    rows = []
    for cell, by_seed in sorted(
        runs.cells.items(), key=lambda item: (item[0].model, item[0].embed != "se", item[0].scale)
    ):
        paper = paper_cell(runs.dataset, cell.model, cell.embed, cell.scale)
        if paper is None:
            continue
        values = {seed: test_auc(run) for seed, run in by_seed.items()}
        found, verdict = reached(values, paper)
        ours = statistics.fmean(values.values())
        label = "base" if cell.scale == 1 else f"{cell.embed.upper()} {cell.scale}x"
        small = minimum_detectable(found)
        detectable = "–" if small is None else f"{small:.5f}"
        numbers = (f"{ours:.5f}", f"{paper.mean:.5f} ±{paper.sd:.5f}", found.text(5), detectable)
        table.add_row(NAMES.get(cell.model, cell.model), label, *numbers, f"n={len(values)}", verdict)
        ends = {"difference": found.estimate, "difference_half": found.half, "detectable": small}
        rows.append(
            {**cell._asdict(), "ours": ours, "paper": paper.mean, "paper_sd": paper.sd, **ends, "verdict": verdict}
        )
    if rows:
        output.table(table, pl.DataFrame(rows, infer_schema_length=None), "beside_the_paper")
    differs = sorted({text for run in runs for text in run.get("differs_from_paper", [])})
    if differs:
        output.notes.append(f"not as in the paper, so its AUCs need not be reached: {', '.join(differs)}")


ARTEFACT = Artefact("table1", draw, any_model=True)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
