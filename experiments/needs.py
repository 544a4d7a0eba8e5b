"""What runs must be like for an artefact to be drawn from them: checked on the plan, before anything is trained."""

from collections.abc import Callable, Sequence

import torch

from recsys_collapse.config import plain
from recsys_collapse.cost import outline
from recsys_collapse.launch.plan import Job
from recsys_collapse.runs.identity import embed_name, flatten

Check = Callable[[Sequence[Job]], None]
SHARED = ("dataset", "split_seed", "protocol")
COMPARED = ("embed", "scale", "group", "sweep")
"""Sections and keys that may differ between two jobs of one model, size, SE or ME, and seed: none of them differs."""


def comparable(jobs: Sequence[Job]) -> None:
    """Runs on the same data, that differ in model, size, SE or ME, regularizer and seed only, and keep what is read.

    Raises:
        ValueError: names the keys.
    """
    first, seen = flatten(plain(jobs[0].config)), dict[tuple[object, ...], dict[str, object]]()
    for job in jobs:
        config, flat = job.config, flatten(plain(job.config))
        if not config.save_scores:
            raise ValueError("save_scores=false: expected true: intervals of AUC need the scores of all test rows")
        if "spectrum" not in config.callback:
            raise ValueError(f"callback={[*config.callback]}: expected callback=[spectrum] or more, for the figures")
        cell = (config.model.name, embed_name(config), config.scale, config.regularizer.get("name"), config.seed)
        other = seen.setdefault(cell, flat)
        apart = [key for key in flat if flat[key] != other.get(key) and key.split(".")[0] not in COMPARED]
        apart += [key for key in flat if flat[key] != first.get(key) and key.split(".")[0] in SHARED]
        if apart:
            raise ValueError(
                f"{', '.join(sorted({*apart}))}: several values; an artefact of the paper compares models, sizes, SE "
                "and ME: expected one value for all else; run the command for each"
            )


def values(key: str, *wanted: object) -> Check:
    """A check that there are runs with each of these values of a key, such as `embed`, `se`, `me`."""

    def check(jobs: Sequence[Job]) -> None:
        found = {"model": lambda c: c.model.name, "embed": embed_name, "regularizer": lambda c: c.regularizer.name}[key]
        there = {found(job.config) for job in jobs}
        if missing := [str(value) for value in wanted if value not in there]:
            given = ",".join(map(str, wanted))
            raise ValueError(f"no runs with {key}={','.join(missing)}: expected {key}={given}, which are compared")

    return check


def pair_projections(jobs: Sequence[Job]) -> None:
    """Backbones that project field pairs.

    Raises:
        ValueError: one does not.
    """
    for job in _one_of_each_model(jobs):
        outline(job.config, [2, 3, 4]).pair_projections()


def sub_embeddings(jobs: Sequence[Job]) -> None:
    """Backbones that have sub-embeddings.

    Raises:
        ValueError: one does not.
    """
    for job in _one_of_each_model(jobs):
        embed = job.config.embed
        shape = (embed.num_sets, 3, embed.embed_size, embed.embed_size)
        outline(job.config, [2, 3, 4]).sub_gram(torch.empty(shape, device="meta", dtype=torch.float64))


def _one_of_each_model(jobs: Sequence[Job]) -> list[Job]:
    return list({job.config.model.name: job for job in jobs}.values())


def all_of(*checks: Check) -> Check:
    """Several checks, one after the other."""

    def check(jobs: Sequence[Job]) -> None:
        for one in checks:
            one(jobs)

    return check
