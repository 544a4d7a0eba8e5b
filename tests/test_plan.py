"""All jobs of a command are known and checked before the first one starts; what is wrong is said in its own words."""

import re
from itertools import permutations
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from recsys_collapse.build import check
from recsys_collapse.config import config_dir, register
from recsys_collapse.launch.check import check_callbacks, check_targets
from recsys_collapse.launch.plan import Job, Plan, make_plan, sweep_name

GROUPS = sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name != "hydra")
README = "-m model=dcnv2,dnn scale=1,2,4,10 embed=se,me"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Commands run here, and a plan leaves nothing."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*words: str) -> Plan:
    found = make_plan([word for words_ in words for word in words_.split()])
    assert found is not None
    return found


def only(*words: str) -> Job:
    (job,) = plan(*words).jobs
    return job


def refused(*words: str) -> str:
    with pytest.raises(ValueError) as refusal:
        plan(*words)
    return str(refusal.value)


def write_clicks(path: Path) -> None:
    path.write_text("click,a,b\n1,x,z\n0,q,w\n")


# What a command stands for


def test_the_grid_of_the_readme(folder: Path) -> None:
    """16 cells; SE and ME at 1x are one run per model, recorded as SE."""
    found = plan(README)
    cells = [(job.config.model.name, job.config.scale, job.config.embed.num_sets) for job in found.jobs]
    expected = [(model, 1, 1) for model in ("dcnv2", "dnn")]
    expected += [(model, scale, sets) for model in ("dcnv2", "dnn") for scale in (2, 4, 10) for sets in (1, scale)]
    assert sorted(cells) == sorted(expected)
    assert len({job.run_id for job in found.jobs}) == len({job.name for job in found.jobs}) == 14
    for job in found.jobs:
        embed, scale = job.config.embed, job.config.scale
        assert embed.num_sets * embed.embed_size == 10 * scale
        word = "se" if embed.num_sets == 1 else "me"
        assert re.fullmatch(f"{job.config.model.name}-{word}-{scale}x-mini-s0-{job.run_id[:8]}", job.name)
        assert job.run_dir == Path("outputs/runs") / job.name
    assert list(folder.iterdir()) == []


def test_single_and_multi_embedding_at_scale_1_are_one_run(folder: Path) -> None:
    (job,) = plan("-m embed=me,se").jobs
    assert job.name.startswith("dcnv2-se-1x-")


def test_a_sweep_of_seeds_is_as_many_runs(folder: Path) -> None:
    jobs = plan("-m seed=0,5").jobs
    assert [job.name.split("-")[4] for job in jobs] == ["s0", "s5"]
    assert len({job.run_id for job in jobs}) == 2


def test_spelling_order_and_runtime_do_not_make_another_run(folder: Path) -> None:
    first = only("optimizer.lr=0.002 seed=1")
    again = only("seed=1 optimizer.lr=2e-3 logger=local trainer.accelerator=cpu output_dir=elsewhere save_scores=no")
    assert again.run_id == first.run_id
    assert again.name == first.name
    assert again.run_dir == Path("elsewhere/runs") / first.name
    assert only("seed=1").run_id != first.run_id


def test_the_data_makes_another_run_and_its_path_does_not(folder: Path) -> None:
    write_clicks(folder / "clicks.csv")
    write_clicks(folder / "copy.csv")
    word = "dataset=table dataset.label=click dataset.path="
    job, copy = plan(f"-m {word}clicks.csv,copy.csv").jobs
    assert ("-clicks-s0-" in job.name, "-copy-s0-" in copy.name) == (True, True)
    assert copy.run_id == job.run_id
    with (folder / "clicks.csv").open("a") as file:
        file.write("1,x,z\n")
    assert only(f"{word}clicks.csv").run_id != job.run_id


def test_group_names_the_sweep(folder: Path) -> None:
    found = plan("group=mine output_dir=there")
    assert (found.sweep, found.output_dir) == ("mine", Path("there"))


