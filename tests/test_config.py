"""The typed schema: every field says whether it can change a number, and a run's identity follows exactly those."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from recsys_collapse import config as config_module
from recsys_collapse.config import Config, config_dir, plain, register, validate
from recsys_collapse.runs import identity as identity_module
from recsys_collapse.runs.identity import identity, run_id, run_name

YAML = sorted(config_dir().rglob("*.yaml"))
# Another value for fields whose type does not say what a value looks like; a new field of that kind needs one here.
SAMPLES: dict[str, Any] = {
    "model.backbone": {"dropout": 0.123},
    "dataset": {"rows": 123},
    "optimizer": {"lr": 0.123},
    "regularizer": {"weight": 0.123},
    "callback": {"mine": {"_target_": "their_package.Mine"}},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(config_dir()))


def leaves(schema: type, prefix: str = "", inherited: bool = False) -> Iterator[tuple[str, bool, Any]]:
    """Dotted key, whether it is marked as identity, and type of every field, in sections too."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        marked = inherited or field.metadata.get("identity", False)
        if is_dataclass(hints[field.name]):
            yield from leaves(hints[field.name], f"{prefix}{field.name}.", marked)
        else:
            yield f"{prefix}{field.name}", marked, hints[field.name]


LEAVES = {key: (marked, hint) for key, marked, hint in leaves(Config)}


