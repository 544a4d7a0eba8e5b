"""Reading a source as a whole, as the tests want it."""

from typing import NamedTuple

import numpy as np
import polars as pl

from recsys_collapse.dataset.source import Source


class Whole(NamedTuple):
    features: pl.DataFrame
    labels: np.ndarray
    parts: dict[str, int] | None


def whole(source: Source) -> Whole:
    """Every piece of a source below each other, values as text, and the rows of each given part."""
    pieces = list(source.read())
    parts = None if pieces[0].part is None else {str(piece.part): 0 for piece in pieces}
    for piece in pieces:
        assert piece.labels.dtype == np.uint8
        if parts is not None:
            parts[str(piece.part)] += len(piece.labels)
    features = pl.concat([as_text(piece.features) for piece in pieces])
    return Whole(features, np.concatenate([piece.labels for piece in pieces]), parts)


def as_text(features: pl.DataFrame) -> pl.DataFrame:
    return features.select(pl.all().cast(pl.String).fill_null(""))
