"""Any table of the user: CSV, TSV or Parquet with a binary label; every other column is a categorical field.

The recipes of `conf/dataset/` (criteo, avazu, criteo_x4, avazu_x4) are this source with other values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from recsys_collapse.dataset.bad_lines import BadLines
from recsys_collapse.dataset.buckets import Bucket, parse_bucket
from recsys_collapse.dataset.files import find_files, kind, md5
from recsys_collapse.dataset.label import LabelMap
from recsys_collapse.dataset.parquet import read_parquet
from recsys_collapse.dataset.records import TextFormat
from recsys_collapse.dataset.source import PARTS, Rows, Source, runtime
from recsys_collapse.dataset.text import Piece, read_text

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", "": "\t"}
Files = str | list[str]


@dataclass(kw_only=True)
class Table(Source):
    """Files that are split 8:1:1, or given train, valid and test files; text may be compressed (gz, zst, bz2, xz, zip).

    Args:
        label: the column with 0 and 1.
        label_map: other words for the label, such as `{no: 0, yes: 1}`.
        path: a file, a pattern or a list of them; null with given parts.
        train, valid, test: the given parts, all three or none.
        dir: the folder of the files; null: the current one.
        features: columns to use as fields, in this order; null: all but label, time and `ignore`.
        ignore: columns to leave out.
        derive: further fields, each with the column that it is made from by its bucket.
        buckets: what a field's values become before they are counted, see `buckets.py`.
        time: a column; the split is by this order instead of at random.
        columns: names of the columns of text without a header.
        delimiter, quoting: of text; null: by the file's ending (.csv comma and quotes, .tsv and .txt tab without).
        encoding: of text.
        bad_lines: `error`, or `quarantine`: leave unusable lines out, up to `max_bad_lines` of them.
        max_line_bytes: longer lines are an error.
        block_mib: how much text is read at a time; does not change the rows.
        md5: checksums of path or of train, valid and test, checked before they are read.
        published_as: statistics that others published for these rows.
    """

    version: ClassVar[int] = 2

    label: str
    label_map: dict[str, int] | None = None
    path: Files | None = runtime(default=None)
    train: Files | None = runtime(default=None)
    valid: Files | None = runtime(default=None)
    test: Files | None = runtime(default=None)
    dir: str | None = runtime(default=None)
    features: list[str] | None = None
    ignore: list[str] = field(default_factory=list)
    derive: dict[str, str] | None = None
    buckets: dict[str, str] | None = None
    time: str | None = None
    columns: list[str] | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str = "utf-8"
    bad_lines: str = "error"
    max_bad_lines: int = 1000
    max_line_bytes: int = 1 << 20
    block_mib: int = runtime(default=16)
    md5: dict[str, str] | None = runtime(default=None)
    published_as: dict[str, str] | None = runtime(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bad_lines not in ("error", "quarantine"):
            raise ValueError(f"dataset.bad_lines={self.bad_lines}: expected error or quarantine")
        for name, least in {"max_bad_lines": 0, "max_line_bytes": 1, "block_mib": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: expected {least} or more")
        self._bad = BadLines()
        self._labels = {typed: LabelMap.of(self.label_map, typed) for typed in (False, True)}
        self._buckets = {
            name: parse_bucket(f"dataset.buckets.{name}", word) for name, word in (self.buckets or {}).items()
        }
        for name in self.derive or {}:
            if name not in self._buckets:
                raise ValueError(
                    f"dataset.derive.{name}: no bucket; expected dataset.buckets.{name}=..., or no such field"
                )

    def files(self) -> list[Path]:
        return [path for paths in self._files_by_part().values() for path in paths]

    def recipe(self) -> dict[str, Any]:
        """Delimiter and quoting as they are used: a null and what it stands for are one recipe."""
        layouts = [self._layout(path) for path in self.files() if kind(path) != ".parquet"]
        used = sorted({(layout.delimiter, layout.quoting) for layout in layouts})
        return {**super().recipe(), "delimiter": [d for d, _ in used], "quoting": [q for _, q in used]}

    def field_buckets(self) -> dict[str, Bucket]:
        return self._buckets

    def left_out(self) -> list[dict[str, Any]]:
        return self._bad.lines

    def published(self) -> dict[str, str]:
        return self.published_as or {}

    def read(self) -> Iterator[Rows]:
        bad = self._bad = BadLines(self.bad_lines, self.max_bad_lines)
        parts, first = self._files_by_part(), None
        sizes = {path: path.stat().st_size for paths in parts.values() for path in paths}
        total, before = sum(sizes.values()), 0
        for part, paths in parts.items():
            for path in paths:
                self._check_md5(part, path)
                chosen = None
                for piece in self._pieces(path, bad):
                    if chosen is None:
                        chosen = self._chosen(path, piece.frame.columns)
                        first = first or (path, chosen)
                        if sorted(chosen) != sorted(first[1]):
                            raise ValueError(f"{path}: fields {chosen}, expected those of {first[0]}: {first[1]}")
                        chosen = first[1]  # other files may have the columns in another order
                    rows = self._rows(piece, path, chosen, bad)
                    given = None if self.path is not None else part
                    if len(rows.labels):
                        yield rows._replace(part=given, done=(before + piece.done * sizes[path]) / total)
                before += sizes[path]

    def _files_by_part(self) -> dict[str, list[Path]]:
        given = [self.train, self.valid, self.test]
        folder = None if self.dir is None else Path(self.dir)
        if self.path is not None and not any(given):
            return {"path": find_files("dataset.path", self.path, folder)}
        if self.path is None and all(given):
            return {p: find_files(f"dataset.{p}", files or "", folder) for p, files in zip(PARTS, given, strict=True)}
        raise ValueError(
            f"dataset.path={self.path}, dataset.train={self.train}, dataset.valid={self.valid}, "
            f"dataset.test={self.test}: expected either dataset.path=FILE or all three of train, valid and test"
        )

    def _check_md5(self, part: str, path: Path) -> None:
        if (expected := (self.md5 or {}).get(part)) and (found := md5(path)) != expected:
            raise ValueError(
                f"{path}: MD5 {found}, expected {expected} (dataset.md5.{part}): not the published file; "
                "get it again, or set dataset.md5=null to use this one"
            )

    def _pieces(self, path: Path, bad: BadLines) -> Iterator[Piece]:
        if kind(path) == ".parquet":
            return read_parquet(path, self.block_mib << 20)
        return read_text(path, self._layout(path), bad)

    def _layout(self, path: Path) -> TextFormat:
        delimiter = self.delimiter or DELIMITERS.get(kind(path))
        if delimiter is None:
            raise ValueError(f"{path}: ending {kind(path)} is not known; set dataset.delimiter, e.g. ','")
        if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise ValueError(f"dataset.delimiter={delimiter}: expected a single character, such as ',' or '\\t'")
        quoting = delimiter != "\t" if self.quoting is None else self.quoting
        columns = None if self.columns is None else tuple(self.columns)
        return TextFormat(delimiter, quoting, columns, self.encoding, self.max_line_bytes, self.block_mib << 20)

    def _chosen(self, path: Path, columns: Sequence[str]) -> list[str]:
        """The fields, in order."""
        if self.label not in columns:
            raise ValueError(f"{path}: no label column{_among('dataset.label', self.label, columns)}")
        if self.time is not None and self.time not in columns:
            raise ValueError(f"{path}: no time column{_among('dataset.time', self.time, columns)}")
        others = [name for name in columns if name != self.label]
        named = {"dataset.features": self.features or [], "dataset.ignore": self.ignore}
        named |= {f"dataset.derive.{name}": [column] for name, column in (self.derive or {}).items()}
        for key, names in named.items():
            for name in names:
                if name not in others:
                    raise ValueError(f"{path}: no such feature column{_among(key, name, others)}")
        chosen = self.features if self.features is not None else [name for name in others if name != self.time]
        chosen = [*(name for name in chosen if name not in self.ignore), *(self.derive or {})]
        if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
            raise ValueError(f"dataset.features: {', '.join(twice)} twice; expected every column once")
        if not chosen:
            raise ValueError(f"{path}: no feature columns left of {columns}; see dataset.features and .ignore")
        for name in self.buckets or {}:
            if name not in chosen:
                raise ValueError(f"{path}: no such field{_among('dataset.buckets', name, chosen)}")
        return chosen

    def _rows(self, piece: Piece, path: Path, chosen: list[str], bad: BadLines) -> Rows:
        """The fields and labels of a piece, without rows that have no label or no number where one is needed."""
        frame, lines = piece.frame, piece.lines
        labels, good = self._labels[kind(path) == ".parquet"].read(frame, self.label, path, lines, bad)
        features = {name: frame[(self.derive or {}).get(name, name)] for name in chosen}
        for name, bucket in self._buckets.items():
            valid = bucket.valid(features[name])
            if not valid.all():
                for row in (~valid).arg_true():
                    reason = (
                        f"column {features[name].name}: {features[name][row]!r}, expected {bucket.expected} or nothing"
                    )
                    bad.add(str(path), int(lines[row]), reason, "\t".join(frame.row(row)))
                good &= valid.to_numpy()
        rows = Rows(
            pl.DataFrame([values.alias(name) for name, values in features.items()]),
            labels,
            time=None if self.time is None else frame[self.time].alias("time"),
        )
        if good.all():
            return rows
        kept = pl.Series(good)
        time = None if rows.time is None else rows.time.filter(kept)
        return rows._replace(features=rows.features.filter(kept), labels=labels[good], time=time)


def _among(key: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" ({key}={name}){f'; did you mean {near[0]}?' if near else ';'} the columns are {', '.join(names)}"
