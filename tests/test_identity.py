"""What can change a number changes the id, and nothing else does: values, spellings, and every key of conf/."""

import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from recsys_collapse.build import check
from recsys_collapse.config import config_dir, plain, register, validate
from recsys_collapse.dataset.source import Source
from recsys_collapse.dataset.synthetic import Synthetic
from recsys_collapse.dataset.table import Table
from recsys_collapse.launch.plan import make_plan
from recsys_collapse.runs.canonical import canonical, digest
from recsys_collapse.runs.identity import identity, run_id
from tests.sources import whole

GROUPS = ("model", "embed", "optimizer", "regularizer", "callback", "trainer", "logger", "launch")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((config_dir() / group).glob("*.yaml"))]
# Written down a second time on purpose: a key that comes to be marked otherwise is to be read here as well.
NAMES = {"model.name", "embed.name", "trainer.name", "logger.name", "optimizer.name", "regularizer.name"}
RUNTIME = NAMES | {
    "model.base_size", "optimizer.bytes_per_weight", "trainer.accelerator", "trainer.threads", "trainer.progress_bar",
    "launch.name", "launch.at_once", "launch.cores_per_job", "launch.hang_minutes", "launch.retries",
    "logger.mode", "logger.project", "logger.entity", "logger.tags",
}  # fmt: skip
# What is given from Python only, and what `build` is given beside the options.
GIVEN = {"params", "backbone", "cardinalities", "num_sets", "embed_size"}
PYTHON_ONLY = {"Spectrum": {"counts", "fields"}}


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        found = compose("config", list(overrides))
    if OmegaConf.is_missing(found.dataset, "label"):
        found.dataset.label = "y"
    OmegaConf.resolve(found)
    return found


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return composed()


def changed(config: DictConfig, key: str, value: Any) -> DictConfig:
    found = config.copy()
    OmegaConf.update(found, key, value, merge=False, force_add=True)
    return found


def leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a list is one value."""
    if isinstance(node, dict) and node:
        for name, part in node.items():
            yield from leaves(part, f"{key}.{name}")
    else:
        yield key, node


def other(value: Any) -> Any:
    """A value that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, 7]
    return {int: 7, float: 0.7, str: "x", type(None): 7, dict: {"x": 7}}[type(value)] if value != 7 else 8


# Values: equal ones have one digest, others have another

NUMBERS = st.integers(-3, 3) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(["", "1", "true", "null", "1.0", "!int 1", "é", "e\u0301", "\ud800"]) | st.text(max_size=3)
KEYS = WORDS | st.integers(-2, 2)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def alike(one: Any, two: Any) -> bool:
    """Whether no class could make another number of them: 1.0 is as good as 1; True and "1" are not."""
    if isinstance(one, dict) and isinstance(two, dict):
        return {*one} == {*two} and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (one, two)]
    return one == two if all(numbers) else type(one) is type(two) and one == two


