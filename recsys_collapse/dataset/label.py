"""The label column: 0 and 1, or the user's own words for them; nothing else passes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys_collapse.dataset.bad_lines import BadLines

TEXT = {"0": 0, "1": 1}
TYPED = TEXT | {"0.0": 0, "1.0": 1, "false": 0, "true": 1}  # of Parquet, where these are numbers and truth values


@dataclass(frozen=True)
class LabelMap:
    """Words -> 0 or 1."""

    words: dict[str, int]

    @classmethod
    def of(cls, given: dict[str, int] | None, typed: bool = False) -> "LabelMap":
        """The map of `dataset.label_map`, or that of text and of typed columns.

        Raises:
            ValueError: a word stands for anything but 0 and 1.
        """
        words = {str(word): value for word, value in (given or (TYPED if typed else TEXT)).items()}
        if any(value not in (0, 1) for value in words.values()):
            raise ValueError(f"dataset.label_map={words}: expected 0 or 1 for every word, e.g. {{no: 0, yes: 1}}")
        return cls(words)

    def read(
        self, frame: pl.DataFrame, name: str, path: Path, lines: Sequence[int] | np.ndarray, bad: BadLines
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels (n,) uint8 of the column `name`, and which rows (n,) have one; the others are reported to `bad`.

        Raises:
            ValueError: under the policy `error`, with the first places and the count of every wrong value.
        """
        column = frame[name]
        labels = column.replace_strict(self.words, default=None, return_dtype=pl.UInt8)
        if not labels.null_count():
            return labels.to_numpy(), np.ones(len(labels), dtype=bool)
        wrong = labels.is_null()
        rows, values = wrong.arg_true().to_list(), column.filter(wrong).to_list()
        counts = ", ".join(f"{value!r} ({count} times)" for value, count in Counter(values).most_common(5))
        places = ", ".join(str(lines[row]) for row in rows[:5])
        reason = (
            f"label column {name} has {len(rows)} values in lines {lines[0]} to {lines[-1]} that are neither "
            f"{' nor '.join(self.words)}: {counts}; first at lines {places}; if these words are labels, say so: "
            f"'dataset.label_map={{WORD: 0, WORD: 1}}'"
            + ("; if line 1 is a header, leave dataset.columns out" if lines[rows[0]] == 1 else "")
        )
        for row, value in zip(rows, values, strict=True):
            one = f"label column {name}: {value!r}"
            bad.add(str(path), int(lines[row]), reason if bad.policy == "error" else one, "\t".join(frame.row(row)))
        return labels.fill_null(0).to_numpy(), (~wrong).to_numpy()
