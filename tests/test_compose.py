"""The fast way to compose against Hydra's own, and a help that is Hydra's."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from recsys_collapse.config import register
from recsys_collapse.launch.compose import Composer, Repository, show_help, without_hydra
from tests.cli import python_path

JOBS = (
    "model=dnn scale=1",
    "scale=4 model=dnn",
    "model=dnn scale=2 trainer.max_epochs=3 embed=me",
    "callback=[spectrum,pair_norm] callback.spectrum.exact=false",
    "+callback.own._target_=a.B +callback.own.x={y:[1,2]} group=g scale=3",
    "protocol=bars ~model.backbone.dropout optimizer.lr=1e-3",
    "hydra.job.chdir=true optimizer={lr:2} logger=local",
    "hydra/job_logging=default seed=7 seed=8 'group=\"a b\"'",
)


@pytest.fixture(autouse=True)
def no_hydra_is_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def test_jobs_are_what_hydra_composes() -> None:
    """Values, types, references and flags of every node; with the node `hydra` too, for the first job."""
    register()
    composer = Composer(get_args_parser().parse_args([]), "config")
    slow = ConfigLoaderImpl(composer.loader.config_search_path)
    for text in JOBS * 2:
        words = [word.strip("'") for word in text.replace("a b", "a_b").split()]
        expected = slow.load_configuration("config", words, run_mode=RunMode.RUN)
        assert repr(composer.first(words)) == repr(expected)
        job, own = composer.job(words), without_hydra(expected)
        assert repr(job) == repr(own) and nodes(job) == nodes(own)
    assert len(composer._bases) < len(JOBS)  # some share their groups


def nodes(node: object) -> object:
    """Kind, type and flags of a node and those within."""
    if not hasattr(node, "_metadata"):
        return node
    said = (type(node).__name__, str(node._metadata.ref_type), node._metadata.optional, node._metadata.flags)
    within = node._content if OmegaConf.is_config(node) else None
    if isinstance(within, dict):
        return said, {key: nodes(value) for key, value in within.items()}
    return said, [nodes(value) for value in within] if isinstance(within, list) else within


def test_what_does_not_compose_is_said_as_before() -> None:
    register()
    composer = Composer(get_args_parser().parse_args(["scal=1"]), "config")
    with pytest.raises(ValueError, match="scal=1: no such key; did you mean scale"):
        composer.job(["scal=1"])


def test_a_copy_of_the_repository_looks_in_its_own_places() -> None:
    composer = Composer(get_args_parser().parse_args([]), "config")
    repository = composer.loader.repository
    assert isinstance(repository, Repository)
    copied = repository.__deepcopy__({})
    read = repository.load_config("model/dnn")
    assert read is not None and read is not repository.load_config("model/dnn")
    elsewhere = composer.loader.config_search_path
    copied.initialize_sources(type(elsewhere)())
    assert copied.get_sources() == [] and repository.get_sources() and repository.load_config("model/dnn") == read


def test_help_is_that_of_hydra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_help("run", ["--help", "model=dnn"]) and not show_help("run", ["model=dnn"])
    code = "import sys; from recsys_collapse.run import answer; sys.argv[1:] = ['--help', 'model=dnn']; answer()"
    environment = {"PYTHONPATH": python_path(Path(__file__).parents[1]), "PATH": ""}
    slow = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    ours = capsys.readouterr().out
    assert "model: dcnv2" in ours and strip(slow.stdout) == strip(ours)
    with pytest.raises(ValueError, match="modle"):
        show_help("run", ["--help", "modle=dnn"])


def strip(text: str) -> list[str]:
    """Without the first lines, which have the name of the program."""
    return text.splitlines()[2:]