def test_a_sweep_has_one_name_in_any_order() -> None:
    words = ["model=dnn,dcnv2", "scale=1,2", "optimizer.lr=0.1"]
    names = {sweep_name(list(order)) for order in permutations(words)}
    assert len(names) == 1
    (name,) = names
    assert re.fullmatch(r"[A-Za-z0-9._-]*dnn-dcnv2[A-Za-z0-9._-]*_[0-9a-f]{8}", name)
    assert sweep_name([*words, "seed=1"]) != name
    assert re.fullmatch("[0-9a-f]{8}", sweep_name(["optimizer.lr=0.1"]))
    assert len(sweep_name([f"model={'x' * 300}"])) < 100


@pytest.mark.parametrize(
    "words", ["--help", "--hydra-help", "--cfg job", "model=dnn --info", "--shell-completion install=bash"]
)
def test_hydra_answers_itself(words: str) -> None:
    assert make_plan(words.split()) is None


def test_own_config_folder(folder: Path) -> None:
    own = folder / "their_conf" / "model" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text((config_dir() / "model" / "dnn.yaml").read_text().replace("name: dnn", "name: own"))
    assert only("--config-dir their_conf model=own scale=2").name.startswith("own-se-2x-")
    assert "model=own: no such option" in refused("model=own")


# What is wrong with a command

