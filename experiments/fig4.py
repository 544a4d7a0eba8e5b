"""Figure 4: the toy experiment, and controls that tell the paper's mechanism from others.

    python -m experiments.fig4 [key=value ...]          # keys: conf/toy.yaml, or --help

Trains nothing but a matrix of 100 rows (`experiments/toy.py`), so it needs no runs. Writes
`<output_dir>/paper/toy/fig4.*` (IA of E_1 over iterations), `fig4_controls.*` (its end in every condition),
`fig4_conditions.csv` (the table), and `fig4.json` with the claims (`experiments/toy_claims.py`).
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Event
from typing import Any

import hydra
import polars as pl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.table import Table

from experiments.output import Output
from experiments.words import parse, said
from recsys_collapse.config import config_dir
from recsys_collapse.launch.plan import compose_jobs
from recsys_collapse.launch.signals import Interrupted, end_on_signals

NAME = "fig4"
REDUCTIONS = ("mean", "sum")
SMALLEST = 4  # K: the paper's small field has D_3 = 3 < K
MEASURED = ("ia", "ia_centred", "ia_e3", "cosine", "cosine_offset", "direction_in_e3", "energy_in_e3")
HEADERS = {
    "ia": "IA of E_1",
    "ia_centred": "without its mean row",
    "ia_e3": "IA of E_3",
    "cosine": "|cos| of v_1, mean row",
    "cosine_offset": "cos of mean row, offset cancelled",
    "energy_in_e3": "E_1 in span(E_3)",
}


@dataclass
class Root:
    """The root of conf/toy.yaml, which explains the keys."""

    embed_sizes: list[int] = field(default_factory=lambda: [10, 50])
    seeds: int = 10
    iterations: int = 5000
    lr: float = 1.0
    reduction: str = "mean"
    every: int = 50
    workers: int | None = None
    output_dir: str = "outputs"


ConfigStore.instance().store(name="toy_schema", node=Root)


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="toy")
def answer(config: DictConfig) -> None:
    """Hydra's own answers, such as `--help`."""


def check_options(config: DictConfig) -> None:
    """Check ranges and words.

    Raises:
        ValueError: names the key, the value and what was expected.
    """
    sizes = list(config.embed_sizes)
    if not sizes or min(sizes) < SMALLEST or len({*sizes}) < len(sizes):
        raise ValueError(
            f"embed_sizes={sizes}: expected different integers of {SMALLEST} or more, such as [10,50]: "
            "the paper's small field has D_3 = 3 < K"
        )
    for key in ("seeds", "iterations", "every", "workers"):
        if config[key] is not None and config[key] < 1:
            raise ValueError(f"{key}={config[key]}: expected an integer of 1 or more")
    if not 0 < config.lr < math.inf:
        raise ValueError(f"lr={config.lr}: expected a number above 0")
    if config.reduction not in REDUCTIONS:
        raise ValueError(f"reduction={config.reduction}: expected one of {', '.join(REDUCTIONS)}")
    folder = Path(config.output_dir).expanduser()
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise ValueError(f"output_dir={config.output_dir}: {nearest} is a file; expected a folder")


