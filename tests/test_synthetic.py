"""The built-in data: drawn from the seed alone, with the difficulty and the values that were asked for."""

import math

import numpy as np
import polars as pl
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from recsys_collapse.config import config_dir
from recsys_collapse.dataset import synthetic
from recsys_collapse.dataset.source import Rows
from recsys_collapse.dataset.synthetic import Synthetic

DEFAULTS = {
    str(key): value
    for key, value in OmegaConf.load(config_dir() / "dataset" / "synthetic.yaml").items()
    if key != "_target_"
}


def source(**changes) -> Synthetic:
    """As configured by default, but smaller."""
    return Synthetic(**(DEFAULTS | {"rows": 5000} | changes))


def logits(monkeypatch, **changes) -> tuple[Rows, np.ndarray]:
    """The rows, and the true logits, up to a constant, that their labels were drawn from."""
    kept = []
    bias = synthetic._bias
    monkeypatch.setattr(synthetic, "_bias", lambda logit_n, base_rate: kept.append(logit_n) or bias(logit_n, base_rate))
    rows = next(source(**changes).read())
    return rows, kept[0]


def test_rows_depend_on_the_seed_alone() -> None:
    first = next(source().read())
    np.random.seed(5)
    again, other = next(source().read()), next(source(data_seed=1).read())
    assert first.features.equals(again.features)
    assert np.array_equal(first.labels, again.labels)
    assert not first.features.equals(other.features)
    assert not np.array_equal(first.labels, other.labels)
    assert source().fingerprint(0) != source(data_seed=1).fingerprint(0)


@pytest.mark.parametrize("base_rate", [0.03, 0.25, 0.6])
def test_base_rate(base_rate: float) -> None:
    labels = next(source(base_rate=base_rate, rows=20_000).read()).labels
    assert labels.dtype == np.uint8
    assert set(labels.tolist()) == {0, 1}
    five_errors = 5 * math.sqrt(base_rate * (1 - base_rate) / 20_000)
    assert abs(labels.mean() - base_rate) < five_errors


def test_cardinalities_are_log_spaced() -> None:
    """Of 8 fields from 4 to 100 values; rare values of the large ones may not be drawn."""
    features = next(source(max_cardinality=100).read()).features
    limits = [round(4 * 25 ** (i / 7)) for i in range(8)]
    found = [features[name].n_unique() for name in features.columns]
    assert limits == [4, 6, 10, 16, 25, 40, 63, 100]
    assert all(0.9 * limit <= number <= limit for number, limit in zip(found, limits, strict=True)), found
    assert len(set(features.columns)) == 8
    assert [(column.min(), column.max() < limit) for column, limit in zip(features, limits, strict=True)] == [
        (0, True)
    ] * 8


@pytest.mark.parametrize("zipf", [0.0, 1.05])
def test_values_follow_the_power_law(zipf: float) -> None:
    column = next(source(zipf=zipf, max_cardinality=100, rows=20_000).read()).features["field08"]
    weights = [value**-zipf for value in range(1, 101)]
    for value in (0, 1, 9, 99):
        share = weights[value] / sum(weights)
        five_errors = 5 * math.sqrt(share * (1 - share) / 20_000)
        assert abs((column == value).mean() - share) < five_errors, value


@pytest.mark.parametrize(("signal", "auc"), [(0.0, 0.5), (1.4, 0.8)])
def test_signal_decides_the_best_possible_auc(monkeypatch, signal: float, auc: float) -> None:
    rows, logit_n = logits(monkeypatch, signal=signal, rows=20_000)
    assert logit_n.std() == pytest.approx(signal, abs=1e-9)
    noise = np.random.default_rng(0).random(20_000) * 1e-9  # with no signal every logit is equal
    assert roc_auc_score(rows.labels, logit_n + noise) == pytest.approx(auc, abs=0.02)


def test_values_of_a_field_tell_something_about_the_label() -> None:
    """Summed label rates of values, counted on one half and scored on the other."""
    rows = next(source(rows=20_000).read())
    frame = rows.features.with_columns(pl.Series("label", rows.labels))
    train, test = frame[:10_000], frame[10_000:]
    score_n = np.zeros(10_000)
    for name in rows.features.columns:
        rate = (pl.col("label").sum() + 5) / (pl.len() + 20)  # as if each value had been seen 20 times more
        rates = train.group_by(name).agg(rate.alias("rate"))
        score_n += test.join(rates, on=name, how="left", maintain_order="left")["rate"].fill_null(0.25).to_numpy()
    assert roc_auc_score(test["label"].to_numpy(), score_n) > 0.6


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rows", 9),
        ("num_fields", 1),
        ("min_cardinality", 1),  # a constant
        ("max_cardinality", 3),  # below the smallest, 4
        ("zipf", -0.5),
        ("num_patterns", 0),
        ("fields_per_pattern", 1),
        ("rank", 0),
        ("signal", -1.0),
        ("base_rate", 0.0),
        ("base_rate", 1.0),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"dataset\.{option}={value}: expected"):
        source(**{option: value})
