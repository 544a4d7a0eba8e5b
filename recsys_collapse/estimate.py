"""The command: `python -m recsys_collapse.estimate [-m] group=option key=value ...`.

What the models of a command line would cost, before anything is trained: parameters, floating-point operations per
sample, and memory in training with the parts it consists of. Prepares the data, for the cardinalities.
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from recsys_collapse.config import config_dir, plain, register, validate
from recsys_collapse.launch.check import check_targets
from recsys_collapse.launch.plan import Job, compose_jobs
from recsys_collapse.runs.identity import embed_name

if TYPE_CHECKING:  # torch takes a second
    from recsys_collapse.dataset.store import Store

register()
TEXTS = ("model", "scale", "embed", "optimizer")
NUMBERS = ("embedding\nparameters", "dense\nparameters", "FLOPs\nper sample", "training\nGB")
PARTS = ("process", "table", "optimizer", "dense", "data", "gradient", "activations", "evaluation", "copy")
HYPHENS = {"optimizer": "optimi-\nzer", "activations": "activa-\ntions", "evaluation": "evalua-\ntion"}
CAPTION = (
    "gradient and activations are those of a step, evaluation that of an evaluation, copy that of the weights, "
    "read for the test: they come in turn; the rest is there all the time"
)


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def answer(config: DictConfig) -> None:
    """Hydra's own answers, such as `--help`."""


def main() -> int:
    """Show the table; 0, or 2 if the command or the data is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        configs = compose_jobs(sys.argv[1:])
        if configs is None:
            answer()
            return 0
        for config in configs:
            validate(config)
        check_targets([Job(config, "", Path()) for config in configs])
        console = Console(width=None if sys.stdout.isatty() else 120)
        for table in cost_tables(configs):
            console.print(table)
    except (ValueError, OSError) as error:
        print(f"recsys_collapse.estimate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def cost_tables(configs: list[DictConfig]) -> tuple[Table, Table]:
    """What different models of these configs cost, a row for each, and the parts of their memory.

    Raises:
        ValueError: the data cannot be used, or a model cannot be built.
        OSError: something cannot be written.
    """
    from recsys_collapse.cost import flops_per_sample, outline, parameter_counts
    from recsys_collapse.memory import needed

    costs, parts = _table(TEXTS, NUMBERS), _table(["GB of memory"], [HYPHENS.get(part, part) for part in PARTS])
    parts.caption = CAPTION
    stores: dict[str, tuple[Store, int]] = {}
    seen: set[str] = set()
    for config in configs:
        data = json.dumps([plain(config.dataset), config.split_seed, config.store_dir, config.trainer.accelerator])
        sizes, trainer = [config.embed.num_sets, config.embed.embed_size], config.trainer
        steps = [trainer.batch_size, trainer.eval_batch_size, trainer.precision, trainer.accelerator]
        kinds = [plain(config[part]) for part in ("model", "optimizer", "regularizer")]
        key = json.dumps([kinds, sizes, steps, data])
        if key in seen:  # such as SE and ME at scale 1
            continue
        seen.add(key)
        if data not in stores:
            stores[data] = _store(config)
        store, on_gpu = stores[data]
        backbone = outline(config, store.cardinalities)
        memory = needed(config, backbone, {part: len(rows) for part, rows in store.splits.items()}, on_gpu)
        counts, flops = parameter_counts(backbone), flops_per_sample(backbone)
        optimizer = config.optimizer.get("name") or config.optimizer["_target_"]
        words = (config.model.name, f"{config.scale}x", embed_name(config).upper(), optimizer)
        numbers = (f"{value:,}" for value in (counts["embedding"], counts["dense"], flops))
        costs.add_row(*words, *numbers, _gigabytes(memory.peak))
        parts.add_row(" ".join(words), *(_gigabytes(getattr(memory, part)) for part in PARTS))
        if memory.left_out:
            print(f"{' '.join(words)}: not counted, as it does not run without numbers: {memory.left_out}")
    return costs, parts


def _table(texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(*texts, *numbers)
    for column in table.columns[len(texts) :]:
        column.justify = "right"
    return table


def _store(config: DictConfig) -> "tuple[Store, int]":
    """The data, and how many bytes of it would stay on a GPU."""
    from recsys_collapse.data import load_data
    from recsys_collapse.dataset.batches import resident_bytes
    from recsys_collapse.memory import free_memory

    source, store = load_data(config)
    accelerator = config.trainer.accelerator
    return store, resident_bytes(store, accelerator, source.device_resident, free_memory(accelerator))


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.2f}"


if __name__ == "__main__":
    sys.exit(main())
