"""From a config node to an object: what fits is built, and what does not names its key before anything is built."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from recsys_collapse import run
from recsys_collapse.build import build, check


class Named:
    """Takes a name, as a data source does."""

    def __init__(self, *, name: str) -> None:
        self.name = name


class Plain:
    """Every kind of annotation that is checked. `size` is given by who builds it."""

    def __init__(
        self,
        size: int,
        *,
        rate: float = 0.5,
        count: int = 1,
        word: str = "w",
        switch: bool = False,
        maybe: int | None = None,
        either: float | torch.Tensor = 0.0,
        widths: Sequence[int] = (1,),
        words: list[str] | None = None,
        mode: Literal["a", "b"] = "a",
        part: Any = None,
    ) -> None:
        self.values = {key: value for key, value in locals().items() if key != "self"}


@dataclass(kw_only=True)
class Required:
    """One option has no default."""

    label: str
    path: str | None = None


def takes_anything(**options: Any) -> dict[str, Any]:
    return options


def fails(*, count: int) -> None:
    raise ValueError(f"dataset.count={count}: expected a smaller one")


def node(target: Any, **options: Any) -> Any:
    path = target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}"
    return OmegaConf.create({"_target_": path, **options})


FITS = [
    {"rate": 1},
    {"rate": 1e-3},
    {"count": 3},
    {"word": "3"},
    {"switch": True},
    {"maybe": 3},
    {"maybe": None},
    {"either": 2.5},
    {"widths": [400, 400]},
    {"widths": []},
    {"words": ["a"]},
    {"words": None},
    {"part": {"any": [1, "b"]}},
]


@pytest.mark.parametrize("options", FITS, ids=str)
def test_options_that_fit_are_passed_on(options: dict[str, Any]) -> None:
    built = build(node(Plain, **options), "model.backbone", size=7)
    assert isinstance(built, Plain)
    assert {key: built.values[key] for key in options} == options
    assert built.values["size"] == 7


def test_lists_arrive_as_plain_lists() -> None:
    built = build(node(Plain, widths=[4, 4], part={"deep": [1]}), "k", size=1)
    assert type(built.values["widths"]) is list
    assert type(built.values["part"]) is dict
    assert type(built.values["part"]["deep"]) is list


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rate": "fast"}, "expected float, found str"),
        ({"rate": True}, "expected float, found bool"),
        ({"count": 1.5}, "expected int, found float"),
        ({"count": True}, "expected int, found bool"),
        ({"word": 3}, "expected str, found int"),
        ({"word": None}, "expected str, found NoneType"),
        ({"switch": 1}, "expected bool, found int"),
        ({"maybe": "x"}, "expected int | None, found str"),
        ({"either": "abc"}, "found str"),
        ({"widths": 400}, "found int"),
        ({"widths": [400, "x"]}, "found list"),
        ({"words": [1]}, "found list"),
    ],
    ids=str,
)
def test_wrong_types_are_refused(options: dict[str, Any], expected: str) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ValueError) as refusal:
        check(node(Plain, **options), "model.backbone", "size")
    assert str(refusal.value).startswith(f"model.backbone.{key}={value}: expected ")
    assert expected in str(refusal.value)


def test_a_word_for_the_learning_rate_is_refused() -> None:
    """torch annotates it as float or Tensor, which no word is."""
    with pytest.raises(ValueError, match=r"optimizer\.lr=abc: expected"):
        check(node(torch.optim.Adam, _partial_=True, lr="abc"), "optimizer")


@pytest.mark.parametrize(
    ("option", "hint"), [("raet", "did you mean model.backbone.rate?"), ("zzz", "; model.backbone takes size, rate, ")]
)
def test_an_unknown_option_is_refused_with_the_nearest(option: str, hint: str) -> None:
    with pytest.raises(ValueError) as refusal:
        check(node(Plain, **{option: 3}), "model.backbone", "size")
    assert str(refusal.value).startswith(f"model.backbone.{option}=3: unknown option")
    assert hint in str(refusal.value)


def test_any_option_fits_a_target_that_takes_any() -> None:
    assert build(node(takes_anything, a=1, b="x"), "k", c=2) == {"a": 1, "b": "x", "c": 2}


def test_a_missing_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^dataset\.label is not set: expected str"):
        check(node(Required, path="x"), "dataset")
    assert build(node(Required), "dataset", label="y") == Required(label="y")


def test_name_and_labels_are_for_those_who_take_them() -> None:
    assert build(node(Named, name="n"), "k").name == "n"
    assert build(node(Plain, name="n", measures_only=True), "k", size=1).values["rate"] == 0.5
    assert build(node(takes_anything, name="n", measures_only=True, a=1), "k") == {"a": 1}


def test_partial_waits_for_its_arguments() -> None:
    built = build(node(torch.optim.Adam, _partial_=True, name="adam", lr=0.25), "optimizer")
    assert isinstance(built, partial)
    assert built([torch.nn.Parameter(torch.zeros(2))]).param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_package.Class", "No module named 'no_such_package'"),
        ("recsys_collapse.model.dnn.DMN", "DMN"),
        (f"{__name__}.Plain.more", "more"),
        ("3", "cannot be imported"),
    ],
)
def test_a_target_that_cannot_be_imported_is_refused(target: str, reason: str) -> None:
    with pytest.raises(ValueError) as refusal:
        check(node(target), "callback.mine")
    assert str(refusal.value).startswith(f"callback.mine._target_={target}: cannot be imported")
    assert reason in str(refusal.value)


def test_a_module_that_fails_while_it_is_imported_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_backbone.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match=r"k\._target_=broken_backbone\.Mine: cannot be imported: .*\n?.*division by zero"
    ):
        check(node("broken_backbone.Mine"), "k")


@pytest.mark.parametrize("options", [{"lr": 0.1}, {}])
def test_a_node_without_a_target_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^callback\.mine: no _target_; expected the class to build"):
        check(OmegaConf.create(options), "callback.mine")


@pytest.mark.parametrize("found", [None, 3, "word"])
def test_what_is_no_node_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match=r"callback\.mine"):
        check(found, "callback.mine")


@pytest.mark.parametrize("target", ["builtins.dict", "recsys_collapse.seeding"])
def test_a_target_without_a_signature_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=rf"k\._target_={target}"):
        check(node(target), "k")


def test_what_a_target_refuses_comes_through() -> None:
    """The message of the class, not Hydra's wrapping of it."""
    with pytest.raises(ValueError, match=r"^dataset\.count=3: expected a smaller one$"):
        build(node(fails, count=3), "dataset")


