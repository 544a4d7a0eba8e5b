"""The pictures of docs/metrics.md: `make docs`, or `python -m docs.pictures [FOLDER]` (about 20 seconds).

Everything is computed by the package on made-up tables with fixed seeds; each function is one picture.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from recsys_collapse.similarity import collapse_law, linear_cka, pair_norms, pattern_divergence, subspace_overlap
from recsys_collapse.spectrum import (
    METRICS,
    TableSpectra,
    field_moments,
    information_abundance,
    random_information_abundance,
    singular_values,
    spectrum_metrics,
)

HERE = Path(__file__).parent / "metrics"
SIZE = 32  # singular values of the examples


def random_table(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Independent standard normal entries, float64."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def abundance(table: Tensor, **options: object) -> float:
    """Information abundance of one table."""
    return information_abundance(singular_values(table, **options)).item()  # type: ignore[arg-type]


def axes_of(figure: Figure, count: int, **options: object) -> list[Axes]:
    """A row of axes with light grids."""
    found = list(figure.subplots(1, count, squeeze=False, **options)[0])
    for axes in found:
        axes.grid(alpha=0.3)
    return found


def family() -> Figure:
    """Six spectra and every metric of them."""
    k = torch.arange(1, SIZE + 1, dtype=torch.float64)
    spectra = {
        "all equal": torch.ones(SIZE),
        "random 200 x 32": singular_values(random_table(200, SIZE)),
        "power law 1/k": 1 / k,
        "one dominant": torch.where(k == 1, 1.0, 0.05),
        "8 of 32 equal": torch.where(k <= 8, 1.0, 0.0),
        "exponential": torch.exp(-k / 3),
    }
    sigma_SC = torch.stack([sigma.double() for sigma in spectra.values()])
    values = torch.stack(list(spectrum_metrics(sigma_SC).values())).numpy()
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    for name, sigma in spectra.items():
        left.plot(k, sigma / sigma[0], marker=".", label=name)
    left.set(xlabel="k", ylabel="$\\sigma_k / \\sigma_1$", title="six spectra of 32 singular values")
    left.grid(alpha=0.3)
    left.legend(frameon=False)
    right.imshow(np.clip(np.nan_to_num(values) / SIZE, 0, 1), cmap="viridis", aspect="auto", vmin=0, vmax=1)
    right.set_xticks(range(len(spectra)), list(spectra), rotation=20, ha="right")
    right.set_yticks(range(len(METRICS)), list(METRICS))
    right.set_title("what every metric says (colour: value / 32)")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else "inf" if np.isinf(value) else f"{round(value, 6) + 0.0:.3g}"
        bright = np.nan_to_num(value) / SIZE > 0.6
        right.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    return figure


def reference() -> Figure:
    """Information abundance of random matrices."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = axes_of(figure, 2)
    rows = np.unique(np.geomspace(2, 1e5, 40).astype(int))
    for columns in (10, 32, 100):
        values = np.array([random_information_abundance(int(d), columns) for d in rows])
        left.plot(rows, values, label=f"K = {columns}")
        right.plot(rows, values / np.minimum(rows, columns), label=f"K = {columns}")
    left.set(xscale="log", yscale="log", xlabel="cardinality D", ylabel="IA", title="IA of random matrices")
    right.set(xscale="log", ylim=(0, 1), xlabel="cardinality D", ylabel="IA / min(D, K)", title="lowest where D = K")
    left.legend(frameon=False)
    return figure


