"""Values -> integer ids, the same on every machine and in every run.

Id 0 of each field stands for everything rare or unseen; the others follow the count, most frequent first, ties by the
bytes of the value. A missing value is an ordinary value, the empty string.
"""

import numpy as np
import polars as pl


def as_text(features: pl.DataFrame) -> pl.DataFrame:
    """Every column as text, missing values as the empty string."""
    return features.select(pl.all().cast(pl.String).fill_null(""))


def build_vocabulary(column: pl.Series, min_count: int) -> pl.DataFrame:
    """Columns value, count, id of the values seen at least `min_count` times, ids 1, 2, ... by (-count, value)."""
    return (
        column.rename("value")
        .value_counts(name="count")  # in no particular order: only the sort below decides
        .filter(pl.col("count") >= min_count)
        .sort(["count", "value"], descending=[True, False])
        .with_row_index("id", offset=1)
        .select("value", "count", "id")
    )


def encode(column: pl.Series, vocabulary: pl.DataFrame) -> np.ndarray:
    """Ids (rows,) int32 of a text column; 0 for what the vocabulary does not have."""
    ids = column.replace_strict(vocabulary["value"], vocabulary["id"], default=0, return_dtype=pl.Int32)
    return ids.to_numpy()
