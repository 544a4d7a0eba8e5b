"""Buckets of numbers and times against plain Python, `datetime` and rows written out one by one."""

import math
import re
from datetime import datetime, timedelta
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys_collapse.dataset.buckets import parse_bucket

few = settings(max_examples=60, deadline=None)
many = settings(max_examples=400, deadline=None)
WORDS = ["log_squared", "log_squared_bars", "quantile:4", "hour", "weekday", "weekend"]
NUMBER_WORDS, TIME_WORDS = WORDS[:3], WORDS[3:]
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def buckets(word: str, values: list[str], counts: list[int] | None = None) -> list[str]:
    """Bucket of each of some distinct values, after checking that the column keeps its name."""
    column, bucket = pl.Series("column", values, dtype=pl.String), parse_bucket("key", word)
    edges = bucket.fit(column, np.array(counts or [1] * len(values), dtype=np.int64)) if bucket.fit else None
    found = bucket.apply(column, edges)
    assert (found.name, found.dtype, len(found)) == ("column", pl.String, len(values))
    return found.to_list()


def valid(word: str, values: list[str]) -> list[bool]:
    found = parse_bucket("key", word).valid(pl.Series("column", values, dtype=pl.String))
    assert (found.name, found.dtype) == ("column", pl.Boolean)
    return found.to_list()


def official(v: int) -> int:
    """torchfm/dataset/criteo.py of the official code."""
    return int(math.log(v) ** 2) if v > 2 else v - 2


def fuxictr(v: float) -> int:
    """`convert_to_bucket` of the Criteo_x4 benchmark."""
    return int(np.floor(np.log(v) ** 2)) if v > 2 else int(v)


def is_decimal(text: str) -> bool:
    return text == "" or (DECIMAL.fullmatch(text) is not None and math.isfinite(float(text)))


def is_time(text: str) -> bool:
    if re.fullmatch("[0-9]{8}", text) is None:
        return text == ""
    year, month, day, hour = (int(text[i : i + 2]) for i in (0, 2, 4, 6))
    try:
        datetime(2000 + year, month, day, hour)
    except ValueError:
        return False
    return True


def naive_quantiles(n: int, counts: dict[float, int]) -> dict[float, int]:
    """Every counted row written out, exact fractions of their number, edges counted one by one."""
    rows = sorted(v for v, count in counts.items() for _ in range(count))
    edges = {
        next(v for v in rows if Fraction(sum(row <= v for row in rows)) >= Fraction(k * len(rows), n))
        for k in range(1, n)
        if rows
    } - {max(rows, default=0)}
    return {v: sum(edge < v for edge in edges) for v in counts}


def test_log_squared_is_the_official_one() -> None:
    random = np.random.default_rng(0)
    exponents = random.uniform(0, 18, 20_000)
    numbers = sorted({*range(-10, 200_001), *(10**exponents).astype(np.int64).tolist(), 10**18})
    assert buckets("log_squared", [str(v) for v in numbers]) == [str(official(v)) for v in numbers]
    assert buckets("log_squared", ["", "-3", "0", "1", "2", "3", "5", "100"]) == [
        "",
        "-5",
        "-2",
        "-1",
        "0",
        "1",
        "2",
        "21",
    ]


def test_log_squared_bars_is_that_of_fuxictr() -> None:
    numbers = [*range(-10, 20_001), 10**9, 10**18]
    assert buckets("log_squared_bars", [str(v) for v in numbers]) == [str(fuxictr(v)) for v in numbers]
    assert buckets("log_squared_bars", ["", "0", "-0.9", "-1", "1.9", "2.5"]) == ["0", "0", "0", "-1", "1", "0"]


def test_which_small_numbers_meet() -> None:
    small = [str(v) for v in range(7)]
    assert buckets("log_squared", small) == ["-2", "-1", "0", "1", "1", "2", "3"]
    assert buckets("log_squared_bars", small) == ["0", "1", "2", "1", "1", "2", "3"]


