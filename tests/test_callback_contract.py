"""One suite for every measuring callback: each conf/callback/*.yaml, built as a run builds it, in four small trainings.

It changes no number of the training, writes whole files with null instead of NaN, starts afresh with every fit, and no
logger or figure that fails ends the fit. What the values are is tested in tests/test_callback_<name>.py. A new one
needs its line in `FILES` and `SCALARS`.
"""

import copy
import math
import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from recsys_collapse.build import build
from recsys_collapse.callback import publish
from recsys_collapse.callback.records import EpochRecords
from recsys_collapse.config import config_dir
from recsys_collapse.dataset.store import Store
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.model.dcnv2 import DCNv2
from recsys_collapse.module import CTRModule
from recsys_collapse.runs.checkpoint import read_checkpoint
from recsys_collapse.runs.identity import identity
from recsys_collapse.train import build_module, fit
from tests.test_module import SMALL, config
from tests.training import RUN_ID, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*", "ignore:.*in eval mode at the start.*")

NAMES = sorted(path.stem for path in (config_dir() / "callback").glob("*.yaml"))
CARDINALITIES = {"a": 12, "b": 8, "one": 1, "few": 3}  # `few` has fewer ids than columns; an id of a and b never occurs
COEFFICIENTS = {"linear": 0.5, "pattern1": 0.25}  # of the components in the true logit
SHORT = [*SMALL, "callback=[]", "trainer.max_epochs=2", "model.base_size=2", "optimizer.lr=0.05"]
MODELS = {
    "dcnv2 ME": ["model=dcnv2", "scale=3", "embed=me", "model.backbone.num_cross_layers=2"],
    "dcnv2 SE": ["model=dcnv2", "scale=2", "embed=se", "model.backbone.num_cross_layers=2"],
    "dnn ME": ["model=dnn", "scale=2", "embed=me"],
    "ffm": ["model=ffm", "scale=2"],
}
SETS = {"dcnv2 ME": 3, "dnn ME": 2}
FILES = {
    "activation_rank": ["activation_rank", "set_correlation"],
    "gradient_spectrum": ["gradient_spectra"],
    "learned": ["learned", "learned_sets"],
    "pair_norm": ["pair_norm", "pattern_divergence"],
    "set_similarity": ["set_similarity"],
    "spectrum": ["spectra", "collapse"],
    "sub_embedding": ["sub_embedding", "collapse_law"],
}
OF_SETS = ("set_similarity", "pattern_divergence", "set_correlation")
OF_MODELS = {  # files that not every model leaves
    "sub_embedding": ("dcnv2 ME", "dcnv2 SE", "ffm"),
    "collapse_law": ("dcnv2 ME", "dcnv2 SE", "ffm"),
    "pair_norm": ("dcnv2 ME", "dcnv2 SE"),
    "pattern_divergence": ("dcnv2 ME",),
}
FIGURES = {"spectrum": "spectra"}  # others have the callback's name
SCALARS = {  # what stands before the slash
    "activation_rank": ["activation_rank", "set_correlation"],
    "gradient_spectrum": ["gradient_ia"],
    "learned": ["learned", "learned_sets"],
    "pair_norm": ["pattern_divergence"],
    "set_similarity": ["set_similarity"],
    "spectrum": ["ia", "relative"],
    "sub_embedding": ["collapse_law"],
}
every_callback = pytest.mark.parametrize("name", NAMES)
every_model = pytest.mark.parametrize("model", MODELS)


# What the tests of the single callbacks use too


def words_of(model: str) -> list[str]:
    """Overrides for one of `MODELS`, with dropout."""
    hidden = [] if model == "ffm" else ["model.backbone.hidden_sizes=[6,5]"]
    return [*SHORT, *MODELS[model], *hidden]


class KnownStore(Store):
    """One whose answer is known, without files."""

    def manifest(self) -> dict[str, Any]:
        return {"answer": {"coefficients": COEFFICIENTS}}


def small_store(seed: int = 0) -> Store:
    """48 rows for training, 6 batches; 14 for validation. The logits are known; the labels know nothing of them."""
    generator = torch.Generator().manual_seed(seed)
    known = [max(1, cardinality - (cardinality > 3)) for cardinality in CARDINALITIES.values()]
    ids = torch.stack([torch.randint(n, (64,), generator=generator, dtype=torch.int32) for n in known], dim=1)
    splits = dict(zip(("train", "valid", "test"), torch.arange(64).split([48, 14, 2]), strict=True))
    labels = (torch.arange(64) % 2).to(torch.uint8)
    component_nT = torch.stack([ids[:, 0] - ids[:, 1], (ids[:, 0] - 5) * (ids[:, 3] - 1)], dim=1).float()
    truth = torch.cat([component_nT @ torch.tensor([*COEFFICIENTS.values()]).unsqueeze(1), component_nT], dim=1)
    cardinalities = [*CARDINALITIES.values()]
    return KnownStore(Path("memory"), "f", [*CARDINALITIES], cardinalities, ids, labels, splits, truth)