def rare_rows() -> Figure:
    """What rows that no training sample has do to a collapsed field of 10,000 rows."""
    rows, columns = 10_000, 10
    direction, noise = random_table(1, columns, 1), random_table(rows, columns, 2)
    trained = random_table(rows, 1, 3) @ direction + 0.02 * noise
    shares = np.linspace(0, 0.95, 12)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, kind in zip(axes_of(figure, 2, sharey=True), ("left at initialisation", "driven to zero"), strict=True):
        for norm in (0.1, 0.3, 1.0):
            every, seen = [], []
            for share in shares:
                unseen_D = torch.arange(rows) < share * rows
                idle = norm * noise if kind == "left at initialisation" else torch.zeros_like(noise)
                table = torch.where(unseen_D.unsqueeze(1), idle, trained)
                every.append(abundance(table))
                seen.append(abundance(table, row_weight_D=~unseen_D))
            axes.plot(shares, every, label=f"all rows; unseen entries {norm} x the trained ones")
        axes.plot(shares, seen, "k--", label="seen rows")
        axes.set(
            title=f"unseen rows {kind}", xlabel="share of rows that no sample has", ylabel="IA (K = 10)", ylim=(1, 10)
        )
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def centring() -> Figure:
    """A mean row that all rows share."""
    table, mean = random_table(2000, 32), torch.ones(32, dtype=torch.float64)
    sizes = np.linspace(0, 3, 13)
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    (axes,) = axes_of(figure, 1)
    for centred in (False, True):
        values = [abundance(table + size * mean, centred=centred) for size in sizes]
        axes.plot(sizes, values, marker=".", label="centred" if centred else "raw")
    axes.set(xlabel="each entry of the mean row, in standard deviations", ylabel="IA (K = 32)", ylim=(0, 32))
    axes.set_title("a shared mean row is one large singular value")
    axes.legend(frameon=False)
    return figure


def sets() -> Figure:
    """Whole, per set and whole at unit norm, for sets that are alike, independent, or of very different size."""
    one, sets_, rows = random_table(2000, 10), 4, 2000
    independent = [random_table(rows, 10, seed) for seed in range(sets_)]
    collapsed = torch.cat([e * torch.logspace(0, -1.5, 10) for e in independent], 1)
    tables = {
        "4 copies": torch.cat([one] * sets_, 1),
        "4 independent": torch.cat(independent, 1),
        "4 independent,\neach collapsed": collapsed,
        "4 independent,\none of 100 x": torch.cat([100 * independent[0], *independent[1:]], 1),
    }
    names = ("whole (D x 40)", "whole at unit norm per set", "single sets (D x 10), mean")
    values = {name: [] for name in names}
    for table in tables.values():
        measured = TableSpectra(table, [slice(0, rows)], sets_)
        whole, *single = (s.information_abundance for s in measured.spectra())
        unit = measured.spectra(unit_norm=True)[0].information_abundance
        for name, value in zip(names, (whole, unit, sum(single) / sets_), strict=True):
            values[name].append(value)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    (axes,) = axes_of(figure, 1)
    for i, name in enumerate(names):
        bars = axes.bar(np.arange(len(tables)) + 0.27 * (i - 1), values[name], width=0.25, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize="small")
    axes.set_xticks(range(len(tables)), list(tables))
    axes.set(ylabel="IA", title="multi-embedding, M = 4, K = 10: three numbers, three questions", ylim=(0, 47))
    axes.legend(frameon=False, ncols=3, fontsize="small", loc="upper left")
    return figure


def precision() -> Figure:
    """The tail of one spectrum by three methods."""
    left, _ = torch.linalg.qr(random_table(20_000, 40))
    right, _ = torch.linalg.qr(random_table(40, 40, 1))
    table = left * torch.logspace(0, -13, 40, dtype=torch.float64) @ right
    single = table.float()
    methods = {
        "float32 Gram matrix": torch.linalg.eigvalsh(single.T @ single).flip(0).clamp(min=0).sqrt(),
        "float64 Gram matrix (exact=False)": singular_values(table, exact=False),
        "QR (exact=True, the default)": singular_values(table),
    }
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    (axes,) = axes_of(figure, 1)
    for name, sigma in methods.items():
        axes.plot(range(1, 41), sigma.double() / sigma[0], marker=".", label=name)
    axes.plot(range(1, 41), torch.logspace(0, -13, 40), "k:", label="true")
    axes.set(
        yscale="log",
        ylim=(1e-14, 3),
        xlabel="k",
        ylabel="$\\sigma_k / \\sigma_1$",
        title="the same table, three methods",
    )
    axes.legend(frameon=False, fontsize="small")
    return figure