def turned(value: Any) -> Any:
    """The same in another spelling: keys in the other order, whole numbers as floats, floats as whole numbers."""
    if isinstance(value, dict):
        return {key: turned(part) for key, part in reversed(value.items())}
    if isinstance(value, list):
        return tuple(turned(part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


@given(VALUES)
def test_spelling_and_order_do_not_change_a_digest(value: Any) -> None:
    assert digest({"x": turned(value)}) == digest({"x": value})


@given(VALUES, VALUES)
def test_what_differs_has_another_digest(one: Any, two: Any) -> None:
    assert (digest({"x": one}) == digest({"x": two})) == alike(one, two)


@given(VALUES, st.data())
def test_any_leaf_that_is_replaced_changes_the_digest(value: Any, data: st.DataObject) -> None:
    """Values that are nearly the same, which two drawn at random seldom are."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict) and value:
            key = data.draw(st.sampled_from(list(value)))
            return value | {key: replaced(value[key])}
        if isinstance(value, list) and value:
            place = data.draw(st.integers(0, len(value) - 1))
            return [replaced(part) if i == place else part for i, part in enumerate(value)]
        return data.draw(VALUES)

    new = replaced(value)
    assert (digest({"x": new}) == digest({"x": value})) == alike(new, value)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (0.1, math.nextafter(0.1, 1)),
        (0.1, 0.1 + 2**-56),
        (1.0, math.nextafter(1.0, 0)),
        (5e-324, 0),
        (1, True),
        (0, False),
        (0, None),
        ("1", 1),
        ("1.0", 1.0),
        ("true", True),
        ("null", None),
        ("", None),
        ([], None),
        ([], {}),
        ([1, 2], [2, 1]),
        ([1], 1),
        ([[1], 2], [1, [2]]),
        ({"a": None}, {}),
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({1: 2}, {"1": 2}),
        ({1: 2}, {"!int 1": 2}),
        (2**63, 2**63 + 1),
        (2**53, 2**53 + 1),
        ("é", "e\u0301"),
    ],
    ids=str,
)
def test_near_values_are_told_apart(one: Any, two: Any) -> None:
    assert digest({"x": one}) != digest({"x": two})


@pytest.mark.parametrize(
    ("one", "two"),
    [(1, 1.0), (-0.0, 0), (1e-3, 0.001), (2.0**63, 2**63), (1e22, 10**22), ((1, 2), [1, 2]), ({1.0: 2}, {1: 2})],
    ids=str,
)
def test_spellings_of_one_value_are_one(one: Any, two: Any) -> None:
    assert digest({"x": one}) == digest({"x": two})


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"lr": math.nan}, "optimizer.lr=nan: expected a finite number"),
        ({"betas": [0.9, -math.inf]}, r"optimizer.betas\[1\]=-inf: expected a finite number"),
        ({"table": {"lr": math.inf}}, "optimizer.table.lr=inf: expected a finite number"),
        ({"lr": b"1"}, "optimizer.lr=b'1': expected a number, a word, true, false or null, found bytes"),
    ],
    ids=str,
)
def test_what_has_no_place_in_json_is_refused_with_its_key(config: DictConfig, value: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}$"):
        run_id(changed(config, "optimizer", value), "data")


def test_the_identity_is_kept_as_it_is_hashed(config: DictConfig) -> None:
    """Through JSON and back: what `result.json` holds is what the id was made of."""
    found = identity(config, "data")
    assert json.loads(json.dumps(found)) == canonical(found) == found
    assert digest(found) == run_id(config, "data")


# Spellings on the command line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(*words: str) -> list[str]:
    found = make_plan(["-m", *words])
    assert found is not None
    return [job.run_id for job in found.jobs]


@pytest.mark.parametrize(
    "spellings",
    [
        ["optimizer.lr=1", "optimizer.lr=1.0", "optimizer.lr=1e0", "optimizer.lr=10e-1"],
        ["optimizer.lr=0.001", "optimizer.lr=1e-3", "optimizer.lr=.001", "optimizer.lr=1.0E-3"],
        ["optimizer.weight_decay=0", "optimizer.weight_decay=-0.0", "optimizer.weight_decay=0e5"],
        ["trainer.gradient_clip=1", "trainer.gradient_clip='1'", "trainer.gradient_clip=1.0"],
        ["trainer.gradient_clip=null", "trainer.gradient_clip=NULL"],
        ["optimizer.sparse_gradients=false", "optimizer.sparse_gradients=FALSE"],
        ["init=normal", "init=Init.normal", "init='normal'"],
        ["seed=3", "seed='3'"],
        ["model.backbone.hidden_sizes=[400,400]", "model.backbone.hidden_sizes=[400.0,4e2]"],
        ["dataset.zipf=1", "dataset.zipf=1.0", "dataset.zipf=1e0"],
        ["++optimizer.sparse_gradients=true", "optimizer=adam"],
        ["+callback.mine={_target_:a.B,rate:1}", "+callback.yours={rate:1.0,_target_:a.B}"],
        ["+callback.mine={_target_:a.B}", "+callback.mine={_target_:a.B,measures_only:false}"],
        ["scale=2", "embed.embed_size=20 scale=2", "scale=2 model.backbone.dropout=0.2 seed=0"],
    ],
    ids=lambda words: words[0],
)
def test_spellings_on_the_command_line_are_one_run(folder: Path, spellings: list[str]) -> None:
    assert len({id_ for words in spellings for id_ in ids(*words.split())}) == 1


def test_a_run_that_is_asked_for_twice_runs_once(folder: Path) -> None:
    words = ["optimizer.lr=0.001,1e-3,0.002", "trainer.threads=1,2", "embed=se,me", "seed=0,1,'0'"]
    assert len(ids(*words)) == len({*ids(*words)}) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dataset.zipf=nan", "dataset.zipf=nan: expected 0 or more"),
        ("dataset.zipf_shift=inf", "dataset.zipf_shift=inf: expected a finite number"),
        ("+optimizer.betas=[nan,0.9]", "optimizer.betas[0]=nan: expected a finite number"),
        ("optimizer.lr=1e999", "optimizer.lr=inf: expected a finite number"),
        ("callback.spectrum=word", "callback.spectrum=word: expected a section"),
        *((f"callback.spectrum.measures_only={no}", "measures_only=") for no in ("no", "'false'", "null", "0")),
        ("+regularizer.weight=3", "regularizer.weight=3: this regularizer has no _target_"),
    ],
)
def test_what_would_blur_the_identity_is_refused(folder: Path, words: str, said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        ids(words)
    assert said in str(refusal.value)


# Every key of every option in conf/


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_key_of_every_option_changes_the_id_if_it_can_change_a_number(group: str, option: str) -> None:
    config = composed(f"{group}=[{option}]" if group == "callback" else f"{group}={option}")
    tried = [*leaves(plain(config[group]), group)]
    assert tried
    wrong = []
    for key, value in tried:
        new = changed(config, key, other(value))
        assert plain(new) != plain(config), key
        expected = (key not in RUNTIME and group != "callback") or key.endswith(".measures_only")
        if (run_id(new, "data") != run_id(config, "data")) != expected:
            wrong.append(key)
    assert wrong == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_dir() / "callback").glob("*.yaml")))
def test_every_key_of_a_callback_that_does_not_only_measure_changes_the_id(name: str) -> None:
    config = changed(composed(f"callback=[{name}]"), f"callback.{name}.measures_only", False)
    before = run_id(config, "data")
    tried = [(key, value) for key, value in leaves(plain(config.callback), "callback") if "measures_only" not in key]
    assert tried
    assert [key for key, value in tried if run_id(changed(config, key, other(value)), "data") == before] == []


def test_callbacks_that_act_do_so_in_their_order_whatever_they_are_called(config: DictConfig) -> None:
    noise, decay = {"_target_": "theirs.Noise", "rate": 0.1}, {"_target_": "theirs.Decay"}
    look = {"_target_": "theirs.Look", "measures_only": True}
    one, renamed, swapped, watched = (
        run_id(changed(config, "callback", callbacks), "data")
        for callbacks in ({"a": noise, "b": decay}, {"y": noise, "x": decay}, {"a": decay, "b": noise},
                          {"look": look, "a": noise, "more": look, "b": decay})
    )  # fmt: skip
    assert one == renamed == watched != swapped


LABELS = {"measures_only": True, "bytes_per_weight": 3, "name": "x"}


@pytest.mark.parametrize("key", ["optimizer.table", "optimizer.dense", "regularizer", "model.backbone"])
@pytest.mark.parametrize("label", LABELS)
def test_labels_change_nothing_wherever_build_drops_them(key: str, label: str) -> None:
    config = composed("optimizer=rowwise_adagrad", "regularizer=logdet")
    new = changed(config, f"{key}.{label}", LABELS[label])
    dropped = [label not in check(OmegaConf.select(found, key), key, *GIVEN) for found in (config, new)]
    assert dropped == [True, True]
    assert run_id(new, "data") == run_id(config, "data")


def test_how_tables_are_trained_is_no_mere_label(config: DictConfig) -> None:
    assert run_id(changed(config, "optimizer.sparse_gradients", False), "data") != run_id(config, "data")
    assert run_id(changed(config, "optimizer.sparse_gradients", True), "data") == run_id(config, "data")


def test_a_name_that_a_class_of_the_user_may_take_is_an_option(config: DictConfig) -> None:
    named = [changed(config, "optimizer", {"_target_": "theirs.Adam", "name": name}) for name in ("a", "b")]
    within = [changed(config, "model.backbone", {"_target_": "theirs.Net", "parts": {"name": n}}) for n in ("a", "b")]
    for one, two in (named, within):
        assert run_id(one, "data") != run_id(two, "data")


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every node with a `_target_` of ours."""
    if isinstance(node, dict):
        if str(node.get("_target_")).startswith("recsys_collapse."):
            yield node
        for part in node.values():
            yield from targets(part)


def written() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted(config_dir().rglob("*.yaml")):
        nodes = OmegaConf.to_container(OmegaConf.load(path))
        found += [
            (f"{path.parent.name}/{path.stem} {node['_target_'].split('.')[-1]}", node) for node in targets(nodes)
        ]
    return found


@pytest.mark.parametrize(("where", "node"), written(), ids=[where for where, _ in written()])
def test_every_option_is_written_out(where: str, node: dict[str, Any]) -> None:
    """Else `+key=<its default>` would be another run of the same numbers, and a default could change unseen."""
    target = get_object(node["_target_"])
    parameters = inspect.signature(target).parameters
    assert {*parameters} - {*node} - GIVEN - PYTHON_ONLY.get(target.__name__, set()) == set()
    takes_name = isinstance(target, type) and issubclass(target, Source)
    assert ("name" in parameters) == takes_name, "identity.py takes the name of every other class for a label"


def test_there_are_options_to_write_out() -> None:
    assert len(written()) > 20
    assert {where.split("/")[0] for where, _ in written()} == {
        "callback",
        "dataset",
        "model",
        "optimizer",
        "regularizer",
    }


# Data: what decides the rows is in the fingerprint

ROWS = {
    "train_rows": 60, "valid_rows": 20, "test_rows": 20, "num_fields": 4, "min_cardinality": 3, "max_cardinality": 9,
    "cardinality_order": "sorted", "cardinalities": None, "zipf": 1.5, "zipf_shift": 0.0, "dependence": 0.0,
    "spurious_fields": 0, "num_patterns": 2, "fields_per_pattern": 3, "rank": 1, "centroids": 4, "own_share": 0.2,
    "linear_share": 0.4, "third_order_share": 0.0, "base_rate": 0.25, "bayes_auc": 0.8, "data_seed": 0,
}  # fmt: skip
OTHER_ROWS = {
    "train_rows": 61, "valid_rows": 21, "test_rows": 21, "num_fields": 5, "min_cardinality": 4, "max_cardinality": 10,
    "cardinality_order": "shuffled", "cardinalities": [5, 4, 3, 2], "zipf": 1.0, "zipf_shift": 2.0, "dependence": 0.5,
    "spurious_fields": 1, "num_patterns": 3, "fields_per_pattern": 2, "rank": 2, "centroids": 5, "own_share": 0.9,
    "linear_share": 0.1, "third_order_share": 0.5, "base_rate": 0.5, "bayes_auc": 0.7, "data_seed": 1,
}  # fmt: skip
ENCODING = {"min_count": 2, "vocabulary": "all", "hashed_cardinality": 5}


def same_rows(one: Source, two: Source) -> bool:
    first, second = whole(one), whole(two)
    return first.features.equals(second.features) and first.labels.tolist() == second.labels.tolist()


@pytest.mark.parametrize("option", [*ROWS, *ENCODING, "name", "device_resident"])
def test_the_fingerprint_of_synthetic_rows_follows_the_rows(option: str) -> None:
    values = {**OTHER_ROWS, **ENCODING, "name": "other", "device_resident": False}
    one, two = Synthetic(name="s", **ROWS), Synthetic(**{"name": "s", **ROWS, option: values[option]})
    assert same_rows(one, two) == (option not in ROWS)
    assert (one.fingerprint(0) == two.fingerprint(0)) == (option in ("name", "device_resident"))


def test_every_option_of_synthetic_is_tried_above() -> None:
    assert {*ROWS} == {*OTHER_ROWS}
    assert {*ROWS, *ENCODING, "name", "device_resident"} == {*inspect.signature(Synthetic).parameters}


CLICKS = "y,a,b,t\n" + "".join(f"{i % 3 // 2},{i % 5},{i % 4},14102{i % 3}0{i % 7}\n" for i in range(30))


def clicks(path: Path, **options: Any) -> Table:
    path.parent.mkdir(exist_ok=True)
    path.write_text(CLICKS)
    return Table(**{"name": "t", "label": "y", "path": str(path), **options})


@pytest.mark.parametrize(
    "options",
    [
        {"name": "other"},
        {"max_bad_lines": 3},
        {"block_mib": 1},
        {"device_resident": True},
        {"published_as": {"rows": "30"}},
        {"md5": {"path": None}},
    ],
    ids=str,
)
def test_options_that_change_no_row_are_not_in_the_fingerprint(tmp_path: Path, options: dict[str, Any]) -> None:
    one, two = clicks(tmp_path / "t.csv"), clicks(tmp_path / "elsewhere" / "copy.csv", **options)
    assert same_rows(one, two)
    assert one.fingerprint(0) == two.fingerprint(0)


DERIVED = {"buckets": {"day": "weekday", "end": "weekend", "a": "log_squared"}, "derive": {"day": "t", "end": "t"}}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (DERIVED, {key: dict(reversed(value.items())) for key, value in DERIVED.items()}),
        ({"ignore": ["a", "b"]}, {"ignore": ["b", "a", "a"]}),
        ({"label_map": {"0": 0, "1": 1}}, {"label_map": {1: True, 0: False}}),
        ({"delimiter": ","}, {"delimiter": "comma", "quoting": True}),
        ({"encoding": "utf-8"}, {"encoding": "UTF8"}),
    ],
    ids=["key order", "ignore", "label_map", "delimiter", "encoding"],
)
def test_spellings_of_one_recipe_are_one(tmp_path: Path, one: dict[str, Any], two: dict[str, Any]) -> None:
    first, second = clicks(tmp_path / "t.csv", **one), clicks(tmp_path / "t.csv", **two)
    assert same_rows(first, second)
    assert whole(first).features.columns == whole(second).features.columns
    assert first.fingerprint(0) == second.fingerprint(0)