class Snapshots(lightning.Callback):
    """Copies of the backbone at initialisation (-1) and after every epoch."""

    def __init__(self) -> None:
        self.of_epoch: dict[int, Backbone] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.of_epoch = {-1: self._copy(pl_module)}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.of_epoch[trainer.current_epoch] = self._copy(pl_module)

    @staticmethod
    def _copy(pl_module: CTRModule) -> Backbone:
        return copy.deepcopy(pl_module.backbone).double().requires_grad_(False)


class Collected(Logger):
    """Keeps what it is sent."""

    name = version = "collected"

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[dict[str, float]] = []
        self.images, self.tables = dict[str, Any](), dict[str, Any]()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append(metrics)

    def log_image(self, key: str, images: list[Any]) -> None:
        self.images[key] = images

    def log_table(self, key: str, columns: list[str], data: list[Any]) -> None:
        self.tables[key] = (columns, data)

    def at_epoch(self, epoch: int) -> dict[str, float]:
        """Everything sent for an epoch by callbacks that say so."""
        return {k: v for metrics in self.metrics if metrics.get("epoch") == epoch for k, v in metrics.items()}


def train(
    folder: Path,
    words: Sequence[str],
    *callbacks: lightning.Callback,
    loggers: Sequence[Logger] = (),
    module: CTRModule | None = None,
    store: Store | None = None,
) -> CTRModule:
    """A fit of the small store, as a run does it, with these callbacks before the records."""
    cfg, store = config(*words), store or small_store()
    module = module or build_module(cfg, store)
    trainer = make_trainer(cfg, folder, [*callbacks, EpochRecords(48)], list(loggers))
    fit(trainer, module, store, cfg)
    return module


def read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def not_blank(path: Path) -> bool:
    """A picture that is not of one colour."""
    with Image.open(path) as image:
        return min(image.size) > 200 and len(image.convert("RGB").getcolors(2**24) or []) > 50


def table_of_sets(backbone: Backbone, field: int) -> Tensor:
    """(D_i, M, K) of one field."""
    return backbone.embedding.weight[backbone.embedding.field_slices[field]].unflatten(
        1, (backbone.embedding.num_sets, -1)
    )


# The contract


def from_yaml(name: str) -> lightning.Callback:
    return build(OmegaConf.load(config_dir() / "callback" / f"{name}.yaml")[name], f"callback.{name}")


@pytest.fixture(scope="module")
def weights_without(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Tensor]]:
    """All weights and statistics of a model after the training without any callback."""

    @cache
    def of(model: str) -> dict[str, Tensor]:
        return train(tmp_path_factory.mktemp("without"), words_of(model)).state_dict()

    return of


def expected_files(name: str, model: str) -> set[str]:
    """Parquet files of a callback with its defaults."""
    files = {file for file in FILES[name] if file not in OF_SETS or "ME" in model}
    return {file for file in files if model in OF_MODELS.get(file, MODELS)}


@every_callback
def test_yaml_says_what_it_is(name: str) -> None:
    text = (config_dir() / "callback" / f"{name}.yaml").read_text()
    header, (node,) = text.partition(f"\n{name}:")[0], OmegaConf.create(text).values()
    assert all(line.startswith("#") for line in header.splitlines())
    (command,) = re.findall(r"#   python -m recsys_collapse.run (.*)", header)
    assert name == "spectrum" or f"callback=[spectrum,{name}]" in command
    assert (
        all(f"{file}.parquet" in header for file in FILES[name]) and f"figures/{FIGURES.get(name, name)}.png" in header
    )
    assert "Cost" in header and re.search("[Pp]aper", header)
    assert node.measures_only is True


@every_callback
def test_is_no_part_of_a_runs_identity(name: str) -> None:
    with_it, without = config(f"callback=[{name}]"), config("callback=[]")
    assert list(with_it.callback) == [name] and not without.callback
    assert identity(with_it, "data") == identity(without, "data")


