"""A finished run's model for use elsewhere: weights or graph, vocabularies, and a card that says what it is.

`python -m recsys_collapse.predict run=... predict.export=safetensors|torch_export|onnx` leaves a folder with the model,
`vocabulary.parquet` (field, value, id), `card.json` and, for people, `README.md`. `torch_export` and `onnx` run without
this package; `load` reads `safetensors`, which the card also describes well enough to be built by hand.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recsys_collapse.export.card import architecture, make_card
from recsys_collapse.export.folder import check_place, whole
from recsys_collapse.export.formats import BUILT, FILES, Servable, load_weights, read, servable, write
from recsys_collapse.export.readme import readme
from recsys_collapse.load import LoadedRun
from recsys_collapse.runs.durable import write_json, write_parquet, write_text
from recsys_collapse.trust import check_trusted

log = logging.getLogger(__name__)
TOLERANCE = {"safetensors": 1e-6, "torch_export": 1e-6, "onnx": 1e-4}
"""Largest difference of a logit, relative to its size or to 1 if that is larger. ONNX Runtime sums in other orders."""


def export(run: LoadedRun, kind: str, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write the model of a run with its vocabularies and a card, and check that it gives the same logits.

    Args:
        run: what `load_run` found.
        kind: `safetensors`, `torch_export` or `onnx`.
        folder: the folder that appears, whole or not at all.
        overwrite: it may be there already, if it is an export.

    Returns:
        The files in it.

    Raises:
        ValueError: another kind, the folder is there, a library is missing, or what was written gives other logits.
        OSError: the disk is full, for example.
    """
    if kind not in FILES:
        raise ValueError(f"predict.export={kind}: expected one of {', '.join(FILES)}")
    check_place(folder, overwrite)
    model, built, example_BN = servable(run.backbone), architecture(run), example(run.store.cardinalities)
    with whole(folder, overwrite) as unfinished:
        written = write(kind, model, unfinished, example_BN)
        verified = verify(kind, model, read(kind, unfinished, built), example_BN)
        vocabulary = pl.read_parquet(run.store.path / "vocabulary.parquet", columns=["field", "value", "id"])
        write_parquet(unfinished / "vocabulary.parquet", vocabulary)
        card = make_card(run, kind, model, built, {**written, "verified": verified})
        with torch.inference_mode():
            card["example"] = {"ids": example_BN.tolist(), "logit": model(example_BN).tolist()}
        write_text(unfinished / "README.md", readme(card))
        card["files"] = {path.name: described(path) for path in sorted(unfinished.iterdir())}
        write_json(unfinished / "card.json", card)
    return sorted(folder.iterdir())


def load(folder: Path | str, allow: Sequence[str] = ()) -> Servable:
    """The model of a `safetensors` export: ids (B, N), int32 or int64 -> logit (B,) float32.

    Args:
        folder: the folder with `card.json`.
        allow: dotted names that the card may build from besides this package; it may come from somebody else.

    Raises:
        ValueError: it is no such export, its weights do not fit, or it names a class that is not allowed.
    """
    path = Path(folder) / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        built = {key: card["architecture"][key] for key in BUILT}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path}: expected the card of an export: {type(error).__name__}: {error}") from error
    if card.get("kind") != "safetensors":
        raise ValueError(
            f"{path}: an export of kind {card.get('kind')}, expected safetensors; README.md says how to load"
        )
    check_trusted(built, allow, str(path))
    return load_weights(Path(folder), built)


def example(cardinalities: Sequence[int]) -> Tensor:
    """Four rows of ids (4, N): the first of every field, a third and two thirds of the way, the last."""
    return torch.tensor([[row * (size - 1) // 3 for size in cardinalities] for row in range(4)])


def verify(kind: str, model: Servable, written: Servable | None, example_BN: Tensor) -> dict[str, object]:
    """Compare what was written and read back with the model: the example, one row of it, and ids that no field has.

    Returns:
        For the card: the largest difference; null and why if it could not be read.

    Raises:
        ValueError: a logit is not finite, or another than that of the model.
    """
    if written is None:
        why = "not compared with the model: onnxruntime is not installed: pip install 'recsys-collapse[export]'"
        log.warning(f"predict.export={kind}: {why}")
        return {"largest_difference": None, "why": why}
    outside_BN = torch.stack([torch.full_like(model.cardinality_N, -1), model.cardinality_N])
    largest = 0.0
    for ids_BN in (torch.cat([example_BN, outside_BN]), example_BN[:1]):
        with torch.inference_mode():
            ours_B, theirs_B = model(ids_BN), written(ids_BN)
        if not ours_B.isfinite().all():
            raise ValueError(f"the model gives logits that are not finite ({ours_B.tolist()}): nothing is exported")
        if theirs_B.shape != ours_B.shape or theirs_B.dtype != torch.float32:
            raise ValueError(
                f"predict.export={kind}: the written model gives {tuple(theirs_B.shape)} {theirs_B.dtype} for "
                f"{len(ids_BN)} rows, expected {tuple(ours_B.shape)} float32: nothing is exported; please report this"
            )
        difference = ((theirs_B - ours_B).abs() / ours_B.abs().clamp(min=1)).max().item()
        if not difference <= TOLERANCE[kind]:  # also if it is NaN
            raise ValueError(
                f"predict.export={kind}: the written model gives logits {theirs_B.tolist()}, expected "
                f"{ours_B.tolist()} within {TOLERANCE[kind]:g}: nothing is exported; please report this"
            )
        largest = max(largest, difference)
    return {"largest_difference": largest, "tolerance": TOLERANCE[kind]}


def described(path: Path) -> dict[str, object]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 22):
            digest.update(piece)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