def records(config: DictConfig, tell: Callable[[float], None] = lambda share: None) -> pl.DataFrame:
    """Simulate every condition, size and seed: one row for each and recorded iteration, see `toy.simulate`."""
    import torch

    from experiments.toy import CONDITIONS, Training, batches, simulate

    training = Training(config.iterations, config.lr, config.reduction, config.every)
    stop, threads = Event(), torch.get_num_threads()
    pool = ThreadPoolExecutor(config.workers or os.cpu_count(), initializer=lambda: torch.set_num_threads(1))
    try:
        futures = [
            pool.submit(simulate, batch, embed_size, seed, training, stop.is_set)
            for embed_size in config.embed_sizes
            for seed in range(config.seeds)
            for batch in batches(CONDITIONS)
        ]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()  # a failure shows now
            tell(done / len(futures))
        return pl.DataFrame([row for future in futures for row in future.result()], infer_schema_length=None)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def curve_figure(found: pl.DataFrame, output: Output) -> None:
    """Information abundance of E_1 over iterations for small and large D_3, one panel for each K; mean and sd."""
    from experiments.drawing import look, panels
    from experiments.toy import LARGE, ROWS, SMALL
    from recsys_collapse.spectrum import random_information_abundance

    data = found.group_by("embed_size", "condition", "iteration", maintain_order=True).agg(
        pl.col("ia").mean().alias("mean"), pl.col("ia").std().alias("sd"), pl.len().alias("seeds")
    )
    sizes = found["embed_size"].unique(maintain_order=True).to_list()
    with panels(columns=len(sizes)) as (figure, axes):
        for panel, size in zip(axes[0], sizes, strict=True):
            for number, (condition, label) in enumerate(((LARGE, "large"), (SMALL, "small"))):
                own = data.filter(embed_size=size, condition=condition.name)
                x, mean, sd = (own[column].to_numpy() for column in ("iteration", "mean", "sd"))
                style, text = look(number), f"{label} ({condition.label})"
                panel.plot(x, mean, **style, markevery=max(1, len(x) // 5), label=text)
                panel.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)
            random = random_information_abundance(ROWS, size, "normal")
            panel.axhline(random, color="0.4", linestyle=":", linewidth=1, label="random matrix")
            panel.set(title=f"$K={size}$ (band: sd over seeds)", xlabel="iteration", ylim=(0, 1.18 * random))
        axes[0, 0].set_ylabel(r"IA$(E_1)$")
        axes[0, 0].legend(loc="lower left")
        output.figure(figure, data)


def control_figure(ends: pl.DataFrame, output: Output) -> None:
    """IA of E_1 at the end, raw and without its mean row, in every condition; means and 95% intervals."""
    from experiments.drawing import look, panels
    from experiments.toy import CONDITIONS
    from recsys_collapse.stats import student

    sizes = ends["embed_size"].unique(maintain_order=True).to_list()
    with panels(columns=len(sizes), size=(3.3, 3.4), sharey=True) as (figure, axes):
        for panel, size in zip(axes[0], sizes, strict=True):
            for number, (column, label) in enumerate((("ia", "as it is"), ("ia_centred", "without its mean row"))):
                own = [ends.filter(embed_size=size, condition=c.name)[column].to_list() for c in CONDITIONS]
                intervals = [student(values) for values in own]
                panel.errorbar(
                    [interval.estimate for interval in intervals],
                    [place + 0.26 * number - 0.13 for place in range(len(CONDITIONS))],
                    xerr=[interval.half or 0.0 for interval in intervals],
                    linestyle="none",
                    label=label,
                    **look(number),
                )
            panel.axhline(1.5, color="0.4", linewidth=0.8)  # above: the paper's two
            panel.set(title=f"$K={size}$", xlabel=r"IA$(E_1)$ at the end")
        axes[0, 0].set(yticks=range(len(CONDITIONS)), yticklabels=[c.label for c in CONDITIONS])
        axes[0, 0].invert_yaxis()
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        output.figure(figure, ends, f"{NAME}_controls")


def condition_table(ends: pl.DataFrame, output: Output) -> None:
    """What E_1 is like at the end in every condition: means with their 95% intervals over seeds."""
    from experiments.toy import CONDITIONS
    from recsys_collapse.stats import student

    table = Table(
        title="E_1 at the end", caption="mean over seeds ± half the 95% interval; v_1: first right singular vector"
    )
    for header in ("K", "condition", *HEADERS.values()):
        table.add_column(header, justify="left" if header == "condition" else "right")
    rows: list[dict[str, Any]] = []
    for size, condition in product(ends["embed_size"].unique(maintain_order=True), CONDITIONS):
        own = ends.filter(embed_size=size, condition=condition.name)
        known = {column: own[column].drop_nans().to_list() for column in MEASURED}
        intervals = {column: student(values) for column, values in known.items() if values}
        shown = [intervals[column].text(2) if column in intervals else "–" for column in HEADERS]
        table.add_row(str(size), condition.name, *shown, end_section=condition == CONDITIONS[-1])
        numbers = {f"{c}{part}": v for c, i in intervals.items() for part, v in (("", i.estimate), ("_half", i.half))}
        rows.append({"embed_size": size, "condition": condition.name, "seeds": len(own), **numbers})
    output.table(table, pl.DataFrame(rows, infer_schema_length=None), f"{NAME}_conditions")


def act(config: DictConfig, argv: Sequence[str]) -> Output:
    """Simulate, draw, decide, and write."""
    from experiments.toy_claims import make_claims, make_notes
    from recsys_collapse.dataset.progress import progress_bar, wants_bar

    with progress_bar(wants_bar(None)) as bar:
        found = records(config, lambda share: bar("simulating", share))
    ends = found.filter(pl.col("iteration") == config.iterations)
    output = Output(Path(config.output_dir).expanduser() / "paper" / "toy", NAME)
    curve_figure(found, output)
    control_figure(ends, output)
    condition_table(ends, output)
    output.claim(make_claims(ends))
    output.notes += make_notes(ends, output.claims)
    words = parse([word for word in argv if not word.startswith("-")])
    about: dict[str, Any] = {"dataset": "toy", "data_fingerprint": "", "runs": [], "run_versions": []}
    output.write(command=said(NAME, words), seeds=list(range(config.seeds)), **about)
    return output


def main() -> int:
    """The command; 0, or 2 if it is wrong or cannot be written, or 128 + n if it was ended by signal n."""
    end_on_signals()
    try:
        configs = compose_jobs(sys.argv[1:], "toy")
        if configs is None:
            answer()
            return 0
        if len(configs) > 1:
            raise ValueError(f"{len(configs)} commands in one: run it once for each")
        check_options(configs[0])
        act(configs[0], sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"experiments.{NAME}: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print("\nStopped before the end: run the same command again.", file=sys.stderr)
        return int(str(stop.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
