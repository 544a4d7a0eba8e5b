"""What a sweep showed is shown again only while all that it is made from is as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys_collapse.runs import shown
from recsys_collapse.runs.durable import read_sealed, seal, write_json

NAMES = ["a", "b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two runs and one that is not of the sweep, and what was shown of them."""
    for name in (*NAMES, "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in ("result.json", *shown.MEASURED):
            (tmp_path / "runs" / name / file).write_text(f"{name} {file}")
    (tmp_path / "table.txt").write_text("table")
    now = shown.sources(NAMES, tmp_path)
    with shown.listening() as said:
        print("\x1b[1mtable\x1b[0m ±1")
    shown.keep(tmp_path / shown.KEPT, now, said.text, [tmp_path / "table.txt"], tmp_path)
    return tmp_path


def again(folder: Path) -> bool:
    return shown.show_again(folder / shown.KEPT, shown.sources(NAMES, folder), folder)


def test_the_same_is_shown_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again(folder) and capsys.readouterr().out == "\x1b[1mtable\x1b[0m ±1\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "runs/a/result.json").write_text("new"),
        lambda folder: (folder / "runs/b/spectra.parquet").write_text("new"),
        lambda folder: (folder / "runs/b/collapse.parquet").unlink(),
        lambda folder: (folder / "runs/other/result.json").unlink(),
        lambda folder: (folder / "table.txt").write_text("tablf"),
        lambda folder: (folder / "table.txt").unlink(),
        lambda folder: (folder / shown.KEPT).write_text("{}"),
    ],
)
def test_what_changed_is_not_shown_again(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert not again(folder)


@pytest.mark.parametrize("name, value", [("MADE_WITH", ("rich",)), ("source_hash", lambda package: "0")])
def test_other_code_shows_anew(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setattr(shown, name, value)
    assert not again(folder)


def test_another_terminal_is_another_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not again(folder)


@pytest.mark.parametrize("change", [{"text": "\x1b]0;title\x07"}, {"files": {"/etc/passwd": "0"}}, {"files": 1}])
def test_somebody_elses_file_does_no_harm(folder: Path, change: dict[str, object]) -> None:
    path = folder / shown.KEPT
    write_json(path, seal(read_sealed(path) | change))
    assert not again(folder)
