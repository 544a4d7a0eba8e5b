"""A sweep whose data lie under a secret leaves it nowhere, and a child that reads the plan gets it back."""

import os
from pathlib import Path

import pytest

from tests.cli import SMALL, run, write_clicks

SECRET = "sesame-open-9"


@pytest.mark.parametrize(
    ("launch", "scales"), [("in_process", "1,2"), pytest.param("subprocess", "1", marks=pytest.mark.slow)]
)
def test_no_file_of_a_sweep_has_a_secret(tmp_path: Path, launch: str, scales: str) -> None:
    (tmp_path / SECRET).mkdir()
    data = write_clicks(tmp_path / SECRET / "clicks.csv", rows=300)
    options = [*data, *SMALL, "trainer.max_epochs=1", f"launch={launch}", "logger=wandb", "logger.mode=offline"]
    done = run("-m", f"scale={scales}", "optimizer.lr=0.001,1e30", *options, cwd=tmp_path, MY_API_KEY=SECRET)
    assert done.returncode == 1, done.stderr  # the large learning rate diverges, so there are failures to look at
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert {"result.json", "failure.json", "config.yaml", "log.txt"} <= {path.name for path in files}
    assert [
        path
        for path in files
        if SECRET.encode() in path.read_bytes() or SECRET in os.fspath(path.relative_to(tmp_path))
    ] == []
    configs = [path.read_text() for path in tmp_path.glob("outputs/runs/*/config.yaml")]
    assert len(configs) == 2 * len(scales.split(","))
    assert all("${oc.env:MY_API_KEY}/clicks.csv" in config for config in configs)
