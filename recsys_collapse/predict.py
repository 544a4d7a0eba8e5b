"""The command: `python -m recsys_collapse.predict run=<run directory> input=<files> [output=FILE] [key=value ...]`.

Scores rows that a finished run has not seen, with its vocabularies and its best weights: on the rows of its own test
split, in split order, the logits are those of `test_scores.parquet` to the last bit. Ends with what a person wants to
know of the rows: how many values the run has not seen, and AUC and log-loss if they have labels.
"""

import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig
from rich.console import Console

from recsys_collapse.config import WORDS, config_dir, plain, register
from recsys_collapse.dataset.files import COMPRESSED, find_files
from recsys_collapse.launch.plan import compose_jobs
from recsys_collapse.launch.signals import Interrupted, end_on_signals
from recsys_collapse.launch.subprocess import visible_gpus
from recsys_collapse.runs.records import finished_result
from recsys_collapse.runs.secrets import scrub

if TYPE_CHECKING:  # torch takes seconds: after what a person may have mistyped
    from recsys_collapse.load import LoadedRun
    from recsys_collapse.scoring import ScoreFile

log = logging.getLogger(__name__)
OUTPUT_ENDINGS = (".parquet", ".pq")


@dataclass
class PredictConfig:
    """How scores are made; see conf/predict.yaml."""

    export: str | None = None
    store_dir: str | None = None
    batch_size: int | None = None
    accelerator: str = "auto"
    threads: int | None = None
    progress_bar: bool | None = None
    overwrite: bool = False


@dataclass
class InputConfig:
    """How the input is written, as the options of `Table`; null: as the run's own."""

    label: str | None = None
    label_map: Any = None
    columns: Any = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str | None = None
    max_line_bytes: int | None = None
    dir: str | None = None
    block_mib: int | None = None


@dataclass
class Root:
    """The root of conf/predict.yaml."""

    run: str = MISSING
    input: Any = None
    output: str | None = None
    allow: list[str] = field(default_factory=list)
    predict: PredictConfig = field(default_factory=PredictConfig)
    dataset: InputConfig = field(default_factory=InputConfig)


register()
ConfigStore.instance().store(name="predict_schema", node=Root)


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="predict")
def answer(config: DictConfig) -> None:
    """Hydra's own answers, such as `--help`."""