WRONG = {
    "scal=2": ["scal=2: no such key; did you mean scale?"],
    "zzz=1": ["zzz=1: no such key; known here: model, embed, dataset"],
    "trainer.batchsize=3": ["trainer.batchsize=3: no such key; did you mean trainer.batch_size?"],
    "dataset.train_rowz=3": ["dataset.train_rowz=3: no such key; did you mean dataset.train_rows?"],
    "model=dcn2": ["model=dcn2: no such option; did you mean model=dcnv2?"],
    "-m model=dnn,dcn2": ["model=dcn2: no such option; did you mean model=dcnv2?"],
    "callback=[spectrm]": ["callback=spectrm: no such option; did you mean callback=spectrum?"],
    "experiment=dmo": ["experiment=dmo: no such option; did you mean experiment=demo?"],
    "protocol=zzz": ["protocol=zzz: no such option; protocol has bars, paper"],
    "model=null": ["model=null", f"model has {', '.join(options('model'))}"],
    "trainer.gradient_clip=0": ["trainer.gradient_clip=0.0: expected a number above 0, or null"],
    "trainer.lr_plateau=1": ["trainer.lr_plateau=1.0: expected a number above 0 and below 1, or null"],
    "trainer.evaluations_per_epoch=0": ["trainer.evaluations_per_epoch=0: expected an integer of 1 or more"],
    "regularizer=logdet regularizer.weight=-1": ["regularizer.weight=-1: expected a number of 0 or more"],
    "+trainer.gradient_clp=1": ["trainer.gradient_clp: no such key; trainer has"],
    "optimizer.bytes_per_weight=abc": ["optimizer.bytes_per_weight=abc: expected an integer of 1 or more"],
    "optimizer.sparse_gradients=yes": ["optimizer.sparse_gradients=yes: expected true or false"],
    "trainer.precision=16-mixed init=normal": ["init=normal", "float16", "bf16-mixed"],
    "optimizer._target_=torch.optim.Adam +optimizer.fused=true trainer.precision=16-mixed trainer.gradient_clip=1": [
        "trainer.gradient_clip=1.0",
        "optimizer.fused=false",
    ],
    "-m optimizer=sparse_adam,adagrad optimizer.table.lr=0.1 trainer.batchsize=3": [
        "trainer.batchsize=3: no such key; did you mean trainer.batch_size?"
    ],
    "scale=abc": ["scale=abc: ", "Integer"],
    "scale=1.5": ["scale=1.5: ", "Integer"],
    "scale=null": ["scale=null: "],
    "-m scale=1,x": ["scale=x: ", "Integer"],
    "-m scale=1,2,0": ["scale=0: expected an integer of 1 or more"],
    "init=zzz": ["init=zzz: ", "xavier_table"],
    "save_scores=maybe": ["save_scores=maybe: ", "bool"],
    "dataset.train_rows=x": ["dataset.train_rows=x: expected int, found str"],
    "dataset.min_count=0": ["dataset.min_count=0: expected an integer of 1 or more"],
    "dataset=table": ["dataset.label is not set"],
    "dataset=table dataset.label=y": ["expected either dataset.path=FILE or all three"],
    "dataset=table dataset.label=y dataset.path=gone.csv": ["dataset.path=gone.csv: no such file"],
    "scale=1,2": ["scale=1,2", "--multirun"],
    "-m output_dir=a,b": ["output_dir=a,b: "],
    "-m model=glob(zz*)": ["model=glob(zz*)"],
    "experiment=null": ["experiment=null: no such option; experiment has demo"],
    "callback.spectrum=null": ["callback.spectrum"],
    "optimizer.lr=nan": ["optimizer.lr"],
    "~seed": ["seed is not set"],
    "~callback": ["callback"],
    "-m scale=interval(1,3)": ["scale=interval(1,3)"],
    "-m scale=glob(*)": ["scale=glob(*)"],
    "foo": ["foo", "missing EQUAL"],
    "seed=1 scale=[1": ["scale=[1"],
    "--config-dir gone": ["--config-dir gone: no such folder"],
    "-m hydra/sweeper=zzz": ["hydra/sweeper=zzz: no such option; hydra/sweeper has basic"],
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_said(folder: Path, words: str) -> None:
    said = refused(words)
    assert [expected for expected in WRONG[words] if expected not in said] == [], said
    assert list(folder.iterdir()) == []


# Everything in conf/ composes


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        found = compose("config", list(overrides))
    if OmegaConf.is_missing(found.dataset, "label"):
        found.dataset.label = "y"
    return found


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    """Its targets exist and take the options of its file."""
    needed = ["embed=me", "scale=2"] if group == "regularizer" else []  # some compare sets
    config = composed(f"{group}=[{option}]" if group == "callback" else f"{group}={option}", *needed)
    OmegaConf.resolve(config)
    check_targets([Job(config, "", Path())])
    check_callbacks([Job(config, "", Path())])
    check(config.dataset, "dataset")
    if group not in ("callback", "dataset", "experiment"):
        assert (config[group] if group == "protocol" else config[group].name) == option


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes(folder: Path, name: str) -> None:
    """Its first model and seed only: planning takes 0.2 s a run, and a table of the paper has 162."""
    params = OmegaConf.load(config_dir() / "experiment" / f"{name}.yaml").hydra.sweeper.params
    first = [f"{key}={str(params[key]).split(',')[0]}" for key in ("model", "seed") if key in params]
    found = plan(" ".join([f"-m experiment={name}", *first]))
    assert {job.config.model.name for job in found.jobs} == {str(params.get("model", "dcnv2")).split(",")[0]}
    assert name in found.sweep


def test_the_command_line_beats_the_experiment(folder: Path) -> None:
    demo = OmegaConf.load(config_dir() / "experiment" / "demo.yaml")
    assert only("experiment=demo").config.trainer.max_epochs == demo.trainer.max_epochs != 77
    config = only("experiment=demo trainer.max_epochs=77 model=dnn").config
    assert (config.model.name, config.trainer.max_epochs) == ("dnn", 77)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("callback.spectrum.variants=[all,seeen]", "callback.spectrum: variant 'seeen': unknown word 'seeen'"),
        ("callback.spectrum.every_n_steps=0", "callback.spectrum: every_n_steps=0: expected 1 or more"),
        ("callback.spectrum.variants=[]", "callback.spectrum: variants=[]: expected at least one"),
        ("callback.spectrum.metrics=[rank]", "callback.spectrum: metrics: rank unknown"),
        ("callback.spectrum.variant=[all]", "did you mean callback.spectrum.variants"),
    ],
)
def test_options_of_callbacks_are_tried_before_anything_runs(words: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        check_callbacks([Job(composed(f"++{words}"), "", Path())])
    assert said in str(error.value)
