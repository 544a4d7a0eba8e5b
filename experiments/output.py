"""What an artefact leaves: figures and tables with the data behind them, claims, and `<name>.json`, written last."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from experiments.claims import HOLDS, Claim, claim_table, decided, undecided
from experiments.drawing import save, save_data
from recsys_collapse.runs.durable import write_json
from recsys_collapse.runs.version import code_version


@dataclass
class Output:
    """Where an artefact leaves what it found."""

    folder: Path
    artefact: str
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences for RESULTS.md."""
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else 150))

    @property
    def path(self) -> Path:
        """Of what is written last: the claims, and which files belong to them."""
        return self.folder / f"{self.artefact}.json"

    def figure(self, figure: Any, data: pl.DataFrame, name: str = "") -> None:
        """Keep a figure and the data behind it; `name`, if not that of the artefact."""
        paths = save(figure, data, self.folder, name or self.artefact)
        self.figures.append(name or self.artefact)
        self.console.print(f"figure   {paths[0].with_suffix('')}.pdf .svg .png .csv", highlight=False, soft_wrap=True)

    def table(self, table: Table, data: pl.DataFrame, name: str = "") -> None:
        """Print a table, and keep its data."""
        path = save_data(data, self.folder, name or self.artefact)
        self.tables.append(name or self.artefact)
        self.console.print(table)
        self.console.print(f"table    {path}", highlight=False, soft_wrap=True)

    def data(self, data: pl.DataFrame, name: str) -> None:
        """Keep more data behind the artefact's figure."""
        save_data(data, self.folder, name)

    def claim(self, claims: Sequence[Claim]) -> None:
        """Decide claims that belong together, and keep them."""
        self.keep(decided(claims))

    def claim_if(self, check: Claim, claims: Sequence[Claim]) -> None:
        """Decide whether a regularizer acted; claims about what it does are undecided where that is not shown."""
        self.claim([check])
        if self.claims[-1].verdict == HOLDS:
            self.claim(claims)
        else:
            self.keep(undecided(claims))
            self.notes.append(
                "the rest is not decidable: that the regularizer acted is not shown; raise regularizer.weight"
            )

    def keep(self, claims: Sequence[Claim]) -> None:
        """Keep claims that are decided."""
        self.claims += [replace(claim, artefact=self.artefact) for claim in claims]

    def write(self, **about: Any) -> None:
        """Print the verdicts, and write `<name>.json`."""
        if self.claims:
            self.console.print(claim_table(self.claims, title=self.artefact))
        for note in self.notes:
            self.console.print(note, highlight=False)
        content = {
            "artefact": self.artefact,
            "figures": self.figures,
            "tables": self.tables,
            "notes": self.notes,
            "claims": [claim.row() for claim in self.claims],
            "code_version": code_version(),
            **about,
        }
        write_json(self.path, content)