@every_callback
@every_model
def test_leaves_the_training_as_it_was_and_its_files(
    name: str, model: str, tmp_path: Path, weights_without: Callable[[str], dict[str, Tensor]]
) -> None:
    """Bit for bit, dropout and batch norm's statistics included; with a logger that takes everything."""
    callback, logger = from_yaml(name), Collected()
    weights = train(tmp_path, words_of(model), callback, loggers=[logger]).state_dict()
    expected = weights_without(model)
    assert weights.keys() == expected.keys()
    assert [key for key in weights if not torch.equal(weights[key], expected[key])] == []
    written = {path.stem: pl.read_parquet(path) for path in tmp_path.glob("*.parquet")}
    assert set(written) == expected_files(name, model)
    for stem, frame in written.items():
        assert frame.columns[0] == "epoch"
        assert frame["epoch"].unique().sort().to_list() in ([-1, 0, 1], [0, 1]), stem
        assert frame.equals(callback.frames[stem], null_equal=True)
        for column in frame.select(pl.col(pl.Float64)):
            assert not column.is_nan().any() and not column.is_infinite().any(), (stem, column.name)
        if "embedding_set" in frame.columns and name != "spectrum":
            of_sets = frame["embedding_set"].drop_nulls().unique().sort().to_list()
            assert of_sets == (list(range(SETS[model])) if "ME" in model else [])
        if "reason" in frame.columns:
            value = next(
                column for column in ("value", "information_abundance", "overlap", "r2") if column in frame.columns
            )
            assert frame.filter(pl.col(value).is_null() != pl.col("reason").is_not_null()).is_empty(), stem
    figures = [path.stem for path in tmp_path.glob("figures/*")]
    assert figures == ([FIGURES.get(name, name)] if written else [])
    assert all(not_blank(path) for path in tmp_path.glob("figures/*"))
    assert set(logger.images) == {f"{figure}/plot" for figure in figures} and bool(logger.tables) == bool(written)
    sent = [key for key in {**logger.at_epoch(0), **logger.at_epoch(1)} if key.partition("/")[0] in SCALARS[name]]
    assert bool(sent) == bool(set(written) - {"pair_norm"}), "norms of one set have no scalar"


class Watch(lightning.Callback):
    """Keeps what could change a number later: generators, modes and gradients."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _look(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        modes = [module.training for module in pl_module.modules()]
        generators = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()))
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in pl_module.modules()]
        self.seen.append(
            (modes, hooks, generators, [grad.to_dense().tolist() for grad in grads], torch.is_grad_enabled())
        )

    on_fit_start = on_train_start = on_train_epoch_start = on_train_epoch_end = on_fit_end = _look
    on_before_optimizer_step = on_validation_batch_start = _look  # type: ignore[assignment]


@every_callback
@pytest.mark.parametrize("sparse", [False, True])
def test_touches_nothing(name: str, sparse: bool, tmp_path: Path) -> None:
    """Between what is before and what is after it in every hook; one part of the model is in eval mode throughout."""
    before, after, words = Watch(), Watch(), [*words_of("dcnv2 ME"), "optimizer=adagrad", "optimizer.table.lr=0.1"]
    words = [word for word in words if word != "optimizer.lr=0.05"] + [f"optimizer.sparse_gradients={sparse}"]
    module = build_module(config(*words), small_store())
    module.backbone.head.mlp[1].eval()
    train(tmp_path, words, before, from_yaml(name), after, module=module)
    assert len(before.seen) > 15 and any(False in modes for modes, *_ in before.seen)
    assert before.seen == after.seen


@every_callback
def test_a_second_fit_starts_afresh(name: str, tmp_path: Path) -> None:
    """After one of another model on other data, as if it were the first."""
    callback = from_yaml(name)
    train(tmp_path / "other", words_of("dcnv2 SE"), callback, store=small_store(seed=1))
    train(tmp_path / "second", words_of("dcnv2 ME"), callback)
    train(tmp_path / "first", words_of("dcnv2 ME"), from_yaml(name))
    assert {path.stem for path in (tmp_path / "second").glob("*.parquet")} == expected_files(name, "dcnv2 ME")
    for stem in expected_files(name, "dcnv2 ME"):
        assert read(tmp_path / "first", stem).equals(read(tmp_path / "second", stem), null_equal=True), stem


@every_callback
def test_a_figure_that_fails_is_a_warning(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(Figure, "savefig", fails)
    train(tmp_path, words_of("dcnv2 ME"), from_yaml(name))
    assert "no fonts" in caplog.text and not list(tmp_path.glob("figures/*"))
    assert {path.stem for path in tmp_path.glob("*.parquet")} == expected_files(name, "dcnv2 ME")


@every_callback
def test_a_logger_that_takes_no_pictures_is_a_warning(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Collected):
        def log_image(self, key: str, images: list[Any]) -> None:
            raise OSError("connection lost")

    train(tmp_path, words_of("dcnv2 ME"), from_yaml(name), loggers=[Fails()])
    assert "connection lost" in caplog.text and all(not_blank(path) for path in tmp_path.glob("figures/*"))


@every_callback
@pytest.mark.parametrize("value", [0.0, math.nan])
@pytest.mark.parametrize("model", ["dcnv2 ME", "ffm"])
def test_tables_without_a_spectrum_end_no_training(name: str, value: float, model: str, tmp_path: Path) -> None:
    """All zero, or one entry that is not a number, which no training row sees: null and a reason."""
    store, cfg = small_store(), config(*words_of(model), "optimizer.lr=0.0")
    module = build_module(cfg, store)
    with torch.no_grad():
        if value == 0:
            module.backbone.embedding.weight.zero_()
        else:
            module.backbone.embedding.weight[11] = value  # the last id of `a`, which never occurs
    train(tmp_path, [*words_of(model), "optimizer.lr=0.0"], from_yaml(name), module=module, store=store)
    for path in tmp_path.glob("*.parquet"):
        frame = pl.read_parquet(path)
        for column in frame.select(pl.col(pl.Float64)):
            assert not column.is_nan().any(), (path.stem, column.name)
    assert {path.stem for path in tmp_path.glob("*.parquet")} == expected_files(name, model)
    assert all(not_blank(path) for path in tmp_path.glob("figures/*"))


class Theirs(lightning.LightningModule):
    """A user's own module, not a `CTRModule`."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(9, 3), nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.top(self.table(batch[0])).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@every_callback
