"""What the README and docs/ say: their Python runs as pasted, and their pictures are those that are drawn."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from PIL import Image
from torch import Tensor, nn

from docs.pictures import FUNCTIONS, main
from recsys_collapse.measure import measure
from recsys_collapse.spectrum import METRICS
from tests.cli import ROOT

PAGES = ["README.md", "docs/metrics.md"]


class Theirs(lightning.LightningModule):
    """A user's own module, which knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(30, 4), nn.EmbeddingBag(20, 4)
        self.top = nn.Linear(8, 1)

    def training_step(self, batch: Any, index: int) -> Tensor:
        (x_B2,) = batch
        e = torch.cat([self.user(x_B2[:, 0]), self.item(x_B2[:, 1:])], dim=1)
        return self.top(e).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


@pytest.mark.parametrize("page", PAGES)
def test_python_on_a_page_runs_as_pasted(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    x = torch.randint(0, 20, (40, 2), generator=torch.Generator().manual_seed(0))
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=10)
    module = Theirs()
    counts = {"user": torch.arange(30), "item": torch.arange(20)}
    measure(module, counts=counts, variants="seen+centred").write_parquet("collapse.parquet")  # as a run leaves it
    known: dict[str, Any] = {"model": module, "module": module, "batches": batches, "pytorch_lightning": lightning}
    for block in blocks:
        exec(block, known)


def test_the_readmes_own_training_leaves_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_python_on_a_page_runs_as_pasted("README.md", tmp_path, monkeypatch)
    (found,) = tmp_path.glob("*/**/collapse.parquet")
    frame = pl.read_parquet(found)
    assert set(frame["field"]) == {"user", "item"} and set(frame["epoch"]) == {-1, 0}
    assert (found.parent / "figures" / "spectra.png").is_file()


def test_every_picture_is_drawn_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path)])
    shown = re.findall(r"!\[.+?\]\(metrics/(\w+)\.png\)", (ROOT / "docs/metrics.md").read_text())
    assert (
        sorted(shown) == sorted(path.stem for path in tmp_path.glob("*.png")) == sorted(f.__name__ for f in FUNCTIONS)
    )
    assert {path.name for path in (ROOT / "docs/metrics").glob("*")} == {f"{name}.png" for name in shown}
    for path in tmp_path.glob("*.png"):
        assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 20


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    assert [name for name in METRICS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "callback").glob("*.yaml")))
def test_every_callback_is_named_for_users(name: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / "README.md").read_text())
    assert re.search(rf"callback=\S*\b{name}\b", (ROOT / "docs/metrics.md").read_text()) or name == "spectrum"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