# A target within a target

SPLIT = [
    "_target_=recsys_collapse.optimizer.split.Split",
    "_partial_=true",
    "name=n",
    "sparse_gradients=true",
    "table._target_=torch.optim.SparseAdam",
    "table._partial_=true",
    "table.name=n",
    "dense._target_=torch.optim.Adam",
    "dense._partial_=true",
    "dense.lr=0.5",
]


def test_targets_within_a_target_are_built() -> None:
    """Without their labels."""
    make = build(OmegaConf.from_dotlist([*SPLIT, "table.lr=0.25"]), "optimizer")
    weights = [torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    made = make([{"params": weights[:1], "num_sets": 1}, {"params": weights[1:]}])
    assert [group["lr"] for group in made.param_groups] == [0.25, 0.5]
    assert [type(inner) for inner in (made.table, made.dense)] == [torch.optim.SparseAdam, torch.optim.Adam]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("table.lrr=1", "optimizer.table.lrr=1: unknown option; did you mean optimizer.table.lr?"),
        (
            "dense.weight_deca=1",
            "optimizer.dense.weight_deca=1: unknown option; did you mean optimizer.dense.weight_decay?",
        ),
        ("tabel.lr=1", "optimizer.tabel={'lr': 1}: unknown option; did you mean optimizer.table?"),
        ("table.lr=fast", "optimizer.table.lr=fast: expected "),
        ("table._target_=torch.optim.SparseAdm", "optimizer.table._target_=torch.optim.SparseAdm: cannot be imported"),
    ],
)
def test_a_wrong_option_within_is_refused_with_its_whole_key(word: str, said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        check(OmegaConf.from_dotlist([*SPLIT, word]), "optimizer")
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_wrong_option_within_stops_the_command_before_anything_runs(
    tmp_path: Path, monkeypatch, capsys, plus: str
) -> None:
    """As a key that there is not, and as one that is added all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", "-m", "optimizer=sparse_adam", "seed=0,1", f"{plus}optimizer.table.lrr=1"])
    monkeypatch.setattr(run, "run_plan", lambda *_: pytest.fail("something runs"))
    assert run.main() == 2
    said = capsys.readouterr().err
    assert "optimizer.table.lrr=1: " in said and "did you mean optimizer.table.lr?" in said
    assert list(tmp_path.iterdir()) == []
