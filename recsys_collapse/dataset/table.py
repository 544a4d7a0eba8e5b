"""Any table of the user: CSV, TSV or Parquet with a binary label; every other column is a categorical field.

The recipes of `conf/dataset/` (criteo, avazu, criteo_x4, avazu_x4) are this source with other values.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from recsys_collapse.dataset.bad_lines import BadLines
from recsys_collapse.dataset.buckets import Bucket, parse_bucket
from recsys_collapse.dataset.choose import Choice
from recsys_collapse.dataset.files import content_hash, find_files
from recsys_collapse.dataset.inputs import Form, bucketable, by_word, is_parquet, read_pieces
from recsys_collapse.dataset.label import LabelMap
from recsys_collapse.dataset.source import PARTS, Rows, Source, runtime
from recsys_collapse.dataset.text import Piece

STATISTICS = ("by", "rows", "fields", "sum", "max", "min")
Files = str | list[str]
Name = str | int  # YAML takes a column 0 for a number


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
        delimiter: of text, a character or `tab`, `comma`, `semicolon`, `pipe`, `space`; null: by the file's ending
            (.csv comma, .tsv, .txt and none tab).
        quoting: values may stand in double quotes; null: unless the delimiter is a tab.
        encoding: of text.
        bad_lines: `error`, or `quarantine`: leave unusable lines out, up to `max_bad_lines` of them.
        max_line_bytes: longer lines are an error.
        block_mib: how much text is read at a time; does not change the rows.
        md5: checksums of path or of train, valid and test, checked before they are read.
        published_as: statistics that others published for these rows.
    """

    version: ClassVar[int] = 3

    label: Name
    label_map: dict[Any, int] | None = None
    path: Files | None = runtime(default=None)
    train: Files | None = runtime(default=None)
    valid: Files | None = runtime(default=None)
    test: Files | None = runtime(default=None)
    dir: str | None = runtime(default=None)
    features: list[Name] | None = None
    ignore: list[Name] = field(default_factory=list)
    derive: dict[Any, Name] | None = None
    buckets: dict[Any, str] | None = None
    time: Name | None = None
    columns: list[Name] | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str = "utf-8"
    bad_lines: str = "error"
    max_bad_lines: int = runtime(default=1000)
    max_line_bytes: int = 1 << 20
    block_mib: int = runtime(default=16)
    md5: dict[str, str | None] | None = runtime(default=None)
    published_as: dict[str, Any] | None = runtime(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bad_lines not in ("error", "quarantine"):
            raise ValueError(f"dataset.bad_lines={self.bad_lines}: expected error or quarantine")
        for name, least in {"max_bad_lines": 0, "max_line_bytes": 1, "block_mib": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"dataset.{name}={getattr(self, name)}: expected {least} or more")
        if self.time is not None and self.path is None:
            raise ValueError(f"dataset.time={self.time}: expected dataset.path=...; given parts are split already")
        self._bad = BadLines()
        words = by_word(self.label_map)
        self._labels = {typed: LabelMap.of(words, typed) for typed in (False, True)}
        self._buckets = {
            name: parse_bucket(f"dataset.buckets.{name}", str(word)) for name, word in by_word(self.buckets).items()
        }
        self._choice = Choice(
            str(self.label),
            None if self.time is None else str(self.time),
            None if self.features is None else [str(name) for name in self.features],
            [str(name) for name in self.ignore],
            {name: str(column) for name, column in by_word(self.derive).items()},
            list(self._buckets),
        )
        for name in self._choice.derive:
            if name not in self._buckets:
                raise ValueError(
                    f"dataset.derive.{name}: expected a bucket for it, e.g. 'dataset.buckets={{{name}: hour}}'"
                )
        if unknown := sorted(set(self.published()) - set(STATISTICS)):
            raise ValueError(f"dataset.published_as.{unknown[0]}: expected only {', '.join(STATISTICS)}")

    @property
    def form(self) -> Form:
        """How the files are written."""
        columns = None if self.columns is None else tuple(str(name) for name in self.columns)
        block_bytes = self.block_mib << 20
        return Form(self.delimiter, self.quoting, columns, self.encoding, self.max_line_bytes, block_bytes)

    def files(self) -> list[Path]:
        return [path for paths in self._files_by_part().values() for path in paths]

    def recipe(self) -> dict[str, Any]:
        """Options in one spelling: a null and what it stands for are one recipe."""
        layouts = [self.form.layout(path) for path in self.files() if not is_parquet(path)]
        used = [(layout.delimiter, layout.quoting) for layout in layouts]
        used = used[: 1 if len({*used}) == 1 else None]  # of each file, or once if all are alike
        columns = {k: v for k, v in self._choice._asdict().items() if k != "bucketed"}  # those of `buckets`
        same = columns | {
            "columns": self.columns and [str(name) for name in self.columns],
            "ignore": sorted({*self._choice.ignore}),
            "label_map": {word: int(label) for word, label in by_word(self.label_map).items()} or None,
            "parts": {part: len(paths) for part, paths in self._files_by_part().items()},  # which file is of which
            "buckets": {name: bucket.word for name, bucket in self._buckets.items()},
            "delimiter": [delimiter for delimiter, _ in used],
            "quoting": [quoting for _, quoting in used],
            "encoding": _encoding(self.encoding),
        }
        return super().recipe() | same

    def fingerprint(
        self, split_seed: int, memo: Path | None = None, on_bytes: Callable[[int, int], None] | None = None
    ) -> str:
        """Also compares the files with `md5`.

        Raises:
            ValueError: a file is not the published one.
        """
        parts = self._files_by_part()
        for part, expected in (self.md5 or {}).items():
            if expected is None:
                continue
            if len(parts.get(part, [])) != 1:
                raise ValueError(f"dataset.md5.{part}: expected one of {', '.join(parts)}, with one file")
            if (found := content_hash(parts[part][0], memo, on_bytes, "md5")) != expected:
                raise ValueError(
                    f"{parts[part][0]}: MD5 {found}, expected {expected} (dataset.md5.{part}): not the published file; "
                    "get it again, or set dataset.md5=null to use this one"
                )
        return super().fingerprint(split_seed, memo, on_bytes)

    def field_buckets(self) -> dict[str, Bucket]:
        return self._buckets

    def left_out(self) -> list[dict[str, Any]]:
        return self._bad.lines

    def published(self) -> dict[str, str]:
        return {name: str(value) for name, value in (self.published_as or {}).items()}

    def read(self) -> Iterator[Rows]:
        self._bad = BadLines(self.bad_lines, self.max_bad_lines)
        parts = self._files_by_part()
        sizes = {path: path.stat().st_size for paths in parts.values() for path in paths}
        total, before = sum(sizes.values()), 0
        first: dict[str, str] = {}
        types: dict[str, str] = {}
        for part, paths in parts.items():
            for path in paths:
                for fields, piece in read_pieces(path, self.form, self._choice, types, self._bad):
                    first = first or fields
                    if set(fields) != set(first):
                        known = f"{self.files()[0]}: {', '.join(first)}"
                        raise ValueError(f"{path}: fields {', '.join(fields)}, expected those of {known}")
                    rows = self._rows(piece, path, first)  # in the order of the first file
                    given = None if self.path is not None else part
                    if len(rows.labels):
                        yield rows._replace(part=given, done=(before + piece.done * sizes[path]) / total)
                before += sizes[path]

    def _files_by_part(self) -> dict[str, list[Path]]:
        given = [self.train, self.valid, self.test]
        folder = None if self.dir is None else Path(self.dir).expanduser()
        if self.path is not None and not any(given):
            return {"path": find_files("dataset.path", self.path, folder)}
        if self.path is None and all(given):
            return {p: find_files(f"dataset.{p}", files or "", folder) for p, files in zip(PARTS, given, strict=True)}
        raise ValueError(
            f"dataset.path={self.path}, dataset.train={self.train}, dataset.valid={self.valid}, "
            f"dataset.test={self.test}: expected either dataset.path=FILE or all three of train, valid and test"
        )

    def _rows(self, piece: Piece, path: Path, fields: Mapping[str, str]) -> Rows:
        """The fields and labels of a piece, without rows that have no label or no number where one is needed."""
        frame, lines, bad = piece.frame, piece.lines, self._bad
        labels, good = self._labels[is_parquet(path)].read(frame, str(self.label), path, lines, bad)
        good &= bucketable(piece, path, fields, self._buckets, bad)
        features = {name: frame[column] for name, column in fields.items()}
        time = None if self._choice.time is None else frame[self._choice.time]
        rows = Rows(pl.DataFrame(features), labels, time=time)
        if good.all():
            return rows
        kept = pl.Series(good)
        time = None if time is None else time.filter(kept)
        return rows._replace(features=rows.features.filter(kept), labels=labels[good], time=time)


def _encoding(name: str) -> str:
    """One name for all spellings of an encoding; an unknown one is refused where the file is read."""
    try:
        return codecs.lookup(name).name
    except LookupError:
        return name
