"""The command: `python -m recsys_collapse.estimate [-m] group=option key=value ...`.

What the models of a command line would cost, before anything is trained: parameters, floating-point operations per
sample, and memory in training. Prepares the data, for the cardinalities.
"""

import json
import logging
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from recsys_collapse.config import config_dir, plain, register, validate
from recsys_collapse.launch.check import check_targets
from recsys_collapse.launch.plan import Job, compose_jobs
from recsys_collapse.runs.identity import embed_name

register()
TEXTS = ("model", "scale", "embed", "optimizer")
NUMBERS = ("embedding\nparameters", "dense\nparameters", "FLOPs\nper sample", "training\nGB")


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
        Console(width=None if sys.stdout.isatty() else 120).print(cost_table(configs))
    except (ValueError, OSError) as error:
        print(f"recsys_collapse.estimate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def cost_table(configs: list[DictConfig]) -> Table:
    """One row per different model, optimizer and data (also: split) of these configs.

    Raises:
        ValueError: the data cannot be used, or a model cannot be built.
        OSError: something cannot be written.
    """
    from recsys_collapse.cost import flops_per_sample, outline, parameter_counts, training_bytes  # torch takes a second
    from recsys_collapse.data import load_data

    table = Table(
        *TEXTS, *NUMBERS, caption="training: weights, gradients and optimizer, without the activations of a batch"
    )
    for column in table.columns[len(TEXTS) :]:
        column.justify = "right"
    stores: dict[str, list[int]] = {}
    seen: set[str] = set()
    for config in configs:
        data = json.dumps([plain(config.dataset), config.split_seed, config.store_dir])
        sizes = [config.embed.num_sets, config.embed.embed_size]
        key = json.dumps([plain(config.model), sizes, plain(config.optimizer), data])
        if key in seen:  # such as SE and ME at scale 1
            continue
        seen.add(key)
        if data not in stores:
            stores[data] = load_data(config)[1].cardinalities
        backbone = outline(config, stores[data])
        counts, flops = parameter_counts(backbone), flops_per_sample(backbone)
        table.add_row(
            config.model.name,
            f"{config.scale}x",
            embed_name(config).upper(),
            config.optimizer.get("name") or config.optimizer["_target_"],
            f"{counts['embedding']:,}",
            f"{counts['dense']:,}",
            f"{flops:,}",
            f"{sum(training_bytes(backbone, config.optimizer).values()) / 1e9:.2f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