def other(key: str, value: Any, hint: Any) -> Any:
    """A valid value of the field that is not `value`."""
    if key in SAMPLES:
        return SAMPLES[key]
    kind = next(choice for choice in get_args(hint) if choice is not NoneType) if NoneType in get_args(hint) else hint
    if kind is bool:
        return not value
    if kind in (int, float):
        return (value or 0) + 1
    if kind is str:
        return f"{value}x"
    if kind == list[str]:
        return ["other"]
    pytest.fail(f"{key}: {hint}: add a sample value to SAMPLES in {__file__}")


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """The default config, resolved: changing one key changes no other."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        found = compose("config")
    OmegaConf.resolve(found)
    return found


@pytest.fixture
def config(composed: DictConfig) -> DictConfig:
    return composed.copy()


def change(config: DictConfig, key: str, value: Any) -> DictConfig:
    changed = config.copy()
    OmegaConf.update(changed, key, value, merge=isinstance(value, dict), force_add=True)
    return changed


# Marks and identity


def test_every_field_is_marked() -> None:
    schemas = [found for found in vars(config_module).values() if is_dataclass(found)]
    assert {Config, config_module.ModelConfig, config_module.TrainerConfig} <= set(schemas)
    unmarked = [
        f"{schema.__name__}.{f.name}" for schema in schemas for f in fields(schema) if set(f.metadata) != {"identity"}
    ]
    assert unmarked == []


@pytest.mark.parametrize(
    "key", [key for key, (_, hint) in LEAVES.items() if not (isinstance(hint, type) and issubclass(hint, Enum))]
)
def test_identity_follows_marked_fields_and_no_others(config: DictConfig, key: str) -> None:
    marked, hint = LEAVES[key]
    changed = change(config, key, other(key, OmegaConf.select(config, key), hint))
    assert plain(changed) != plain(config)
    assert (run_id(changed, "data") != run_id(config, "data")) == marked


@pytest.mark.parametrize(
    "key", [key for key, (_, hint) in LEAVES.items() if isinstance(hint, type) and issubclass(hint, Enum)]
)
def test_identity_follows_marked_choices(config: DictConfig, key: str) -> None:
    """A choice with one option cannot be changed yet; whether it is named in the identity can be seen all the same."""
    marked, choices = LEAVES[key]
    assert (key in identity(config, "data")) == marked
    for choice in choices:
        changed = run_id(change(config, key, choice), "data") != run_id(config, "data")
        assert changed == (marked and choice != OmegaConf.select(config, key))


def test_what_decides_the_numbers_is_in_the_identity() -> None:
    marked = {key for key, (is_marked, _) in LEAVES.items() if is_marked}
    assert {"model.backbone", "embed.num_sets", "embed.embed_size", "optimizer", "init", "seed", "split_seed"} < marked
    assert {f"trainer.{name}" for name in ("batch_size", "max_epochs", "patience", "precision")} < marked
    assert {f"trainer.{name}" for name in ("gradient_clip", "lr_plateau", "evaluations_per_epoch")} < marked
    assert {"regularizer", "callback"} < marked


def test_identity_follows_data_and_numerics(config: DictConfig, monkeypatch) -> None:
    before = run_id(config, "data")
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert run_id(config, "other") != before
    monkeypatch.setattr(identity_module, "NUMERICS_VERSION", identity_module.NUMERICS_VERSION + 1)
    assert run_id(config, "data") != before


def test_identity_does_not_follow_spelling_and_order(config: DictConfig) -> None:
    one, same = change(config, "optimizer.lr", 1), change(config, "optimizer.lr", 1.0)
    assert run_id(one, "data") == run_id(same, "data") != run_id(config, "data")
    turned = config.copy()
    turned.optimizer = OmegaConf.create(dict(reversed(config.optimizer.items())))
    assert list(turned.optimizer) == list(config.optimizer)[::-1]
    assert run_id(turned, "data") == run_id(config, "data")


def test_names_are_no_part_of_the_identity(config: DictConfig) -> None:
    assert run_id(change(config, "optimizer.name", "other"), "data") == run_id(config, "data")


def test_callbacks_that_only_measure_are_no_part_of_the_identity(config: DictConfig) -> None:
    measuring = {"mine": {"_target_": "their_package.Mine", "measures_only": True}}
    assert run_id(change(config, "callback", measuring), "data") == run_id(config, "data")
    assert run_id(change(config, "callback.spectrum.measures_only", False), "data") != run_id(config, "data")
    assert identity(config, "data")["callback"] == {}


@pytest.mark.parametrize(("num_sets", "embed"), [(1, "se"), (4, "me")])
def test_run_name(config: DictConfig, num_sets: int, embed: str) -> None:
    config.model.name, config.embed.name, config.scale, config.seed = "dnn", "me", 4, 7
    config.embed.num_sets = num_sets
    assert run_name(config, "0123456789abcdef") == f"dnn-{embed}-4x-mini-s7-01234567"


# Ranges and names


def test_the_default_config_is_valid(config: DictConfig, tmp_path: Path) -> None:
    validate(change(config, "output_dir", str(tmp_path / "not" / "there" / "yet")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *((key, 0, "1 or more") for key in ("scale", "embed.num_sets", "embed.embed_size", "trainer.eval_batch_size")),
        *((key, 0, "1 or more") for key in ("trainer.max_epochs", "trainer.patience", "trainer.threads")),
        ("trainer.batch_size", 1, "2 or more"),
        ("split_seed", -1, "0 or more"),
        ("logger.mode", "on", "one of auto, online"),
        ("trainer.precision", "31", "one of 32-true"),
        ("trainer.accelerator", "abacus", "one of auto, cpu"),
        ("group", "a/b", "letters, digits"),
        ("group", "", "letters, digits"),
        ("group", ".hidden", "letters, digits"),
        ("model.name", "my model", "letters, digits"),
        ("embed.name", "../me", "letters, digits"),
        ("dataset.name", "a\nb", "letters, digits"),
    ],
)
def test_what_is_out_of_range_is_refused(config: DictConfig, key: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError) as refusal:
        validate(change(config, key, value))
    assert str(refusal.value).startswith(f"{key}={value}: ")
    assert expected in str(refusal.value)


@pytest.mark.parametrize("key", ["output_dir", "store_dir"])
@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_place_of_a_folder_is_refused(config: DictConfig, tmp_path: Path, key: str, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^{key}=.*file.* is not a folder one can write to"):
        validate(change(config, key, str(tmp_path / "file" / below)))


# Resolvers


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("${mul:3,10}", 30),
        ("${mul:${scale},4}", 8),
        ("${stem:/data/clicks.csv,null}", "clicks"),
        ("${stem:null,train.tsv.gz}", "train"),
        ("${stem:'my clicks (1).csv',null}", "my_clicks_1"),
        ("${stem:null,null}", "table"),
        ("${stem:'.csv',null}", "table"),
    ],
)
def test_resolvers(expression: str, expected: Any) -> None:
    register()
    assert OmegaConf.create({"scale": 2, "found": expression}).found == expected


def test_plain_has_json_values_only(config: DictConfig) -> None:
    found = plain(config)
    assert found["init"] == "xavier_table"
    assert type(found["model"]) is dict
    assert plain(OmegaConf.create({"a": [1], "c": "${a}"})) == {"a": [1], "c": [1]}


# conf/<group>/<name>.yaml configures recsys_collapse/<group>/<name>.py


@pytest.mark.parametrize("path", YAML, ids=name_of)
def test_every_yaml_says_what_it_is_for(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.fullmatch(r"# .{10,}", lines[0]), lines[0]


@pytest.mark.parametrize("path", [path for path in YAML if path.parent != config_dir()], ids=name_of)
def test_every_option_has_its_own_file_of_code(path: Path) -> None:
    group, name = path.parent.name, path.stem
    targets = re.findall(r"^\s*_target_: *(recsys_collapse\.\S+)", path.read_text(), re.MULTILINE)
    if group == "optimizer":  # made of torch's and of parts that several share
        assert [t for t in targets if t.split(".")[1] != group] == []
        return
    assert [t for t in targets if t.rpartition(".")[0] != f"recsys_collapse.{group}.{name}"] == []
    if targets:
        assert (Path(config_module.__file__).parent / group / f"{name}.py").is_file()


@pytest.mark.parametrize("section", [key for key, hint in get_type_hints(Config).items() if is_dataclass(hint)])
def test_default_options_set_every_field_of_their_section(config: DictConfig, section: str) -> None:
    assert OmegaConf.missing_keys(config[section]) == set()