def test_other_modules_are_told_once(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(9)), batch_size=3)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(
        max_epochs=2, default_root_dir=tmp_path, callbacks=[from_yaml(name)], enable_checkpointing=False, **options
    )
    trainer.fit(Theirs(), data)
    if name != "spectrum":  # that one measures any module
        said = [record.getMessage() for record in caplog.records if "nothing to measure" in record.getMessage()]
        assert said == [f"{name}: nothing to measure: Theirs is not a CTRModule"]
        assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_ends_no_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, real = [], publish.write_parquet

    def full(path: Path, frame: pl.DataFrame) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(path, frame)

    monkeypatch.setattr(publish, "write_parquet", full)
    train(tmp_path, words_of("dcnv2 ME"), from_yaml(name))
    assert len(calls) > 1 and "is not written (OSError" in caplog.text


def train_on(folder: Path, callback: Any, epochs: int, after: Path | None = None) -> None:
    """Train in `folder`, from the last checkpoint of another folder on."""
    cfg, store = config(*words_of("dcnv2 ME"), f"trainer.max_epochs={epochs}"), small_store()
    checkpoint = None if after is None else after / "checkpoints" / "last.ckpt"
    found = None if checkpoint is None else read_checkpoint(checkpoint, RUN_ID)
    trainer = make_trainer(cfg, folder, [*([callback] if callback else []), EpochRecords(48)], [], found)
    fit(trainer, build_module(cfg, store), store, cfg, checkpoint)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gradient_spectrum"])
def test_a_training_that_goes_on_does_not_begin_at_initialisation(name: str, tmp_path: Path) -> None:
    """Its first measurement is that of the checkpoint's epoch, if the callback is new."""
    train_on(tmp_path / "a", None, epochs=2)
    train_on(tmp_path / "b", from_yaml(name), epochs=4, after=tmp_path / "a")
    assert sorted(set(read(tmp_path / "b", FILES[name][0])["epoch"])) == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_goes_on_leaves_the_files_of_one_that_was_not_interrupted(name: str, tmp_path: Path) -> None:
    train_on(tmp_path / "whole", from_yaml(name), epochs=4)
    train_on(tmp_path / "a", from_yaml(name), epochs=2)
    train_on(tmp_path / "b", from_yaml(name), epochs=4, after=tmp_path / "a")
    for file in FILES[name]:
        whole, resumed = read(tmp_path / "whole", file), read(tmp_path / "b", file)
        assert set(whole["epoch"]) >= {0, 1, 2, 3}
        assert resumed.equals(whole, null_equal=True), file


@pytest.mark.parametrize("name", ["pair_norm", "sub_embedding"])
def test_a_backbone_that_fails_ends_no_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise AttributeError("no such layer")

    for method in ("pair_projections", "sub_gram"):
        monkeypatch.setattr(DCNv2, method, fail)
    train(tmp_path, words_of("dcnv2 SE"), from_yaml(name))
    assert f"{name}: nothing measured in epoch -1 (AttributeError: no such layer)" in caplog.text
