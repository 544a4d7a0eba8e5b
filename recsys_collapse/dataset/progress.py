"""A progress bar for the preparation of data."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from recsys_collapse.dataset.build import Progress, silent


def wants_bar(setting: bool | None) -> bool:
    """Whether progress is drawn: as configured, or, for null, if someone watches."""
    return sys.stdout.isatty() if setting is None else setting


@contextmanager
def progress_bar(shown: bool) -> Iterator[Progress]:
    """A bar on the terminal, one line for each stage as it comes; or nothing."""
    if not shown:
        yield silent
        return
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description:>18}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=share)

        yield progress