def test_which_file_has_which_delimiter_is_in_the_fingerprint(tmp_path: Path) -> None:
    for name, text in {"a.csv": "0,1\t2\n", "b.tsv": "1\t3,4\n", "a.tsv": "0,1\t2\n", "b.csv": "1\t3,4\n"}.items():
        (tmp_path / name).write_text(text)
    words = {"name": "t", "label": "y", "columns": ["y", "a"], "label_map": {"0": 0, "1": 1, "0,1": 0, "1\t3": 1}}
    one, two = (
        Table(path=[str(tmp_path / n) for n in names], **words) for names in (["a.csv", "b.tsv"], ["a.tsv", "b.csv"])
    )
    assert not same_rows(one, two)
    assert one.fingerprint(0) != two.fingerprint(0)


def test_features_have_an_order(tmp_path: Path) -> None:
    """Initialisation goes field by field, so their order changes numbers."""
    prints = {clicks(tmp_path / "t.csv", features=names).fingerprint(0) for names in (["a", "b"], ["b", "a"])}
    assert len(prints) == 2


def test_numbers_of_a_recipe_must_be_finite() -> None:
    with pytest.raises(ValueError, match=r"^dataset\.zipf_shift=inf: expected a finite number$"):
        Synthetic(name="s", **ROWS | {"zipf_shift": math.inf}).fingerprint(0)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**63, 10**30])
def test_seeds_of_any_size_are_runs_of_their_own(config: DictConfig, seed: int) -> None:
    new = changed(config, "seed", seed)
    validate(new)
    assert identity(new, "data")["seed"] == seed
    near = {run_id(changed(config, "seed", other), "data") for other in (seed, seed + 1, seed - 1)}
    assert len(near) == 3 and run_id(new, "data") in near