def main() -> int:
    """Score; 0, or 2 if the command, the run or the input is wrong, or 128 + n if it was ended by signal n."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `run` does, before torch is loaded
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    end_on_signals()
    try:
        configs = compose_jobs(sys.argv[1:], "predict")
        if configs is None:
            answer()
            return 0
        if len(configs) > 1:
            raise ValueError(f"{len(configs)} commands in one: expected one run and one output; run it once for each")
        _act(configs[0])
    except (ValueError, OSError) as error:
        print(scrub(f"recsys_collapse.predict: {error}"), file=sys.stderr)
        return 2
    except Interrupted as stop:
        print("\nStopped; nothing is left of what was not finished.", file=sys.stderr)
        return int(str(stop.code))
    return 0


def _act(config: DictConfig) -> None:
    """Check what a person may have mistyped, then load the run, which takes seconds, and use it."""
    check_options(config)
    files = [] if config.input is None else find_files("input", *_named(config))
    output = None if not files else check_output(config, files)
    finished_result(Path(config.run))

    from recsys_collapse.load import load_run

    store_dir = None if config.predict.store_dir is None else Path(config.predict.store_dir)
    run = load_run(Path(config.run), list(config.allow), store_dir)
    if config.predict.export is not None:
        # The place for recsys_collapse/export/: `from recsys_collapse.export import export`, here because it is heavy,
        # and `export(run, Path(config.predict.export))`.
        raise ValueError(f"predict.export={config.predict.export}: this version cannot export yet; leave it out")
    if output is not None:
        predict(run, config, files, output)


def _named(config: DictConfig) -> tuple[Any, Path | None]:
    """What `input` names, and the folder where relative names start."""
    named = config.input if isinstance(config.input, str) else list(config.input)
    return named, None if config.dataset.dir is None else Path(config.dataset.dir).expanduser()


def check_options(config: DictConfig) -> None:
    """Check ranges and words.

    Raises:
        ValueError: names the key, the value and what was expected.
    """
    options = config.predict
    if config.input is None and options.export is None:
        raise ValueError("input is not set: add input=FILE (or a pattern, or a list) to the command")
    names = [config.input] if not isinstance(config.input, ListConfig) else list(config.input)
    if config.input is not None and not all(isinstance(name, str) for name in names):
        raise ValueError(f"input={config.input}: expected a file, a pattern such as 'day-*.parquet', or a list of them")
    for key in ("batch_size", "threads"):
        if options[key] is not None and options[key] < 1:
            raise ValueError(f"predict.{key}={options[key]}: expected an integer of 1 or more, or null")
    if options.accelerator not in (words := WORDS["trainer.accelerator"]):
        raise ValueError(f"predict.accelerator={options.accelerator}: expected one of {', '.join(words)}")
    if options.accelerator in ("cuda", "gpu") and not visible_gpus():
        raise ValueError(f"predict.accelerator={options.accelerator}: no GPU is visible here; use auto or cpu")
    label_map, columns = config.dataset.label_map, config.dataset.columns
    if not isinstance(label_map, DictConfig | None):
        raise ValueError(
            f"dataset.label_map={label_map}: expected words and what they stand for, e.g. {{no: 0, yes: 1}}"
        )
    if not isinstance(columns, ListConfig | None) and columns != "header":
        raise ValueError(f"dataset.columns={columns}: expected a list of names, header, or null")


def check_output(config: DictConfig, files: list[Path]) -> Path:
    """Where the scores go.

    Raises:
        ValueError: something is there, or it is no place for a Parquet file.
    """
    stem = files[0].stem if files[0].suffix.lower() not in COMPRESSED else Path(files[0].stem).stem
    output = Path(config.output or f"{stem}-scores.parquet").expanduser()
    if output.suffix.lower() not in OUTPUT_ENDINGS:
        raise ValueError(f"output={output}: the scores are written as Parquet: expected a name that ends in .parquet")
    if any(output.resolve() == file.resolve() for file in files):
        raise ValueError(f"output={output}: it is an input; choose another name")
    if output.is_dir():
        raise ValueError(f"output={output}: it is a folder; expected the name of a file")
    if not config.predict.overwrite:
        _refuse_if_there(output)
    nearest = next(folder for folder in output.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"output={output}: {nearest} is not a folder one can write to; choose another output")
    return output


def _refuse_if_there(output: Path) -> None:
    if output.exists():
        raise ValueError(f"output={output}: it exists; choose another name, or add predict.overwrite=true")


def predict(run: "LoadedRun", config: DictConfig, files: list[Path], output: Path) -> None:
    """Score the rows of some files into a Parquet file, and say what was found.

    Args:
        run: whose model and vocabularies.
        config: of the command, checked.
        files: in order.
        output: the file, which is there whole at the end or not at all.

    Raises:
        ValueError: the files do not fit the run, or a row cannot be used.
        OSError: something cannot be written.
    """
    import torch

    from recsys_collapse.build import build
    from recsys_collapse.dataset.lookup import Encoder
    from recsys_collapse.dataset.progress import progress_bar, wants_bar
    from recsys_collapse.dataset.unseen import Unseen
    from recsys_collapse.scoring import ScoreFile, Scorer, choose_device, score_rows

    options, started = config.predict, time.perf_counter()
    source = build(run.config.dataset, "dataset")
    encoder = Encoder(run.store, source.field_buckets())
    unseen = Unseen(source, run.store.fields, files, plain(config.dataset))
    torch.set_num_threads(options.threads or run.config.trainer.threads or torch.get_num_threads())
    scorer = Scorer(run.backbone, choose_device(options.accelerator), run.config.trainer.precision)
    for line in scorer.remarks(run.result["environment"]):
        log.info(line)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
        scores = ScoreFile(Path(folder), unseen.has_labels)
        with progress_bar(wants_bar(options.progress_bar)) as bar:
            batch_size = options.batch_size or run.config.trainer.eval_batch_size
            score_rows(unseen, encoder, scorer, scores, batch_size, lambda done: bar("scoring", done))
        if not options.overwrite:
            _refuse_if_there(output)  # once more: scoring may have taken hours
        scores.finish(output)
        seconds = time.perf_counter() - started
        show(scores, encoder.rates(), run.store.manifest())
    log.info(f"scored     {scores.rows:,} rows in {seconds:.1f} s, {scores.rows / seconds:,.0f} rows/s: {output}")


def show(scores: "ScoreFile", rates: dict[str, float], manifest: dict[str, Any]) -> None:
    """Print what a person wants to know of the rows: values that the run has not seen, AUC and log-loss.

    Args:
        scores: of all rows, while its pieces are there.
        rates: for every field, the share of rows with id 0; empty if there are no rows.
        manifest: of the run's store.
    """
    from recsys_collapse.dataset.report import drifted, unseen_table
    from recsys_collapse.score import score_pieces

    console = Console(markup=False) if sys.stdout.isatty() else Console(width=120, markup=False)
    if rates:
        console.print(unseen_table(rates, manifest))
    if many := drifted(rates, manifest):
        log.warning(
            f"look at    many values that the run has not seen: {', '.join(many)}: other data, or other spelling?"
        )
    if scores.has_labels and (found := score_pieces(scores.pieces)):
        area = "null (the rows have one class only)" if found.auc is None else f"{found.auc:.6f}"
        log.info(f"AUC        {area}\nlog-loss   {found.logloss:.6f}")


if __name__ == "__main__":
    sys.exit(main())