def test_fractions_and_numbers_beyond_64_bits() -> None:
    long = 123456789012345678901234567890
    values = ["0.5", "-0.5", "1.99", "2.5", "2.71", "2.72", "1e300", str(long), "-1e20"]
    expected = ["-2", "-3", "-1", "0", "0", "1", str(official(10**300)), str(official(long)), "-100000000000000000002"]
    assert buckets("log_squared", values) == expected


@few
@given(st.integers(-(10**12), 10**12), st.lists(st.integers(-50, 50), max_size=20))
def test_spelling_does_not_matter(number: int, others: list[int]) -> None:
    sign, digits = ("-" if number < 0 else "+"), str(abs(number))
    spelled = [f"{sign}{rest}" for rest in (digits, f"00{digits}", f"{digits}.", f"{digits}.00", f"{digits}0E-1")]
    others_text = [str(other) for other in others]
    for word in NUMBER_WORDS:
        assert valid(word, spelled) == [True] * 5
        found = buckets(word, [str(number), *spelled, *others_text])[:6]
        assert len(set(found)) == 1


texts = st.text("0123456789+-.eE_ \t\n\0٣３½naifNIy,x", max_size=8) | st.text(max_size=4)
pieces = [
    st.sampled_from(["", "+", "-", " "]),
    st.from_regex("[0-9]{0,4}", fullmatch=True),
    st.sampled_from(["", ".", "_", "٣"]),
]
pieces += [pieces[1], st.sampled_from(["", "e", "E+", "e-"]), pieces[1], st.sampled_from(["", "\n", " "])]
odd = [
    "",
    "abc",
    "nan",
    "-nan",
    "NaN",
    "inf",
    "+inf",
    "Infinity",
    " 3",
    "3 ",
    "3\n",
    "1_000",
    "1,5",
    "0x10",
    "1d5",
    "٣",
]
odd += ["1e9", "+3", "+-3", ".5", "5.", ".", "-.", "1e", "1e+", "e5", ".e3", "1e400", "-1e400", "1e-400", "9" * 400]


@many
@given(st.lists(texts | st.tuples(*pieces).map("".join) | st.floats().map(str), max_size=20))
@example(odd)
def test_valid_numbers_are_finite_decimal_ones(values: list[str]) -> None:
    expected = [is_decimal(value) for value in values]
    for word in NUMBER_WORDS:
        assert valid(word, values) == expected
        usable = sorted({value for value, good in zip(values, expected, strict=True) if good})
        assert [found == "" for found in buckets(word, usable)] == [
            v == "" and word != "log_squared_bars" for v in usable
        ]


@many
@given(
    st.integers(2, 12),
    st.dictionaries(st.integers(-8, 8).map(float) | st.floats(-2, 2, width=16), st.integers(0, 6), max_size=14),
    st.integers(0, 5),
)
@example(2, {1.0: 1, 2.0: 3}, 0)
@example(2, {1.0: 3, 2.0: 1, 3.0: 0}, 2)
def test_quantiles_are_those_of_the_rows(n: int, counts: dict[float, int], missing: int) -> None:
    values = ["", *(repr(v) for v in counts)]
    expected = naive_quantiles(n, counts)
    found = buckets(f"quantile:{n}", values, [missing, *counts.values()])
    assert found == ["", *(f"q{i:0{len(str(n - 1))}}" for i in expected.values())]
    with_rows = {name for name, count in zip(found[1:], counts.values(), strict=True) if count > 0}
    assert with_rows == set(found[1:]) or not with_rows, "a bucket without counted rows"


def test_quantiles_with_one_value_each_are_equal_parts() -> None:
    values = [str(v) for v in np.random.default_rng(1).permutation(6_000)]
    assert buckets("quantile:20", values) == [f"q{int(v) // 300:02}" for v in values]
    assert buckets("quantile:2", ["0", "1", "2"], [80, 10, 10]) == ["q0", "q1", "q1"]
    assert buckets("quantile:2", ["0", "1", "2"], [10, 10, 80]) == ["q0", "q0", "q0"]
    assert buckets("quantile:3", ["1", "1.0", "2", "3"], [1, 1, 2, 2]) == ["q0", "q0", "q1", "q2"]
    assert buckets("quantile:10000", ["", "7", "9"], [5, 0, 0]) == ["", "q0000", "q0000"], "nothing counted"
    assert buckets("quantile:101", ["5", "6"], [2**61, 2**61]) == ["q000", "q001"], "overflow"


