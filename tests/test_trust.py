"""Configs read from files build what they may, and whatever they may not is refused before it is imported."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from recsys_collapse.config import config_dir, register, validate
from recsys_collapse.trust import check_trusted, foreign

PLANTED = """
from pathlib import Path
Path({marker!r}).write_text("imported")
import os
from os import system
from torch.nn import Linear
from trust_other import Other

class Mine:
    class Inner:
        pass

def make():
    return Mine()
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears once `trust_planted`, which lies in the current directory, is imported."""
    found = tmp_path / "marker"
    (tmp_path / "trust_planted.py").write_text(PLANTED.format(marker=str(found)))
    (tmp_path / "trust_planted_too.py").write_text(PLANTED.format(marker=str(found)))
    (tmp_path / "trust_other.py").write_text("class Other:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield found
    for name in ("trust_planted", "trust_planted_too", "trust_other"):
        sys.modules.pop(name, None)


def node(target: Any, **options: Any) -> dict[str, Any]:
    return {"_target_": target, **options}


def refusal(config: Any, *allow: str) -> str:
    with pytest.raises(ValueError) as error:
        check_trusted(config, allow, "runs/x/config.yaml")
    assert str(error.value).startswith("runs/x/config.yaml: ")
    return str(error.value)


def targets(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    own = [value["_target_"]] if isinstance(value, dict) and "_target_" in value else []
    return own + [target for item in inner for target in targets(item)]


# What files may name


@pytest.mark.parametrize(
    "path", sorted(config_dir().glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_config_of_the_package_passes(path: Path) -> None:
    found = OmegaConf.to_container(OmegaConf.load(path))
    for target in targets(found):
        check_trusted({"part": node(target)}, [], str(path))
        assert foreign({"part": node(target)}) == []


def test_the_walk_above_sees_targets() -> None:
    found = {
        target
        for path in config_dir().glob("*/*.yaml")
        for target in targets(OmegaConf.to_container(OmegaConf.load(path)))
    }
    assert len(found) > 20 and {"torch.optim.SparseAdam", "recsys_collapse.dataset.table.Table"} <= found


def test_a_whole_config_passes_as_a_node_and_as_plain_values() -> None:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", ["optimizer=rowwise_adagrad", "regularizer=unitary"])
    check_trusted(config, [], "plan.json")
    OmegaConf.resolve(config)
    check_trusted(config, [], "plan.json")
    check_trusted(OmegaConf.to_container(config, enum_to_str=True), [], "plan.json")


def test_what_is_checked_is_what_is_built() -> None:
    target = "torch.optim.adam.Adam"
    check_trusted(node(target, _partial_=True, _recursive_=False, _convert_="all", lr=0.5), [], "f")
    assert get_object(target) is instantiate(node(target, _partial_=True, lr=0.5)).func


@pytest.mark.parametrize(
    "config", [None, {}, [], {"a": [1, None, "x"], "b": {"_args_": 1, 3: True}}, DictConfig({})], ids=str
)
def test_a_config_without_targets_passes(config: Any) -> None:
    check_trusted(config, [], "f")
    assert foreign(config) == []


# What they may not name

OUTSIDE = [
    "os.system",
    "logging.os.system",
    "recsys_collapse.run.os.system",
    "recsys_collapse.launch.plan.Job",
    "recsys_collapse.modelx.Class",
    "recsys_collapse.DNN",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Linear",
    "torch.optimx.Adam",
    "hydra.utils.instantiate",
    "builtins.eval",
    "trust_planted.Mine",
    "trust_planted.os.system",
]


@pytest.mark.parametrize("target", OUTSIDE)
@pytest.mark.parametrize("deep", [False, True])
def test_others_are_refused_before_they_are_imported(marker: Path, target: str, deep: bool) -> None:
    home = target.rpartition(".")[0]
    loaded = set(sys.modules)
    config = {"callback": [{"x": node("torch.optim.Adam", part=[node(target)])}]} if deep else node(target)
    said = refusal(config)
    key = "callback[0].x.part[0]._target_" if deep else "_target_"
    assert f": {key}={target}: " in said and f"'allow=[{home}]' to the command line" in said
    assert {name.partition(".")[0] for name in set(sys.modules) - loaded} <= {"torch"}
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "recsys_collapse.model.dnn.nn.Linear",
        "recsys_collapse.model.dnn.MLPHead",
        "recsys_collapse.model.backbone.Stages",
        "recsys_collapse.dataset.spill.Spill",
        "recsys_collapse.dataset.build.os",
        "recsys_collapse.dataset.files.ByteStream",
        "recsys_collapse.dataset.source.Path",
        "recsys_collapse.dataset.split",
        "recsys_collapse.dataset.table.no_such_class",
        "recsys_collapse.callback.publish.write_parquet",
        "recsys_collapse.callback.records.lightning.Trainer",
        "recsys_collapse.optimizer.split.Callable",
        "torch.optim.lr_scheduler.StepLR",
        "torch.optim.adam.Tensor",
        "torch.optim.swa_utils.AveragedModel",
        "torch.optim.adam.torch.load",
    ],
)
def test_what_else_is_found_in_the_rooms_of_configs_is_refused(target: str) -> None:
    assert f"_target_={target}: " in refusal(node(target))


@pytest.mark.parametrize(
    "target",
    ["", ".", "os", "os.", ".os", "os..system", "os system.x", "a-b.c", "???", 3, None, {"a": 1}, ["os.system"]],
)
def test_what_is_no_dotted_name_is_refused(target: Any) -> None:
    assert "expected the dotted name of a class" in refusal(node(target), "os", "")


@pytest.mark.parametrize("key", ["_args_", "_mode_", "_x_"])
def test_special_keys_that_nobody_needs_are_refused(key: str) -> None:
    assert f": part.{key}=[1]: " in refusal({"part": node("torch.optim.Adam", **{key: [1]})})


@pytest.mark.parametrize(("key", "value"), [("_partial_", "true"), ("_recursive_", None), ("_convert_", ["all"])])
def test_special_keys_of_another_type_are_refused(key: str, value: Any) -> None:
    assert f": {key}={value}: " in refusal(node("torch.optim.Adam", **{key: value}))


@pytest.mark.parametrize(
    "part",
    [
        "${oc.create:{_target_:os.system}}",
        "${oc.create:{a:[{_target_:os.system}]}}",
        "\\${oc.create:{_target_:os.system}}",
        ["\\${oc.create:{_target_:os.system}}"],
        "\\\\\\${a}",
        "${here}",
        {"_target_": "${word}"},
        {"_target_": "\\${word}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("as_node", [False, True])
def test_targets_hidden_in_interpolations_are_refused(part: Any, as_node: bool) -> None:
    """A string is resolved when the file is read, and what is left once more when it is built."""
    config = {"part": part, "word": "os.system", "here": {"nothing": "\\${oc.create:{_target_:os.system}}"}}
    said = refusal(OmegaConf.create(config) if as_node else config)
    assert "os.system" in said or "${ is left" in said or "_target_=${word}: expected the dotted name" in said


@pytest.mark.parametrize("value", ["${nowhere}", "${", "${no_such_resolver:1}"])
def test_what_cannot_be_resolved_is_refused(value: str) -> None:
    assert "cannot be resolved" in refusal({"a": value})


def test_a_config_without_an_end_is_refused() -> None:
    config: dict[str, Any] = {}
    config["self"] = config
    assert "cannot be resolved" in refusal(config)


# What the command line lets in


@pytest.mark.parametrize(
    ("target", "allow"), [("trust_planted.Mine", "trust_planted"), ("trust_planted.Mine", "trust_planted.Mine")]
)
def test_a_prefix_lets_in(marker: Path, target: str, allow: str) -> None:
    check_trusted({"part": node(target)}, ["other", allow], "f")
    assert marker.exists()


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("trust_planted_too.Mine", "trust_planted"),
        ("trust_planted.Mine", "trust_planted.Min"),
        ("trust_planted.Mine", "trust_plante"),
        ("trust_planted.Mine", "planted"),
        ("trust_planted.Mine", ""),
        ("trust_planted.Mine", "*"),
        ("trust_planted.Mine", "torch"),
    ],
)
def test_a_prefix_is_of_whole_words(marker: Path, target: str, allow: str) -> None:
    assert f"'allow=[{target.rpartition('.')[0]}]'" in refusal(node(target), allow)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("trust_planted.system", "expected a class"),
        ("trust_planted.os.system", "expected a class"),
        ("trust_planted.os", "expected a class"),
        ("trust_planted.make", "expected a class"),
        ("trust_planted.Mine.Nothing", "cannot be imported"),
        ("trust_planted.Nothing", "cannot be imported"),
        ("trust_planted.Linear", "it is torch.nn.modules.linear.Linear; if you trust that too"),
        ("trust_planted.Other", "it is trust_other.Other; if you trust that too"),
    ],
)
def test_what_a_module_only_passes_on_is_refused(marker: Path, target: str, said: str) -> None:
    assert said in refusal(node(target), "trust_planted")


def test_a_class_may_stand_in_a_class(marker: Path) -> None:
    check_trusted(node("trust_planted.Mine.Inner"), ["trust_planted"], "f")
    refusal(node("trust_planted.Mine.Inner"), "trust_other")


def test_what_a_module_passes_on_is_let_in_by_both_names(marker: Path) -> None:
    check_trusted(node("trust_planted.Other"), ["trust_planted", "trust_other"], "f")
    check_trusted(node("trust_planted.make"), ["trust_planted.make"], "f")


@pytest.mark.parametrize("target", ["trust_planted.Mine", "trust_planted.Other", "trust_planted.make"])
def test_a_launcher_finds_what_to_allow(marker: Path, target: str) -> None:
    config = {"a": node("torch.optim.Adam", table=node(target)), "b": [node("recsys_collapse.model.dnn.DNN")]}
    refusal(config)
    names = foreign(config)
    check_trusted(config, names, "f")
    assert target in names and all(name.partition(".")[0] in ("trust_planted", "trust_other") for name in names)


def test_the_command_line_takes_what_the_message_says() -> None:
    register()
    word = refusal(node("their_package.part.Model")).partition("'")[2].partition("'")[0]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert compose("config").allow == []
        config = compose("config", [word])
        wrong = compose("config", ["allow=[my-package]"])
    assert config.allow == ["their_package.part"]
    validate(config)
    with pytest.raises(ValueError, match="allow=my-package: expected dotted names"):
        validate(wrong)
