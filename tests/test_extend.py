"""Using the package from elsewhere: a user's own backbone and dataset, and the wheel in an empty directory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import paper
from tests.cli import ROOT, SMALL, SMALL_SYNTHETIC, python_path, run

BACKBONE = '''
from torch import nn
from recsys_collapse.embedding import FieldEmbedding
from recsys_collapse.head import MLPHead
from recsys_collapse.layers import Projection
from recsys_collapse.model.backbone import Backbone

class Tiny(Backbone):
    """A projection of the concatenated embeddings, nothing else."""

    def __init__(self, cardinalities, num_sets, embed_size, *, width: int = 4):
        size = len(cardinalities) * embed_size
        super().__init__(
            FieldEmbedding(cardinalities, num_sets, embed_size),
            nn.Sequential(nn.Flatten(2), Projection(num_sets, size, width, 0.0)),
            MLPHead(width, [], 0.0),
        )
'''
DATASET = '''
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import polars as pl
from recsys_collapse.dataset.source import Rows, Source, runtime

@dataclass(kw_only=True)
class Lines(Source):
    """Lines of "label value value"."""

    path: str = runtime()

    def files(self):
        return [Path(self.path)]

    def read(self):
        rows = [line.split() for line in Path(self.path).read_text().splitlines()]
        features = pl.DataFrame({"first": [row[1] for row in rows], "second": [row[2] for row in rows]})
        yield Rows(features, np.array([int(row[0]) for row in rows], dtype=np.uint8))
'''


def test_own_backbone_and_dataset_without_touching_the_package(tmp_path: Path) -> None:
    (tmp_path / "their_pkg").mkdir()
    (tmp_path / "their_pkg" / "__init__.py").write_text("")
    (tmp_path / "their_pkg" / "tiny.py").write_text(BACKBONE)
    (tmp_path / "their_pkg" / "lines.py").write_text(DATASET)
    for group, node in {
        "model": {"name": "tiny", "base_size": 3, "backbone": {"_target_": "their_pkg.tiny.Tiny", "width": 5}},
        "dataset": {"_target_": "their_pkg.lines.Lines", "name": "lines", "path": "rows.txt"},
    }.items():
        (tmp_path / "their_conf" / group).mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(node), tmp_path / "their_conf" / group / f"{node['name']}.yaml")
    rows = "\n".join(f"{(i * i) % 3 == 0:d} a{i % 7} b{i % 5}" for i in range(200))
    (tmp_path / "rows.txt").write_text(rows)
    options = ["dataset=lines", "trainer.max_epochs=1", "trainer.batch_size=32", "logger=local"]
    done = run("--config-dir", "their_conf", "-m", "model=tiny", "scale=1,3", "embed=se,me", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/runs/*/result.json")]
    assert {(r["model"], r["embed"], r["num_sets"], r["embed_size"]) for r in results} == {
        ("tiny", "se", 1, 3),
        ("tiny", "se", 1, 9),
        ("tiny", "me", 3, 3),
    }

    wrong = run("--config-dir", "their_conf", "model=tiny", "model.backbone.widht=3", *options, cwd=tmp_path)
    assert wrong.returncode == 2 and "did you mean model.backbone.width" in wrong.stderr


def test_wheel_in_an_empty_directory(tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    assert (site / "recsys_collapse" / "conf" / "config.yaml").is_file()
    assert (site / "recsys_collapse" / "paper_auc.csv").is_file()
    where = "import recsys_collapse; print(recsys_collapse.__file__)"
    environment = {"PYTHONPATH": python_path(site)}
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=empty, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(site))
    done = run("-m", "scale=1,2", "embed=me", *SMALL, *SMALL_SYNTHETIC, cwd=empty, **environment)
    assert done.returncode == 0, done.stderr
    assert len(list(empty.glob("outputs/runs/*/result.json"))) == 2
    assert [path.name for path in empty.iterdir()] == ["outputs"]
    run_dir = next(empty.glob("outputs/runs/*-me-2x-*"))
    command = [sys.executable, "-m", "recsys_collapse.diagnose", str(run_dir), "--output", "found"]
    subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True)
    assert "<html" in (empty / "found" / "diagnosis.html").read_text()  # of files that the wheel has


ARTEFACTS = {artefact.name for artefact in paper.ARTEFACTS}  # which tests/test_artefacts.py runs


@pytest.mark.parametrize("name", sorted({p.stem for p in (ROOT / "conf" / "experiment").glob("*.yaml")} - ARTEFACTS))
def test_every_experiment_runs(name: str, tmp_path: Path) -> None:
    fewer = ["scale=1,2", "seed=0", "dataset.num_patterns=2"]
    done = run("-m", f"experiment={name}", *fewer, *SMALL, *SMALL_SYNTHETIC, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("outputs/sweeps/*/table.txt"))


def test_help_is_quick_and_names_the_groups(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    for group in ("model", "embed", "dataset", "optimizer", "regularizer", "protocol", "logger"):
        options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        assert len(options) > 1 and f"{group}: {', '.join(options)}" in done.stdout
    assert list(tmp_path.iterdir()) == []
