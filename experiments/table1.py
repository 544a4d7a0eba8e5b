"""Table 1 with Tables 3 and 4, and Figures 7, 9 and 10: test AUC of every model, SE and ME, by embedding size.

The paper's claims are asked of every model: SE does not scale, ME does, and the difference of the two slopes. On Criteo
and Avazu every AUC also stands beside the paper's.
"""

import statistics
import sys
from typing import Any

import polars as pl
from rich.table import Table

from experiments.auc import MARGIN, auc_frame, contrasts, difference, line_cells, shared_base
from experiments.claims import Claim
from experiments.drawing import panels
from experiments.found import NAMES, Cell, Runs
from experiments.lines import draw_lines, test_auc
from experiments.study import Artefact, Output, main
from recsys_collapse.paper import paper_cell, reached

BOTH = "seeds and test rows"
IN_PAPER = ("criteo", "avazu")
PER_DOUBLING = "test AUC per doubling of the size"


def draw(runs: Runs, output: Output) -> None:
    """Both tables, both figures, the claims."""
    frame = auc_frame(runs)
    output.table(auc_table(runs, frame, spread=False), frame)
    output.table(auc_table(runs, frame, spread=True), frame, detailed_name(runs.dataset))
    output.figure(scalability(runs), frame, "fig7")
    output.figure(by_model(runs), frame, {"criteo": "fig9", "avazu": "fig10"}.get(runs.dataset, "fig9_10"))
    if runs.dataset in IN_PAPER:
        output.table(*beside_the_paper(runs))
    output.claim([claim for model in runs.models for claim in claims(runs, model)])


def detailed_name(dataset: str) -> str:
    """Of the table with standard deviations: Criteo's is Table 3, Avazu's Table 4."""
    return {"criteo": "table3", "avazu": "table4"}.get(dataset, "table3_4")


def claims(runs: Runs, model: str) -> list[Claim]:
    """What the paper says of every model; nothing without several sizes of both SE and ME."""
    base = Cell(model, "se", 1)
    single, several = line_cells(runs, model, "se", above=1), line_cells(runs, model, "me", above=1)
    if base not in runs.cells or not single or not several:
        return []
    top = several[-1]
    asked = shared_base(base, single, several) | {"above base": difference(base, top)}
    if (same := top._replace(embed="se")) in runs.cells:
        asked["above SE"] = difference(same, top)
    found, about = contrasts(runs, asked), NAMES.get(model, model)
    size = f"test AUC, ME {top.scale}x -"
    made = [
        Claim("SE does not scale", about, f"SE: {PER_DOUBLING}, at most {MARGIN}", found["one"], margin=MARGIN),
        Claim("ME scales", about, f"ME: {PER_DOUBLING}", found["other"]),
        Claim("ME scales better than SE", about, f"ME - SE: {PER_DOUBLING}", found["difference"]),
        Claim("the largest ME is better than the base model", about, f"{size} base", found["above base"]),
    ]
    if "above SE" in found:
        text = "ME is better than SE of the same size"
        made.append(Claim(text, about, f"{size} SE {top.scale}x", found["above SE"]))
    return [Claim(**{**vars(claim), "sources": BOTH}) for claim in made]


def auc_table(runs: Runs, frame: pl.DataFrame, spread: bool) -> Table:
    """As the paper's: the best of SE underlined, of ME bold, with all that are at most 0.0001 below."""
    seeds = sorted({run["seed"] for run in runs})
    table = Table(
        title=f"test AUC on {runs.dataset}, mean {'± sample sd ' * spread}over {len(seeds)} seeds",
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
    highest = own["test_auc"].max()
    return {*own.filter(pl.col("test_auc") >= highest - 1e-4 - 1e-9)["scale"]}


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
            place.set_ylabel("test AUC")
    return figure


def beside_the_paper(runs: Runs) -> tuple[Table, pl.DataFrame, str]:
    """Every AUC beside the paper's mean and sd, reached or not."""
    table = Table(title=f"beside the paper's Table {3 if runs.dataset == 'criteo' else 4}")
    for name in ("model", "", "ours", "paper", "ours - paper", "", "verdict"):
        table.add_column(name, justify="left" if name in ("model", "", "verdict") else "right")
    rows = []
    for cell, by_seed in runs.cells.items():
        paper = paper_cell(runs.dataset, cell.model, cell.embed, cell.scale)
        if paper is None:
            continue
        values = {seed: test_auc(run) for seed, run in by_seed.items()}
        found, verdict = reached(values, paper)
        ours = statistics.fmean(values.values())
        label = "base" if cell.scale == 1 else f"{cell.embed.upper()} {cell.scale}x"
        numbers = (f"{ours:.5f}", f"{paper.mean:.5f} ±{paper.sd:.5f}", found.text(5))
        table.add_row(NAMES.get(cell.model, cell.model), label, *numbers, f"n={len(values)}", verdict)
        ends = {"difference": found.estimate, "low": found.low, "high": found.high}
        rows.append(
            {**cell._asdict(), "ours": ours, "paper": paper.mean, "paper_sd": paper.sd, **ends, "verdict": verdict}
        )
    return table, pl.DataFrame(rows, infer_schema_length=None), "beside_the_paper"


ARTEFACT = Artefact("table1", draw, any_model=True)

if __name__ == "__main__":
    sys.exit(main(ARTEFACT, __doc__))
