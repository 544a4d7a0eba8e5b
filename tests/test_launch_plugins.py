"""Every launcher of conf/launch: that it composes, what it says when its plugin is missing, and a sweep through it."""

import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from recsys_collapse.config import config_dir
from recsys_collapse.launch import plugin
from recsys_collapse.launch.frozen import frozen
from recsys_collapse.launch.plan import make_plan
from recsys_collapse.launch.signals import Interrupted
from recsys_collapse.launch.status import Status
from tests.cli import run
from tests.sweeping import begin, finished, processes, read, runs, starts, status, wait_until, words, write_theirs

LAUNCHERS = {
    "in_process": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "subprocess": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "joblib": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "slurm": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
}
PLUGIN = {"joblib": "joblib", "submitit_local": "submitit", "slurm": "submitit"}


def test_every_launcher_is_known_here() -> None:
    assert set(LAUNCHERS) == {path.stem for path in (config_dir() / "launch").glob("*.yaml")}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name in PLUGIN:
        pytest.importorskip(f"hydra_plugins.hydra_{PLUGIN[name]}_launcher")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(["-m", f"launch={name}", "scale=1,2", "launch.retries=3"])
    assert plan is not None and len(plan.jobs) == 2
    assert plan.hydra.launcher._target_ == LAUNCHERS[name]
    assert (plan.config.launch.name, plan.config.launch.retries) == (name, 3)
    plain = make_plan(["-m", "scale=1,2"])
    assert plain is not None and [job.run_id for job in plan.jobs] == [job.run_id for job in plain.jobs]


def test_slurm_jobs_ask_for_a_gpu_and_may_be_preempted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(["-m", "launch=slurm", "hydra.launcher.partition=gpu", "scale=1,2"])
    assert plan is not None
    launcher = plan.hydra.launcher
    assert (launcher.partition, launcher.gpus_per_node, launcher.max_num_timeout) == ("gpu", 1, 10)


@pytest.mark.parametrize(
    ("asked", "extra"),
    [
        ("launch=joblib", "joblib"),
        ("launch=submitit_local", "slurm"),
        ("launch=slurm", "slurm"),
        ("hydra/launcher=joblib", "joblib"),
    ],
)
def test_a_missing_plugin_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, extra: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Plugins.instance()  # they register themselves once
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for name in ("joblib.yaml", "submitit_local.yaml", "submitit_slurm.yaml"):
        monkeypatch.delitem(launchers, name, raising=False)
    with pytest.raises(ValueError) as error:
        make_plan(["-m", asked, "scale=1,2"])
    assert f"plugin is not installed: pip install 'recsys_collapse[{extra}]'" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="launch=joblob: no such option; did you mean launch=joblib"):
        make_plan(["launch=joblob"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_a_job_that_is_killed_takes_no_other_with_it(tmp_path: Path, name: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{PLUGIN[name]}_launcher")
    write_theirs(tmp_path, kill={"misbehave": "kill"}, fine={})
    done = run(*words("kill", "fine"), f"launch={name}", cwd=tmp_path, timeout=400)
    assert done.returncode == 1, done.stderr
    assert finished(tmp_path) == {"fine"} and "│ fine " in done.stdout
    killed = runs(tmp_path)["kill"]
    assert (read(killed / "failure.json")["kind"], starts(killed)) == ("crashed", 2)
    assert f"failed   {killed.name}: crashed" in done.stderr and f"{killed}/log.txt".endswith(
        next(line.strip() for line in done.stderr.splitlines() if line.endswith("log.txt"))
    )
    stands = status(tmp_path)
    assert (stands["total"], stands["done"], stands["running"], stands["left"]) == (2, 1, [], 0)
    assert list(stands["failed"]) == [killed.name] and "SIGKILL" in stands["failed"][killed.name]
    assert processes(tmp_path) == []
    mended: Any = tmp_path / "their_pkg" / "tiny.py"
    mended.write_text(mended.read_text().replace("os.kill(os.getpid(), signal.SIGKILL)", "return h"))
    again = run(*words("kill", "fine"), f"launch={name}", cwd=tmp_path, timeout=400)
    assert again.returncode == 0, again.stderr
    assert "2 runs, 1 finished before" in again.stdout and finished(tmp_path) == {"fine", "kill"}
    assert starts(runs(tmp_path)["fine"]) == 1


@pytest.mark.slow
def test_a_signal_ends_what_workers_watch(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    write_theirs(tmp_path, one={"misbehave": "slow"}, two={"misbehave": "slow", "lr": 0.02})
    process = begin(tmp_path, *words("one", "two"), "trainer.max_epochs=100", "launch=joblib")
    wait_until(lambda: len(list(tmp_path.glob("outputs/runs/*/checkpoints/last.ckpt"))) == 2)
    assert len(processes(tmp_path)) == 2
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and "run the same command again" in stderr
    wait_until(lambda: processes(tmp_path) == [], 60)
    assert finished(tmp_path) == set() and not list(tmp_path.glob("outputs/runs/*/failure.json"))


class Recorded:
    """A launcher of Hydra that asks for the config of every job and starts none."""

    def __init__(self, config: Any, context: Any) -> None:
        self.config, self.context, self.asked = config, context, list[Any]()

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> None:
        self.asked += [self.context.config_loader.load_sweep_config(self.config, words) for words in overrides]
        raise RuntimeError("a worker was killed")


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "slurm"])
def test_a_plugin_is_told_names_of_jobs_and_no_secret(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t-value-123")
    made: list[Recorded] = []

    def instantiate(self: Any, hydra_context: Any, task_function: Any, config: Any) -> Recorded:
        pickle.dumps((hydra_context.config_loader, task_function, config))
        made.append(Recorded(config, hydra_context))
        return made[0]

    monkeypatch.setattr(Plugins, "instantiate_launcher", instantiate)
    plan = make_plan(["-m", f"launch={name}", "seed=0,1", "logger.tags=[s3cr3t-value-123]"])
    assert plan is not None
    with frozen(plan, elsewhere=True) as copy:
        status = Status(2, 0, None)
        plugin.launch(plan.jobs, status, copy, plan.hydra, plan.folder, plan.config.launch)
    assert [config.supervised.job for config in made[0].asked] == [job.name for job in plan.jobs]
    for config in made[0].asked:
        assert config.supervised.plan == str(copy.plan) and config.supervised.options.name == name
        assert "s3cr3t" not in OmegaConf.to_yaml(config, resolve=False)
        assert config.hydra.sweep.dir == str(plan.folder)
    assert "Recorded ended early: RuntimeError: a worker was killed" in caplog.text
    assert not copy.code.exists() and copy.plan.exists()


def test_the_code_stays_for_jobs_that_outlive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(["seed=0"])
    assert plan is not None
    for elsewhere in (True, False):
        with pytest.raises(Interrupted), frozen(plan, elsewhere=elsewhere) as copy:
            raise Interrupted(143)
        assert copy.code.exists() == elsewhere
