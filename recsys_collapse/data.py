"""The data of a config: its source, and the store that is prepared from it if it was not yet."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from recsys_collapse.build import build
from recsys_collapse.dataset.progress import progress_bar, wants_bar
from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.store import Store, prepare
from recsys_collapse.runs.heartbeat import beat

log = logging.getLogger(__name__)


def load_data(config: DictConfig) -> tuple[Source, Store]:
    """Source and store of `dataset`, with a progress bar as `trainer.progress_bar` says.

    Raises:
        ValueError: the data cannot be used.
        TimeoutError: another process prepares the same data and does not come to an end.
        OSError: something cannot be written.
    """
    source, shown = build(config.dataset, "dataset"), wants_bar(config.trainer.progress_bar)
    note = print if shown else log.info  # a bar makes room for what is printed
    with progress_bar(shown) as bar:

        def progress(stage: str, share: float) -> None:
            beat()
            bar(stage, share)

        folder, lock = Path(config.store_dir), config.file_locks
        return source, prepare(source, folder, config.split_seed, lock=lock, progress=progress, note=note)
