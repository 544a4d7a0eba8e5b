"""The command: `python -m recsys_collapse.predict run=<run directory> input=<files> [output=FILE] [key=value ...]`.

Scores rows that a finished run has not seen, with its vocabularies and its best weights: on the rows of its own test
split, in split order, the logits are those of `test_scores.parquet` to the last bit. Ends with what a person wants to
know of the rows: how many values the run has not seen, and AUC and log-loss if they have labels.
With `predict.export=<format>` in the place of `input`, the model is written for use elsewhere (`export/`).
"""

import logging
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console

from recsys_collapse.config import config_dir, plain, register
from recsys_collapse.dataset.files import find_files
from recsys_collapse.launch.plan import compose_jobs
from recsys_collapse.launch.signals import Interrupted, end_on_signals
from recsys_collapse.predict_options import Root, check_export, check_options, check_output, named
from recsys_collapse.runs.records import finished_result
from recsys_collapse.runs.secrets import scrub

if TYPE_CHECKING:  # torch takes seconds: after what a person may have mistyped
    from recsys_collapse.load import LoadedRun
    from recsys_collapse.scoring import ScoreFile

log = logging.getLogger("recsys_collapse.predict")  # __name__ is __main__ when it is run

register()
ConfigStore.instance().store(name="predict_schema", node=Root)


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="predict")
def answer(config: DictConfig) -> None:
    """Hydra's own answers, such as `--help`."""


def main() -> int:
    """Score; 0, or 2 if the command, the run or the input is wrong, or 128 + n if it was ended by signal n."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `run` does, before torch is loaded
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("recsys_collapse").setLevel(logging.INFO)  # others, such as the exporter to ONNX, say much
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
    files = [] if config.input is None else find_files("input", *named(config))
    output = check_output(config, files) if files else None
    run_dir = Path(config.run).expanduser()
    result = finished_result(run_dir)
    folder = None if files else check_export(config, result["run_name"])

    from recsys_collapse.load import load_run

    store_dir = None if config.predict.store_dir is None else Path(config.predict.store_dir).expanduser()
    run = load_run(run_dir, list(config.allow), store_dir)
    if output is not None:
        predict(run, config, files, output)
        return
    from recsys_collapse.export import export

    assert folder is not None  # there are no files, so a format was asked for
    paths = export(run, config.predict.export, folder, config.predict.overwrite)
    log.info(f"exported   {folder}: {', '.join(path.name for path in paths)}")


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
        if not options.overwrite and output.exists():  # it came meanwhile, and scoring may have taken hours
            log.warning(f"{output}: is there now, made by something else; the scores go beside it")
            output = output.with_stem(f"{output.stem}-{time.strftime('%Y%m%dT%H%M%S')}")
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
            f"look at    many values that the run has not seen: {', '.join(many)}: other data, or other spelling? "
            "(from Parquet, numbers are written as 25 and 2.5, truth values as true and false)"
        )
    if scores.has_labels and (found := score_pieces(scores.pieces)):
        area = "null (the rows have one class only)" if found.auc is None else f"{found.auc:.6f}"
        log.info(f"AUC        {area}\nlog-loss   {found.logloss:.6f}")


if __name__ == "__main__":
    sys.exit(main())
