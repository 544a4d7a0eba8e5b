"""Verdicts: what holds, what does not, what cannot be decided; and what is adjusted for what."""

import math

import pytest

from experiments.claims import (
    AT_MOST,
    BELOW,
    FAILS,
    HOLDS,
    OPEN,
    WITHIN,
    Claim,
    cells_of,
    claim_table,
    decided,
    undecided,
)
from recsys_collapse.stats import Interval, equivalence, holm, not_above


def claim(estimate: float, error: float | None = 0.001, text: str = "it grows", **more: object) -> Claim:
    return Claim(text, "dnn", "AUC", Interval(estimate, error), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (claim(0.01), HOLDS),
        (claim(-0.01), FAILS),
        (claim(0.0015), OPEN),  # 1.5 standard errors
        (claim(-0.01, kind=BELOW), HOLDS),
        (claim(0.01, kind=BELOW), FAILS),
        (claim(0.01, None), OPEN),  # one seed
        (claim(0.3, None, p_value=0.01), HOLDS),  # a permutation test brings its own
        (claim(-0.3, None, p_value=0.01), FAILS),
        (claim(0.3, None, p_value=0.2), OPEN),
        (claim(0.01, 0.0), OPEN),  # seeds that agree to the last bit
        (claim(0.0, 0.001, kind=AT_MOST, margin=0.01), HOLDS),  # far below the margin
        (claim(0.02, 0.001, kind=AT_MOST, margin=0.01), FAILS),  # above it
        (claim(0.0, 0.1, kind=AT_MOST, margin=0.01), OPEN),  # not significant is not small
        (claim(-0.5, 0.01, kind=AT_MOST, margin=0.01), HOLDS),  # falling is no growing
        (claim(0.0, None, kind=AT_MOST, margin=0.01), OPEN),
        (claim(0.0, 0.001, kind=WITHIN, margin=0.01), HOLDS),
        (claim(-0.5, 0.01, kind=WITHIN, margin=0.01), FAILS),  # falling is not flat
        (claim(0.02, 0.001, kind=WITHIN, margin=0.01), FAILS),
        (claim(0.008, 0.004, kind=WITHIN, margin=0.01), OPEN),
    ],
)
def test_verdict(made: Claim, verdict: str) -> None:
    assert decided([made])[0].verdict == verdict


def test_p_values_are_adjusted_within_a_claim_only() -> None:
    several = [claim(0.0022), claim(0.0023), claim(0.0021)]  # each alone has p < .05
    alone = claim(0.0022, text="another claim")
    found = decided([*several, alone, claim(0.1, None)])
    assert [one.verdict for one in found] == [OPEN, OPEN, OPEN, OPEN, HOLDS]
    assert [one.p_value for one in found if one.text == "another claim"] == [alone.interval.p_value]
    expected = holm([one.interval.p_value for one in several] + [None])
    assert [one.p_value for one in found[:4]] == pytest.approx([*expected[:3], None])


def test_margins_are_asked_by_their_own_tests() -> None:
    made = claim(0.0, 0.001, kind=AT_MOST, margin=0.0015)
    assert decided([made])[0].p_value == pytest.approx(not_above(made.interval, 0.0015))
    flat = claim(0.0002, 0.001, kind=WITHIN, margin=0.003)
    assert decided([flat])[0].p_value == pytest.approx(equivalence(flat.interval, 0.003).p_value)
    assert made.detectable is None and claim(0.1).detectable is not None


def test_sides_are_adjusted_apart_and_never_less_than_together() -> None:
    several = [claim(0.0025), claim(-0.0035), claim(0.004)]
    found = decided(several)
    raw = [one.interval.p_value for one in several]
    assert all(one.p_value >= p for one, p in zip(found, holm(raw), strict=True))  # type: ignore[operator]
    assert [one.verdict for one in found] == [HOLDS, FAILS, HOLDS]


def test_what_rests_on_nothing_is_undecided() -> None:
    found = undecided([claim(0.5)])
    assert found[0].verdict == OPEN and found[0].p_value is None and found[0].interval.estimate == 0.5


def test_rows_for_people_and_machines() -> None:
    found = decided([claim(0.01234), claim(0.5, None, text="one seed")])
    assert cells_of(found[0])[3] == "0.01234 ±0.00196" and cells_of(found[0], repeat=False)[0] == ""
    assert cells_of(found[1])[3:] == ["0.50000", "–", "–", OPEN]
    row = found[0].row()
    assert row["low"] == pytest.approx(0.01234 - 1.96 * 0.001, abs=1e-6) and row["verdict"] == HOLDS
    assert math.isclose(row["detectable"], 2.8 * 0.001, rel_tol=0.01)  # (z_.975 + z_.8) standard errors
    assert found[1].row()["low"] is None
    assert claim_table(found, "title").row_count == 2
