"""What a value is turned into before values are counted: numbers into few groups, times into their parts.

A bucket is a function of the distinct values of a column, never of its rows: plain Python decides each case exactly.
A missing value is the empty string, and stays it unless the table says otherwise; others become a short text.

==================== =================================================================================================
log_squared          official code of the paper, Criteo: number v > 2 -> floor(ln(v)**2), else floor(v) - 2, as integer
                     text; missing stays "". Whole numbers up to 2 stay apart: "-1" is 1, "0" is 2; "1" is 3 and 4.
log_squared_bars     FuxiCTR, BARS Criteo_x4: missing counts as 0; v > 2 -> floor(ln(v)**2), else v without its
                     fraction. So 1 shares a bucket with 3 and 4, 2 shares one with 5, and missing with 0.
quantile:<n>         at most n groups (2 to 10000) of about equally many counted rows, "q00", "q01", ... with as many
                     digits as n - 1, so that text order is number order; missing stays "". See below.
hour                 of a time YYMMDDHH (Avazu), 14102109 = 2014-10-21 09h: "00" to "23"; missing stays "".
weekday              of the same: "0" Monday to "6" Sunday; missing stays "".
weekend              of the same: "1" Saturday or Sunday, otherwise "0" (BARS Avazu_x4); missing stays "".
==================== =================================================================================================

Numbers are finite decimal ones: sign, digits, point, exponent, nothing around or between; they are read as float64, so
"3", "3.0", "03" and "+3" are one number, and one that overflows (1e400) is none. Years are 2000 to 2099.

Quantiles, exactly: missing values are left out and the other rows are counted, T in all. Edge k = 1 to n - 1 is the
smallest number v such that at least k * T / n counted rows have a number <= v. Edges that are equal are one edge, and
one at the largest counted number is none, as it would part nothing. The bucket of v is how many edges are < v. So equal
numbers share a bucket, every bucket has counted rows, and a number that was not counted goes where the edges put it.
The edges are all that a bucket keeps of the rows: with them it is a function of the value, for rows of another day too.
"""

import math
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

MOST_QUANTILES = 10_000


class Bucket(NamedTuple):
    """One word of the table above.

    Args:
        word: as in the config.
        valid: text values, repeated in any order, no nulls -> Boolean: can be bucketed. Fast, as it sees all rows.
        apply: distinct valid text values, and what `fit` found (None if there is no `fit`) -> the bucket of each.
        expected: what a valid value is, for an error message.
        fit: distinct valid text values and their counts (int64, on the counted rows, may be 0) -> edges (float64,
            ascending); None: the bucket is a function of the value alone.
    """

    word: str
    valid: Callable[[pl.Series], pl.Series]
    apply: Callable[[pl.Series, np.ndarray | None], pl.Series]
    expected: str
    fit: Callable[[pl.Series, np.ndarray], np.ndarray] | None = None


def parse_bucket(key: str, word: str) -> Bucket:
    """The bucket that a config names.

    Args:
        key: where in the config, for the error message.
        word: one of the table above.

    Raises:
        ValueError: no such word, or `n` of `quantile:<n>` is not an integer from 2 to 10000.
    """
    name, _, number = word.partition(":")
    if word in _PLAIN:
        return _PLAIN[word]
    if name == "quantile" and re.fullmatch(r"[1-9][0-9]{0,4}", number) and 2 <= int(number) <= MOST_QUANTILES:
        return Bucket(word, _is_number, partial(_by_edges, int(number)), "a number", partial(_edges, int(number)))
    words = {plain: plain for plain in _PLAIN} | {"quantile": "quantile:<n>"}
    near = get_close_matches(name.strip().lower(), words, n=1)
    hint = f"; did you mean {words[near[0]]}?" if near else ";"
    raise ValueError(
        f"{key}={word}: no such bucket{hint} the buckets are {', '.join(words.values())} "
        f"(n an integer from 2 to {MOST_QUANTILES})"
    )


def _numbers(values: pl.Series) -> pl.Series:
    """Float64, null where the text is no number; stricter than `float` about spaces, _ and digits of other scripts."""
    return values.cast(pl.Float64, strict=False)


def _is_number(values: pl.Series) -> pl.Series:
    return (_numbers(values).is_finite() | (values == "")).fill_null(False)


def _log_squared(values: pl.Series, edges: np.ndarray | None) -> pl.Series:
    return _each_number(values, lambda v: math.floor(v) - 2)


def _log_squared_bars(values: pl.Series, edges: np.ndarray | None) -> pl.Series:
    return _each_number(values, int).replace("", "0")


def _each_number(values: pl.Series, small: Callable[[float], int]) -> pl.Series:
    """math.log of single numbers and not of an array: the published buckets were made so, to the last bit."""
    numbers = _numbers(values).to_list()
    texts = ["" if v is None else str(int(math.log(v) ** 2) if v > 2 else small(v)) for v in numbers]
    return pl.Series(values.name, texts, dtype=pl.String)


def _edges(n: int, values: pl.Series, counts: np.ndarray) -> np.ndarray:
    counted = pl.DataFrame({"number": _numbers(values), "count": counts}).filter(pl.col("count") > 0).drop_nulls()
    if not counted.height:
        return np.empty(0)
    counted = counted.sort("number")
    sums, ordered = np.cumsum(counted["count"].to_numpy()), counted["number"].to_numpy()
    total = int(sums[-1])
    needed = np.array([-(-k * total // n) for k in range(1, n)], dtype=np.int64)  # rounded up, without overflow
    edges = np.unique(ordered[np.searchsorted(sums, needed)])
    return edges[edges < ordered[-1]]


def _by_edges(n: int, values: pl.Series, edges: np.ndarray | None) -> pl.Series:
    assert edges is not None
    places = np.searchsorted(edges, _numbers(values).fill_null(0.0).to_numpy())
    digits = len(str(n - 1))
    names = pl.Series(values.name, [f"q{i:0{digits}}" for i in range(len(edges) + 1)], dtype=pl.String)
    return names.gather(places).set(values == "", "")


def _times(values: pl.Series) -> pl.Series:
    """Datetime, null where the text is no time YYMMDDHH."""
    eight = values.set(~values.str.contains("^[0-9]{8}$"), None)
    return ("20" + eight + "00").str.to_datetime("%Y%m%d%H%M", strict=False).rename(values.name)


def _is_time(values: pl.Series) -> pl.Series:
    distinct = values.unique()  # few, so that parsing them costs next to nothing
    return values.is_in(distinct.filter(_times(distinct).is_not_null() | (distinct == "")).to_list())


def _hour(values: pl.Series, edges: np.ndarray | None) -> pl.Series:
    return _times(values).dt.strftime("%H").fill_null("")


def _weekday(values: pl.Series, edges: np.ndarray | None) -> pl.Series:
    return (_times(values).dt.weekday() - 1).cast(pl.String).fill_null("")


def _weekend(values: pl.Series, edges: np.ndarray | None) -> pl.Series:
    return (_times(values).dt.weekday() >= 6).cast(pl.Int8).cast(pl.String).fill_null("")


_PLAIN = {
    bucket.word: bucket
    for bucket in (
        Bucket("log_squared", _is_number, _log_squared, "a number"),
        Bucket("log_squared_bars", _is_number, _log_squared_bars, "a number"),
        Bucket("hour", _is_time, _hour, "a time YYMMDDHH"),
        Bucket("weekday", _is_time, _weekday, "a time YYMMDDHH"),
        Bucket("weekend", _is_time, _weekend, "a time YYMMDDHH"),
    )
}