def similarity() -> Figure:
    """CKA and subspace overlap of two independent sets, and of two that share half of their rows' geometry."""
    rows = np.unique(np.geomspace(12, 20_000, 14).astype(int))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = axes_of(figure, 2, sharey=True)
    found: dict[str, list[tuple[float, ...]]] = {"independent": [], "half shared": []}
    for d in rows.tolist():
        a, b = random_table(d, 10, 1), random_table(d, 10, 2)
        for kind, other in (("independent", b), ("half shared", torch.cat([a[:, :5], b[:, :5]], 1))):
            moments = field_moments(torch.cat([a, other], 1), [slice(0, d)])
            gram, count = moments.centred_gram(), torch.tensor([d])
            cka, overlap = linear_cka(gram, 2, count), subspace_overlap(gram, 2, count)
            pair = (cka.value_NMM, cka.null_NMM, cka.adjusted_NMM, overlap.value_NMM, overlap.null_NMM)
            found[kind].append(tuple(value[0, 0, 1].item() for value in pair))
    for kind, style in (("independent", "-"), ("half shared", "--")):
        value, null, adjusted, overlap_value, overlap_null = np.array(found[kind]).T
        for axes, curves in (
            (left, {"CKA": value, "its null": null, "adjusted": adjusted}),
            (right, {"overlap": overlap_value, "its null": overlap_null}),
        ):
            axes.set_prop_cycle(None)
            for name, curve in curves.items():
                axes.plot(rows, curve, style, label=f"{name}, {kind}")
    for axes, title in ((left, "linear CKA of two sets, K = 10"), (right, "principal-angle overlap")):
        axes.set(xscale="log", xlabel="cardinality D", title=title)
        axes.legend(frameon=False, fontsize="x-small")
    return figure


def pairs() -> Figure:
    """The test of the interaction-collapse law on a planted and on a random pattern; patterns of two sets."""
    fields = 20
    ia_N = torch.linspace(2, 9, fields, dtype=torch.float64)
    noise_NN = random_table(fields, fields, 5)
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, strength, name in ((panels[0], 0.1, "planted law"), (panels[1], 0.0, "no law")):
        ia_NN = ia_N.unsqueeze(1) * (1 + strength * (ia_N - ia_N.mean()) / 2) + noise_NN
        law = collapse_law(ia_NN, ia_N)
        image = axes.imshow(ia_NN.numpy())
        axes.set(title=f"{name}\nmean rho {law.mean_rho:.2f}, p = {law.p_value:.4f}", xlabel="j, by IA($E_j$)")
        axes.set_ylabel("i, by IA($E_i$)")
    figure.colorbar(image, ax=list(panels[:2]), label="IA of the sub-embedding of i for j", shrink=0.8)
    w_MNNKK = random_table(2 * fields * fields * 4, 4).view(2, fields, fields, 4, 4)
    scale_MNN = torch.exp(0.8 * random_table(2 * fields * fields, 1, 7).view(2, fields, fields))
    for axes, scale, name in ((panels[2], 1.0, "two sets at initialisation"), (panels[3], scale_MNN, "diverged")):
        norm_MNN = pair_norms(w_MNNKK) * scale
        found, top = pattern_divergence(norm_MNN), 1.05 * norm_MNN.max().item()
        axes.scatter(*norm_MNN.numpy(), s=4)
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="norm of $W_{i→j}$ in set 1", ylabel="in set 2")
        axes.set_title(
            f"{name}\n1 - correlation {found.divergence:.2f}, variation {found.variation:.2f}", fontsize="medium"
        )
    return figure


FUNCTIONS = (family, reference, rare_rows, centring, sets, precision, similarity, pairs)
PICTURES: dict[str, Callable[[], Figure]] = {function.__name__: function for function in FUNCTIONS}


def main(arguments: list[str] | None = None) -> None:
    """Draw all pictures into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE, help="default: docs/metrics")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().savefig(folder / f"{name}.png", dpi=110)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
