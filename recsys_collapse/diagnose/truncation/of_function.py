"""Functional collapse of a model trained elsewhere: the user's function scores it with the tables that it is given.

A field is truncated across its embedding sets jointly, in float64, and rounded to the type of its tensors.

Shapes: B block of rows, M embedding sets, K columns of a set, C = M*K, n scored rows.
"""

import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_collapse.diagnose.fields import FieldTable
from recsys_collapse.diagnose.layouts import identity
from recsys_collapse.diagnose.truncation.curves import Truncation
from recsys_collapse.diagnose.truncation.truncate import TOLERANCE, Directions, Projections, placed, truncate
from recsys_collapse.spectrum.gram import field_moments
from recsys_collapse.stats import Placements

BLOCK_ROWS = 65_536  # in float64 at a time


Score = Callable[[dict[str, Tensor]], tuple[Any, Any]]
"""Tensors by their names in the checkpoint -> scores (n,), higher for a more likely 1, and labels (n,) in {0, 1}."""


def truncate_tables(
    tables: Sequence[FieldTable],
    tensors: Mapping[str, Tensor],
    score: Score,
    label: str,
    *,
    ranks: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
    alone: Sequence[str] | None = None,
) -> Truncation:
    """Curves of the user's model: `score` is called once for every point.

    Args:
        tables: the fields of a checkpoint.
        tensors: the tensors that hold them, by name. `score` gets all of them, truncated or as they are; it must not
            write into them, and always score the same rows, in the same order, without dropout.
        score: the user's function.
        label: of the checkpoint.
        ranks: None: 0, 1, 2, 4, 8, ... and all.
        tolerance: AUC that may be lost for a rank to suffice.
        alone: fields with a curve of their own; None: every one.

    Raises:
        ValueError: an option is out of range, a table is not finite, or `score` fails or returns what it should not.
    """
    fields = [Directions(table.name, table_gram(table, tensors), _rows(table), table.num_sets) for table in tables]
    source = f"--score {getattr(score, '__qualname__', score)}"
    first: list[Placements] = []

    def model(projections: Projections) -> Placements:
        found = placed(*_called(score, truncated(tables, tensors, projections), source), source)
        first.append(found) if not first else None
        if not np.array_equal(found.label_n, first[0].label_n):
            counts = [f"{len(one.label_n)} rows, {int(one.label_n.sum())} of them 1" for one in (found, first[0])]
            raise ValueError(
                f"{source}: the labels of this call ({counts[0]}) are not those of the first ({counts[1]}): it must "
                "score the same rows in the same order in every call, so do not shuffle or draw them"
            )
        return found

    return truncate(fields, model, label=label, ranks=ranks, tolerance=tolerance, alone=alone)


def _rows(table: FieldTable) -> int:
    rows = table.parts[0][1]
    return rows.stop - rows.start


def _blocks(table: FieldTable, tensors: Mapping[str, Tensor]) -> Iterator[list[Tensor]]:
    """The rows of a field, block by block: a view of each of its tensors."""
    for start in range(0, _rows(table), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, _rows(table))
        yield [tensors[name][rows.start + start : rows.start + stop] for name, rows in table.parts]


def table_gram(table: FieldTable, tensors: Mapping[str, Tensor]) -> Tensor:
    """E^T E (C, C) float64 of a field, all sets side by side."""
    rows = table.rows(tensors)
    return field_moments(rows, [slice(0, len(rows))]).gram_NCC[0]


@torch.no_grad()
def truncated(
    tables: Sequence[FieldTable], tensors: Mapping[str, Tensor], projections: Projections
) -> dict[str, Tensor]:
    """All tensors; those that hold a field of `projections` are copies, in which its table is projected."""
    changed = [table for table in tables if table.name in projections]
    copies = {name: tensors[name].clone() for table in changed for name, _ in table.parts}
    tied = {identity(tensors[name]): copy for name, copy in copies.items()}
    for table in changed:
        for views in _blocks(table, copies):
            e_BC = torch.cat(views, dim=1).double() @ projections[table.name].to(views[0].device)
            for view, part in zip(views, e_BC.split([view.shape[1] for view in views], dim=1), strict=True):
                view.copy_(part)
    # A tied tensor under its other names, too: whoever loads them would undo the truncation.
    return {name: tied.get(identity(tensor), tensor) for name, tensor in tensors.items()}


def _called(score: Score, tensors: dict[str, Tensor], source: str) -> tuple[Tensor, np.ndarray]:
    """Scores (n,) and labels (n,) that the user's function returns.

    Raises:
        ValueError: it raises, or returns something else.
    """
    try:
        with torch.no_grad():
            returned = score(tensors)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}, line {frame.lineno}"
        raise ValueError(f"{source} raised {type(error).__name__}: {error} ({where})") from error
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        raise ValueError(f"{source} returned {type(returned).__name__}: expected two: scores (n,) and labels (n,)")
    score_n, label_n = (
        _vector(value, f"{source}: its {of}") for value, of in zip(returned, ("scores", "labels"), strict=True)
    )
    return score_n, label_n.double().numpy()


def _vector(value: Any, source: str) -> Tensor:
    """Numbers of any kind as a vector (n,) on the CPU, of their own type if it is a floating one, else float64.

    Raises:
        ValueError: they are not such.
    """
    try:
        vector = (value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source} are {type(value).__name__} and no numbers: {error}") from error
    if vector.ndim != 1 or not len(vector) or vector.is_complex():
        raise ValueError(
            f"{source} are of shape {tuple(vector.shape)} and {vector.dtype}: expected one real number per row, (n,)"
        )
    return vector if vector.is_floating_point() else vector.double()


def load_score(target: str) -> Score:
    """The function that `--score package.module:function` names. Its module is imported, which runs it.

    Raises:
        ValueError: it cannot be imported, or is no function.
    """
    module_name, _, name = target.partition(":")
    if not (module_name and name):
        raise ValueError(f"--score {target}: expected package.module:function, such as my_code.scoring:score")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a module of the user's does
        raise ValueError(
            f"--score {target}: {module_name} cannot be imported: {type(error).__name__}: {error}; modules are looked "
            "for in the current directory, in PYTHONPATH and among the installed packages"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        found = "has none of this name" if function is None else f"has a {type(function).__name__} of this name"
        raise ValueError(f"--score {target}: expected a function {name}; {module.__file__} {found}")
    return function
