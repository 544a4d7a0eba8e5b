"""The figures of measuring callbacks: a frame in, a matplotlib figure out; readable with 3 fields and with 39.

Shapes: M embedding sets, N fields.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys_collapse.similarity import axis_sums

LONGEST_NAME = 14  # of a tick label; the files have the whole names
PANELS, COLUMNS = 10, 5  # heat maps of sets, at most
INCH_PER_TICK = 0.13


def panel_inches(ticks: int) -> float:
    """Side of a panel on which so many tick labels find room."""
    return max(2.8, INCH_PER_TICK * ticks)


def ticks(axes: Any, axis: str, names: Sequence[str]) -> None:
    """Names along one axis, `x` or `y`."""
    half = LONGEST_NAME // 2
    short = [name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}" for name in names]
    if len(set(short)) < len(set(names)):
        short = list(names)
    turned = {"rotation": 90} if axis == "x" and max(map(len, short), default=0) > 2 else {}
    size = 8 if len(names) <= 16 else 6
    getattr(axes, f"set_{axis}ticks")(range(len(names)), short, fontsize=size, parse_math=False, **turned)


def heat_map(axes: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], **options: Any) -> Any:
    """Draw values (rows, columns), grey where there is none, a name at each; returns the image.

    `options` are those of `imshow`.
    """
    axes.set_facecolor("lightgrey")
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", interpolation="nearest", **options)
    ticks(axes, "x", columns)
    ticks(axes, "y", rows)
    return image


def limits(values: np.ndarray) -> dict[str, float]:
    """`vmin` and `vmax` for heat maps with one colour bar; nothing where no value is finite."""
    finite = values[np.isfinite(values)]
    return {"vmin": float(finite.min()), "vmax": float(finite.max())} if len(finite) else {}


def sub_embedding_figure(sub: pl.DataFrame, laws: pl.DataFrame) -> Any:
    """One epoch, its first set, as Figure 3: fields by ascending IA(E_i) on both axes, and the sums along each.

    A row of panels per variant: heat map (i down, j to the right), sum over j, sum over i, both without i = j. Shown is
    IA as it is: at a fixed i all E_i^{->j} have the same shape, and the law is about these. Of the sum over i the mean
    of every i is taken off: else it would fall for large j, whose own large IA is the one that is left out.
    """
    from matplotlib.figure import Figure

    first = sub["embedding_set"].min()
    own = pl.lit(True) if first is None else pl.col("embedding_set") == first
    sub, laws = sub.filter(own), laws.filter(own)
    names = sub["towards"].unique(maintain_order=True).to_list()
    side, count, epoch = panel_inches(len(names)), len(names), _epoch_words(sub["epoch"][0])
    figure = Figure(figsize=(3 * side + 2.5, (side + 0.8) * len(laws)), layout="constrained")
    for axes, law in zip(figure.subplots(len(laws), 3, squeeze=False), laws.rows(named=True), strict=True):
        of_variant = sub.filter(pl.col("variant") == law["variant"])
        ia_NN = of_variant["information_abundance"].to_numpy().reshape(count, count)
        order_N = np.argsort(of_variant["towards_abundance"][:count].to_numpy(), kind="stable")
        ia_NN, sorted_names = ia_NN[np.ix_(order_N, order_N)], [names[i] for i in order_N]
        figure.colorbar(heat_map(axes[0], ia_NN, sorted_names, sorted_names), ax=axes[0])
        known = law["mean_rho"] is not None
        test = f"mean rho {law['mean_rho']:.2f}, p = {law['p_value']:.2g}" if known else "no value"
        of_set = "" if first is None else f", set {first!s}"
        axes[0].set_title(f"IA of E_i→j, {law['variant']}{of_set}, {epoch}\ncollapse law: {test}")
        axes[0].set(xlabel="towards field j", ylabel="field i")
        ia_1NN = torch.tensor(ia_NN).unsqueeze(0)
        of_field_1N, _ = axis_sums(ia_1NN)
        _, towards_1N = axis_sums(ia_1NN - of_field_1N.unsqueeze(2) / max(1, count - 1))
        titles = ("sum over j of IA, without i = j", "sum over i of (IA - mean of i), without i = j")
        for part, sum_1N, title, along in zip(axes[1:], (of_field_1N, towards_1N), titles, "ij", strict=True):
            part.plot(sum_1N[0].numpy(), marker=".")
            ticks(part, "x", sorted_names)
            part.grid(alpha=0.3)
            part.set(title=title, xlabel=f"field {along}, by ascending IA(E_{along})")
    return figure


def pair_norm_figure(norms: pl.DataFrame, divergences: pl.DataFrame) -> Any:
    """One epoch's first measured layer: a heat map of ||W_{i->j}||_F (i down, j to the right) for each set."""
    from matplotlib.figure import Figure

    layer = norms["layer"][0]
    norms, divergences = (frame.filter(pl.col("layer") == layer) for frame in (norms, divergences))
    names = norms["towards"].unique(maintain_order=True).to_list()
    norm_MNN = norms["norm"].to_numpy().reshape(-1, len(names), len(names))
    count, side = min(PANELS, len(norm_MNN)), panel_inches(len(names))
    rows = -(-count // COLUMNS)
    columns = -(-count // rows)
    figure = Figure(figsize=(max(5.5, columns * side + 1), rows * side + 1), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for m, axes in enumerate(panels):
        if m < count:
            image = heat_map(axes, norm_MNN[m], names, names, **limits(norm_MNN[:count]))
            axes.set_title(f"set {m}" if len(norm_MNN) > 1 else "", fontsize="small")
        else:
            axes.set_visible(False)
    figure.colorbar(image, ax=list(panels), label="||W_i→j||, Frobenius")
    figure.supylabel("field i", fontsize="medium")
    figure.supxlabel("towards field j", fontsize="medium")
    more = f" (sets 0 to {count - 1} of {len(norm_MNN)})" if len(norm_MNN) > count else ""
    figure.suptitle(
        f"Norm of W_i→j, layer {layer}, {_epoch_words(norms['epoch'][0])}{more}{_divergence_words(divergences)}"
    )
    return figure


def _divergence_words(divergences: pl.DataFrame) -> str:
    """Second line of the title: of two sets or more, how far their patterns are apart."""
    values: Sequence[float | None] = next(iter(divergences.select("divergence", "random_divergence").rows()), ())
    if not values:
        return ""
    own, random = ("no value" if value is None else f"{value:.3f}" for value in values)
    return f"\nbetween sets: divergence 1 - r = {own} (a new model: {random})"


def set_similarity_figure(frame: pl.DataFrame) -> Any:
    """One epoch: means over fields as heat maps of set against set, and below means over pairs of sets by field."""
    from matplotlib.figure import Figure

    names = frame["field"].unique(maintain_order=True).to_list()
    sets = range(1 + max(frame["set_b"]))
    figure = Figure(figsize=(max(8.5, panel_inches(len(names)) + 3), 6.2), layout="constrained")
    left, right, lower = (figure.add_subplot(place) for place in _two_above_one(figure))
    shown = {"cka_adjusted": "CKA, adjusted", "overlap": "overlap"}
    null: Any = frame["overlap_null"].mean()
    unrelated = {"cka_adjusted": "0", "overlap": "no value" if null is None else f"{null:.2f}"}
    for axes, (name, title) in zip((left, right), shown.items(), strict=True):
        value_MM = np.full((len(sets), len(sets)), np.nan)
        for a, b, value in frame.group_by("set_a", "set_b").agg(pl.col(name).mean()).rows():
            value_MM[a, b] = value_MM[b, a] = np.nan if value is None else value
        heat_map(axes, value_MM, [str(m) for m in sets], [str(m) for m in sets], vmin=0, vmax=1)
        axes.set_title(f"{title}: mean over fields\nsame: 1, unrelated: {unrelated[name]}")
        axes.set(xlabel="set", ylabel="set")
    shown["overlap_null"] = "if unrelated"
    by_field = frame.group_by("field", maintain_order=True).agg(pl.col(*shown).mean())
    strip_3N = np.stack([by_field[name].to_numpy() for name in shown])
    image = heat_map(lower, strip_3N, list(shown.values()), names, vmin=0, vmax=1, aspect="auto")
    lower.set_title("mean over pairs of sets (grey: too few ids)")
    figure.suptitle(f"Do the embedding sets say the same? {_epoch_words(frame['epoch'][0])}")
    figure.colorbar(image, ax=[left, right, lower])
    return figure


def _two_above_one(figure: Any) -> tuple[Any, Any, Any]:
    grid = figure.add_gridspec(2, 2, height_ratios=[5, 2])
    return grid[0, 0], grid[0, 1], grid[1, :]


def activation_rank_figure(frame: pl.DataFrame, best: int) -> Any:
    """Effective rank / that of random normal entries by layer, a line for each set, at the first and the best epoch."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    frame = frame.filter(pl.col("metric") == "effective_rank").sort("epoch", "position")
    names = frame["layer"].unique(maintain_order=True).to_list()
    short = [name.replace("interaction", "I").replace("head", "F") for name in names]
    sets = frame["embedding_set"].drop_nulls().unique().sort().to_list()
    figure = Figure(figsize=(max(8.0, 0.55 * len(names) + 3), 4.5), layout="constrained")
    for axes, epoch in zip(figure.subplots(1, 2, sharey=True), (frame["epoch"][0], best), strict=True):
        for m in [*sets, None]:
            line = frame.filter(pl.col("embedding_set").eq_missing(m) & (pl.col("epoch") == epoch))
            places = [names.index(name) for name in line["layer"]]
            colour, label = (
                ("black", "h and after it") if m is None else (colormaps["turbo"]((m + 0.5) / len(sets)), f"set {m}")
            )
            axes.plot(places, (line["value"] / line["random_value"]).to_numpy(), ".-", color=colour, label=label)
        ticks(axes, "x", short)
        axes.grid(alpha=0.3)
        axes.set_title(_epoch_words(epoch, best))
    figure.axes[0].set_ylim(bottom=0)  # of both, and after all lines: it fixes the upper end
    figure.axes[0].set_ylabel("effective rank / random")
    if sets:
        figure.axes[1].legend(fontsize="x-small", ncols=1 + len(sets) // 6)
    figure.suptitle("Dimensions that activations use, by layer (I: interaction, F: head)")
    return figure


def gradient_spectrum_figure(frame: pl.DataFrame, best: int) -> Any:
    """Information abundance of every field's gradients at the first and the best epoch, a mark for each set."""
    from matplotlib.figure import Figure

    frame = frame.filter(pl.col("metric") == "information_abundance")
    names = frame["field"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(max(6.0, panel_inches(len(names)) + 1), 4), layout="constrained")
    axes = figure.add_subplot()
    for epoch, marker in {frame["epoch"][0]: "_", best: "o"}.items():
        own = frame.filter(pl.col("epoch") == epoch)
        places = [names.index(name) for name in own["field"]]
        axes.plot(
            places,
            own["value"].to_numpy(),
            marker,
            markersize=4 if marker == "o" else 7,
            label=_epoch_words(epoch, best),
        )
    axes.set_title("Dimensions of the embedding gradients, a mark per set")
    axes.set_ylabel("information abundance")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    ticks(axes, "x", names)
    return figure


def learned_figure(logit: pl.DataFrame, sets: pl.DataFrame, best: int) -> Any:
    """r2 of the logit by epoch, a line for each component; adjusted R^2 of sets, first and best epoch, as heat maps."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = logit["component"].unique(maintain_order=True).to_list()
    rows = [*sets["embedding_set"].drop_nulls().unique().sort().to_list(), None]
    words = ["h" if m is None else f"set {m}" for m in rows]
    width, size = max(2.6, 0.42 * len(names)), 7 if len(rows) <= 16 else 5
    figure = Figure(figsize=(2 * width + 5.5, max(3.8, 0.3 * len(rows) + 1.8)), layout="constrained")
    left, *panels = figure.subplots(1, 3, width_ratios=[4, width, width])
    for t, name in enumerate(names):
        line, colour = logit.filter(pl.col("component") == name), colormaps["viridis"](t / len(names))
        marker = "osv^Dp*X<>"[t % 10]
        left.plot(line["epoch"].to_numpy(), line["r2"].to_numpy(), f"{marker}-", color=colour, label=name, markersize=5)
    left.axvline(best, color="grey", linestyle=":", zorder=0)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(title="r2 of the logit", xlabel="epoch (-1: initialisation; dotted: best)", ylim=(-0.03, 1.03))
    left.legend(fontsize="x-small", ncols=1 + len(names) // 10)
    left.grid(alpha=0.3)
    for axes, epoch in zip(panels, (logit["epoch"][0], best), strict=True):
        r2 = sets.filter(pl.col("epoch") == epoch)["r2"].to_numpy().reshape(len(rows), len(names))
        image = heat_map(axes, r2, words, names, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(r2):
            shown = "" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # never -0.00
            axes.text(column, row, shown, ha="center", va="center", fontsize=size, color="wk"[int(value > 0.6)])
        axes.set_title(_epoch_words(epoch, best))
    figure.colorbar(image, ax=panels, label="adjusted R2")
    figure.suptitle("What of the true logit has been learned, and what can be read from h of every set")
    return figure


def _epoch_words(epoch: int, best: int | None = None) -> str:
    words = "initialisation" if epoch == -1 else f"epoch {epoch}"
    return words + " (best)" * (epoch == best)