def test_parts_of_every_hour_are_those_of_datetime() -> None:
    times = [datetime(2000, 1, 1) + timedelta(hours=i) for i in range(24 * 366)]
    times += [datetime(2014, 1, 1) + timedelta(hours=i) for i in range(24 * 365 * 3)]
    times += [datetime(2069, 1, 1), datetime(2099, 12, 31, 23)]
    values = [f"{time:%y%m%d%H}" for time in times]
    assert buckets("hour", values) == [f"{time.hour:02}" for time in times]
    assert buckets("weekday", values) == [str(time.weekday()) for time in times]
    assert buckets("weekend", values) == [str(int(time.weekday() in (5, 6))) for time in times]
    assert [buckets(word, ["14102109", ""]) for word in TIME_WORDS] == [["09", ""], ["1", ""], ["0", ""]]


def test_valid_times_are_those_of_the_calendar() -> None:
    days = [f"{year:02}{month:02}{day:02}" for year in (0, 15, 16, 99) for month in range(14) for day in range(33)]
    values = [f"{day}{hour:02}" for day in days for hour in (0, 23, 24, 60, 99)]
    values += [
        "",
        " ",
        "1410210",
        "141021000",
        "+1410210",
        "-1410210",
        "1410210a",
        "14102100\n",
        " 4102100",
        "1410210 ",
    ]
    values += ["1410210٣", "２0141021", "14-10-21", "2014102100", "14.10210", "1410e100"] * 2
    expected = [is_time(value) for value in values]
    for word in TIME_WORDS:
        assert valid(word, values) == expected


@many
@given(st.lists(st.from_regex(r"1[56]\d\d[0-3]\d[0-2]\d", fullmatch=True) | texts, max_size=20))
def test_valid_times_of_any_text(values: list[str]) -> None:
    assert valid("hour", values) == [is_time(value) for value in values]


@pytest.mark.parametrize("word", WORDS)
def test_empty_columns_and_columns_of_missing_values(word: str) -> None:
    assert parse_bucket("key", word).word == word
    assert (valid(word, []), buckets(word, [])) == ([], [])
    assert valid(word, ["", ""]) == [True, True]
    assert buckets(word, [""]) == ["0" if word == "log_squared_bars" else ""]
    assert parse_bucket("key", word).expected == ("a number" if word in NUMBER_WORDS else "a time YYMMDDHH")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("log_sqared", "log_squared"),
        ("LOG_SQUARED_BAR", "log_squared_bars"),
        ("quantle:4", "quantile:<n>"),
        *(
            (f"quantile{rest}", "quantile:<n>")
            for rest in ("", ":", ":1", ":10001", ":-4", ":4.0", ":04", ":٣", ":4 ", ":4:4")
        ),
        ("hours", "hour"),
        ("hour:2", "hour"),
        ("week_end", "weekend"),
        ("xyz", None),
        ("", None),
    ],
)
def test_unknown_words_are_named_with_the_nearest(word: str, near: str | None) -> None:
    hint = f"; did you mean {near}?" if near else ";"
    known = "log_squared, log_squared_bars, hour, weekday, weekend, quantile:<n> (n an integer from 2 to 10000)"
    with pytest.raises(ValueError) as caught:
        parse_bucket("dataset.buckets.I1", word)
    assert str(caught.value) == f"dataset.buckets.I1={word}: no such bucket{hint} the buckets are {known}"


def test_quantiles_from_2_to_10000_are_words() -> None:
    assert [parse_bucket("key", f"quantile:{n}").word for n in (2, 10_000)] == ["quantile:2", "quantile:10000"]
