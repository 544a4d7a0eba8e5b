"""The W&B mirror: mode rules, what is written, and that nothing W&B does ends or delays training."""

import http.server
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import pytorch_lightning as lightning
import torch
from PIL import Image

from recsys_collapse.logger import redact, within
from recsys_collapse.logger import wandb as room
from tests.cli import ROOT, python_path

KEY = "a" * 40
ROWS = [  # epoch, field, embedding_set, value: null and a number in one column, and one of nothing but null
    [-1, "C1", None, 1.25, None],
    [0, "C1", 0, None, None],
]
COLUMNS = ["epoch", "field", "embedding_set", "value", "reason"]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path, caplog):
    """As in a shell of a user who never used W&B; wandb's state in this process is dropped after."""
    for name in [*os.environ]:
        if name.startswith("WANDB_") or name.lower().endswith("_proxy") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    room.log_once.cache_clear()
    caplog.set_level(logging.INFO, logger=room.__name__)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def start(run_dir, mode="offline", resolved=None, name="deepfm-me-4x", tags=("deepfm", "4x")):
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # outside pytest; pytest sets it anew for every phase of a test
    run_dir.mkdir(parents=True, exist_ok=True)
    config = SimpleNamespace(name="wandb", mode=mode, project="recsys-collapse", entity=None, tags=[])
    return room.make_loggers(
        config, run_dir=run_dir, name=name, group="sweep1", tags=list(tags), resolved=resolved or {"scale": 4}
    )


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == room.__name__]


def warnings(caplog):
    return [record for record in caplog.records if record.name == room.__name__ and record.levelname == "WARNING"]


def read(run_dir):
    """What wandb itself finds in the one run file under `run_dir`: {record type: [records]}."""
    (path,) = run_dir.glob("wandb/*run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    found = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


def merged(updates):
    return {key: value for update in updates for key, value in update["update"].items()}


# --- the mode rules


@pytest.mark.parametrize(
    ("configured", "wandb_mode", "in_test", "missing", "expected"),
    [
        ("auto", None, False, "", "online"),
        ("auto", None, False, "no key", "disabled"),
        ("online", None, False, "", "online"),
        ("online", None, False, "no key", "offline"),
        ("offline", None, False, "", "offline"),
        ("disabled", None, False, "", "disabled"),
        ("dryrun", None, False, "", "offline"),
        ("disabled", "online", False, "", "online"),
        ("disabled", "auto", False, "", "online"),
        ("online", "auto", False, "no key", "disabled"),
        ("online", "offline", False, "", "offline"),
        ("online", "dryrun", False, "", "offline"),
        ("online", "disabled", False, "", "disabled"),
        ("online", "", False, "", "online"),
        ("auto", None, True, "", "disabled"),
        ("online", None, True, "", "disabled"),
        ("offline", "online", True, "", "disabled"),
        ("offline", None, True, "", "offline"),
        ("online", "offline", True, "", "offline"),
    ],
)
def test_mode(configured, wandb_mode, in_test, missing, expected):
    environ = {"PYTEST_CURRENT_TEST": "x"} if in_test else {}
    if wandb_mode is not None:
        environ["WANDB_MODE"] = wandb_mode
    mode, why = room.choose_mode(configured, environ, lambda: missing)
    assert mode == expected
    assert bool(why) == (mode != "online")
    if missing and not in_test:
        assert "no key" in why


@pytest.mark.parametrize(
    ("configured", "environ"), [("offline", {}), ("disabled", {}), ("auto", {"WANDB_MODE": "dryrun"})]
)
def test_credentials_are_looked_for_only_if_they_matter(configured, environ):
    mode, _ = room.choose_mode(configured, environ, lambda: pytest.fail("looked for credentials"))
    assert mode in ("offline", "disabled")


@pytest.mark.parametrize(
    ("configured", "environ", "named"),
    [("onlin", {}, "logger.mode=onlin"), ("online", {"WANDB_MODE": "shared"}, "WANDB_MODE=shared")],
)
def test_unknown_mode_names_key_value_and_choices(configured, environ, named):
    with pytest.raises(ValueError, match=f"{named}: expected one of auto, online, offline, disabled"):
        room.choose_mode(configured, environ, lambda: "")


@pytest.mark.parametrize(
    ("entry", "variables", "missing"),
    [
        (None, {}, "no credentials"),
        (None, {"WANDB_API_KEY": KEY}, ""),
        (None, {"WANDB_API_KEY": "short"}, "no usable credentials (AuthenticationError: WANDB_API_KEY invalid"),
        ("127.0.0.1:9", {}, ""),
        ("github.com", {}, "no credentials for http://127.0.0.1:9"),
    ],
)
@pytest.mark.parametrize("file", ["~/.netrc", "NETRC"])
def test_credentials(monkeypatch, tmp_path, entry, variables, missing, file):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "home" / ".netrc" if file == "~/.netrc" else tmp_path / "netrc"
    if file == "NETRC":
        monkeypatch.setenv("NETRC", str(path))
    if entry:
        path.write_text(f"machine {entry}\n  login user\n  password {KEY}\n")
        path.chmod(0o600)
    found = room.missing_credentials()
    assert found.startswith(missing) if missing else found == ""
    assert KEY not in found


def test_auto_without_credentials_says_so_once_and_imports_nothing(monkeypatch, tmp_path, caplog):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(room, "_settings", lambda: pytest.fail("imported wandb"))
    assert start(tmp_path / "one", "auto") == start(tmp_path / "two", "auto") == []
    (line,) = lines(caplog)
    assert "wandb login" in line and "logger=wandb" in line and "logger.mode=offline" in line
    assert not (tmp_path / "one" / "wandb").exists()


def test_only_the_first_process_mirrors(monkeypatch, tmp_path):
    monkeypatch.setattr(room.rank_zero_only, "rank", 1, raising=False)
    assert start(tmp_path) == []


# --- what is written


def test_offline_run_has_everything_and_prints_nothing(tmp_path, caplog, capfd):
    resolved = {"scale": 4, "model": {"name": "deepfm"}, "group": None}
    (mirror,) = start(tmp_path, resolved=resolved)
    settings = mirror.experiment.settings
    assert (settings.console, settings.save_code, settings.disable_git, settings.silent) == ("off", False, True, True)
    mirror.log_hyperparams({"lr": 0.5, "api_key": "hunter2"})
    mirror.log_metrics({"val/auc": 0.75}, step=10)
    mirror.log_metrics({"val/auc": 0.76}, step=20)
    mirror.finalize("success")
    mirror.log_metrics({"val/auc": 0.77}, step=30)  # the trainer finalizes after every stage
    mirror.log_image(key="spectra/plot", images=[Image.new("RGB", (4, 3), "red")])
    mirror.log_table(key="spectra/collapse", columns=COLUMNS, data=ROWS)
    mirror.log_summary(
        {
            "val_auc": 0.8,
            "test_auc": None,
            "best_epoch": 0,
            "parameters": {"embedding": 100, "dense": 10},
            "environment": {"host": "x"},
        }
    )
    print("a line of the user")
    mirror.finish(0)
    mirror.finish(1)
    assert capfd.readouterr() == ("a line of the user\n", "")

    (line,) = lines(caplog)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert line == f"W&B: offline, logger.mode=offline; `wandb sync {folder}` sends it later"

    found = read(tmp_path)
    (run,) = found["run"]
    config = {**run["config"]["update"], **merged(found.get("config", []))}
    assert config["scale"] == 4 and config["model"] == {"name": "deepfm"}
    assert config["lr"] == 0.5 and config["api_key"] == "<redacted>"
    named = {key: run[key] for key in ("display_name", "run_group", "tags", "project")}
    assert named == {
        "display_name": "deepfm-me-4x",
        "run_group": "sweep1",
        "tags": ["deepfm", "4x"],
        "project": "recsys-collapse",
    }
    assert any(metric.get("step_metric") == "trainer/global_step" for metric in found["metric"])
    history = [row["item"] for row in found["history"]]
    assert [(row["trainer/global_step"], row["val/auc"]) for row in history[:3]] == [(10, 0.75), (20, 0.76), (30, 0.77)]
    summary = merged(found["summary"])
    assert summary["val_auc"] == 0.8 and summary["best_epoch"] == 0
    assert summary["parameters"] == {"embedding": 100, "dense": 10}
    assert "test_auc" not in summary and "environment" not in summary
    assert [record["exit_code"] for record in found["exit"]] == [0]

    (table,) = folder.glob("files/media/table/spectra/collapse*.json")
    table = json.loads(table.read_text())
    assert (table["columns"], table["data"]) == (COLUMNS, ROWS)
    (image,) = folder.glob("files/media/images/spectra/plot*.png")
    assert Image.open(image).size == (4, 3)
    assert not {"output", "output_raw"} & found.keys() and not (folder / "files" / "output.log").exists()


def test_runs_of_one_process_are_separate_even_if_one_was_left_open(tmp_path):
    for i in range(3):
        (mirror,) = start(tmp_path / str(i), resolved={"scale": i}, name=f"run{i}")
        mirror.log_metrics({"loss": i}, step=0)
        if i != 1:
            mirror.finish(i)
    for i, exit_code in enumerate((0, 0, 2)):
        found = read(tmp_path / str(i))
        (run,) = found["run"]
        assert run["display_name"] == f"run{i}" and run["config"]["update"]["scale"] == i
        assert [row["item"]["loss"] for row in found["history"]] == [i]
        assert [record.get("exit_code", 0) for record in found["exit"]] == [exit_code]


def test_secrets_do_not_leave(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["run.py", "dataset.s3.secret_access_key=hunter2"])

    def leaks(name, resolved):
        (mirror,) = start(tmp_path / name, resolved=resolved)
        mirror.finish(0)
        return any(b"hunter2" in path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())

    # Without a secret in the config the command line is sent (wandb collects it beside us, not always in so short a
    # run): so it is this file that keeps it back.
    assert any(leaks(f"plain{i}", {"scale": 1}) for i in range(5))
    assert not any(leaks(f"secret{i}", {"dataset": {"s3": [{"secret_access_key": "hunter2"}]}}) for i in range(2))


def test_secrets_of_the_environment_do_not_leave(monkeypatch, tmp_path):
    """In the config, hyperparameters, names, tags, metrics, the summary, tables and the command line."""
    monkeypatch.setenv("OTHER_PASSWORD", "hunter2-hunter2")
    monkeypatch.setattr(sys, "argv", ["run.py", "dataset.path=x-hunter2-hunter2"])
    secret = "x-hunter2-hunter2"
    resolved = {"dataset": {"path": secret, "paths": (secret,), secret: 1}}
    (mirror,) = start(tmp_path, resolved=resolved, name=secret, tags=[secret])
    mirror.log_hyperparams({"url": secret, "nested": [secret]})
    mirror.log_metrics({secret: 0.5, "note": secret}, step=1)
    mirror.log_table(key=secret, columns=[secret, "field"], data=[[1.5, secret], [None, "b"]])
    mirror.log_summary({"val_auc": 0.8, "parameters": {secret: 1}})
    mirror.finish(0)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter2" in path.read_bytes() or "hunter2" in str(path)] == []
    found = read(tmp_path)
    assert "hunter2" not in json.dumps(found)
    (run,) = found["run"]
    shown = "x-${oc.env:OTHER_PASSWORD}"
    assert run["display_name"] == shown and run["tags"] == [shown]
    assert run["config"]["update"]["dataset"] == {"path": shown, "paths": [shown], shown: "<redacted>"}
    assert shown in merged(found["summary"])["parameters"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@host/path?a=b@c", "https://<redacted>@c"),
        ("https://user:pass@host/path", "https://<redacted>@host/path"),
        ("s3://id:a/b@c@bucket/file", "s3://<redacted>@bucket/file"),
        ("see https://name@host, http://host/@me", "see https://<redacted>@host, http://host/@me"),
        ("http://host:80/path", "http://host:80/path"),
        ("user:pass@host", "user:pass@host"),
    ],
)
def test_the_user_of_a_url_is_redacted(url, shown):
    assert redact({"urls": [url, {url: 1}]}) == {"urls": [shown, {shown: 1}]}


def test_redact():
    config = {
        "API_Key": 1,
        "auth_token": ["x"],
        "db": [{"password": None, "user": "u"}],
        "secrets": {"a": 1},
        "credentials": "x",
        "Authorization": "x",
        "passwd": "x",
        "author": "x",
        "lr": 0.1,
    }
    hidden = dict.fromkeys(("API_Key", "auth_token", "secrets", "credentials", "Authorization", "passwd"), "<redacted>")
    assert redact(config) == {**config, **hidden}
    assert config["API_Key"] == 1


def test_under_lightning(tmp_path):
    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, index):
            loss = self.layer(batch).square().mean()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    loggers = start(tmp_path / "run")
    checkpoint = lightning.callbacks.ModelCheckpoint(tmp_path / "checkpoints")
    trainer = lightning.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        logger=loggers,
        log_every_n_steps=1,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(2, 1)))
    loggers[0].log_summary({"val_auc": 0.5})
    loggers[0].finish(0)
    found = read(tmp_path / "run")
    history = [row["item"] for row in found["history"] if "train/loss" in row["item"]]
    assert [row["trainer/global_step"] for row in history] == [0, 1, 2, 3]
    assert merged(found["summary"])["val_auc"] == 0.5
    assert list((tmp_path / "checkpoints").iterdir()) and "artifact" not in found


OFFLINE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from recsys_collapse.logger import wandb as room
config = SimpleNamespace(name="wandb", mode="offline", project="p", entity=None, tags=[])
(mirror,) = room.make_loggers(config, run_dir=Path(sys.argv[1]), name="n", group="g", tags=[], resolved={})
mirror.log_metrics({"loss": 1.0}, step=1)
mirror.finish(0)
"""


@pytest.mark.parametrize("reports", [None, "true"])
def test_offline_sends_nothing(attempts, tmp_path, reports):
    """Nor does wandb, which would report on itself at the end of the process; unless one asks for it."""
    own = {} if reports is None else {"WANDB_ERROR_REPORTING": reports}
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT), **own}
    command = [sys.executable, "-c", OFFLINE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("socket.getaddrinfo" in attempts.read_text()) == (reports is not None)
    if reports is not None:
        attempts.write_text("")  # or this test fails


# --- W&B fails


class Broken:
    """A run whose methods do `how`: raise or sleep. Counts the calls."""

    project, id, url = "p", "1", "u"

    def __init__(self, folder, how, only=("log", "update", "finish")):
        self.dir, self.how, self.only, self.calls = str(folder / "files"), how, only, []
        self.summary = self.config = self

    def define_metric(self, *args, **kwargs):
        pass

    def _do(self, name):
        self.calls.append(name)
        if name in self.only:
            self.how()

    def log(self, *args, **kwargs):
        self._do("log")

    def update(self, *args, **kwargs):
        self._do("update")

    def finish(self, exit_code):
        self._do("finish")


def fail():
    raise RuntimeError("the service is gone\nwith a long explanation")


def hang():
    time.sleep(5)


@pytest.fixture
def short(monkeypatch):
    for name in ("INIT_SECONDS", "LOG_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(room, name, 0.3)


@pytest.mark.parametrize("how", [fail, hang])
@pytest.mark.parametrize("broken", [("log", "finish"), ("update", "finish"), ("finish",)])
def test_failing_run_is_silenced_with_one_warning(monkeypatch, tmp_path, caplog, short, how, broken):
    import wandb

    run = Broken(tmp_path, how, only=broken)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: run)
    (mirror,) = start(tmp_path)
    started = time.perf_counter()
    for step in range(3):
        mirror.log_metrics({"loss": 1.0}, step=step)
    mirror.log_summary({"val_auc": 0.5})
    mirror.log_hyperparams({"lr": 1})
    mirror.log_table(key="table", columns=["a"], data=[[1]])
    mirror.log_image(key="image", images=[Image.new("L", (2, 2))])
    mirror.finish(0)
    mirror.finish(0)
    mirror.log_metrics({"loss": 1.0}, step=4)
    mirror.experiment.log({"loss": 1.0})  # a callback that uses it directly
    assert time.perf_counter() - started < 2
    before = ["log"] if "log" in broken else ["log", "log", "log", "update"]
    assert run.calls == before + (["update", "log", "log"] if broken == ("finish",) else []) + ["finish"]
    (warning,) = warnings(caplog)
    reason = "RuntimeError: the service is gone" if how is fail else "TimeoutError: no answer within 0.3 s"
    assert f"({reason})" in warning.getMessage()


@pytest.mark.parametrize("how", [fail, hang])
def test_failing_start_gives_no_mirror(monkeypatch, tmp_path, caplog, short, how):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **kwargs: how())
    started = time.perf_counter()
    assert start(tmp_path) == []
    assert time.perf_counter() - started < 2
    assert len(warnings(caplog)) == len(lines(caplog)) == 1


def test_within_passes_results_and_errors():
    assert within(1, lambda: 3) == 3
    with pytest.raises(SystemExit):
        within(1, sys.exit)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        within(0.05, hang)


# --- the network


class Server(http.server.BaseHTTPRequestHandler):
    """The least of a W&B server that a run needs; also an HTTP proxy that answers itself."""

    def log_message(self, *args):
        pass

    def answer(self, status, data):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.server.asked.append(self.path)
        self.answer(self.server.head, {})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":
            self.server.streamed.append(body.decode())
            return self.answer(200, {})
        query, data = json.loads(body), {}
        if "upsertBucket" in query["query"]:
            project = {"id": "p", "name": "recsys-collapse", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "x", "name": query["variables"].get("name"), "displayName": "d", "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query["query"]:
            url = f"http://{self.headers['Host']}/upload/"
            files = [{"name": name, "uploadUrl": url + name} for name in query["variables"]["files"]]
            data = {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return self.answer(self.server.post, {"data": data})


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.handle_error = lambda *args: None  # the other side may hang up at any time
    server.head, server.post, server.asked, server.streamed = 404, 200, [], []
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("mode", ["online", "auto"])
def test_online(monkeypatch, server, tmp_path, caplog, capfd, mode):
    monkeypatch.setenv("WANDB_MODE", mode)  # `auto` is no word of wandb's
    (mirror,) = start(tmp_path, "disabled")
    mirror.log_metrics({"val/auc": 0.123456}, step=1)
    mirror.finish(0)
    (line,) = lines(caplog)
    assert line.startswith(f"W&B: online, http://127.0.0.1:{server.server_port}/me/recsys-collapse/runs/")
    assert "0.123456" in "".join(server.streamed)
    assert os.environ["WANDB_MODE"] == mode and "WANDB_SILENT" not in os.environ
    assert capfd.readouterr() == ("", "")


def test_server_that_dies_does_not_hold_up_the_end(monkeypatch, server, tmp_path, caplog):
    monkeypatch.setattr(room, "FINISH_SECONDS", 2.0)
    (mirror,) = start(tmp_path, "online")
    server.shutdown()
    server.server_close()
    mirror.log_metrics({"val/auc": 0.5}, step=1)
    started = time.perf_counter()
    mirror.finish(0)
    assert time.perf_counter() - started < 3
    (folder,) = tmp_path.glob("wandb/run-*")
    (warning,) = warnings(caplog)
    assert f"`wandb sync {folder}`" in warning.getMessage()
    assert "no answer within" not in warning.getMessage()  # wandb itself gave up, so the process can end as well


def test_rejected_key_is_recorded_offline(server, tmp_path, caplog):
    server.post = 401
    started = time.perf_counter()
    (mirror,) = start(tmp_path, "online")
    assert time.perf_counter() - started < room.INIT_SECONDS
    mirror.finish(0)
    (line,) = lines(caplog)
    assert line.startswith("W&B: offline, it did not start online (")
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_unreachable_host_is_decided_quickly(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    started = time.perf_counter()
    (mirror,) = start(tmp_path, "auto")
    assert time.perf_counter() - started < 5
    mirror.finish(0)
    (line,) = lines(caplog)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert "offline, http://127.0.0.1:9 cannot be reached" in line and f"`wandb sync {folder}`" in line
    assert KEY not in line


def test_silent_host_is_unreachable(monkeypatch):
    monkeypatch.setattr(room, "REACH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.perf_counter()
        assert "cannot be reached" in room.why_unreachable()
        assert time.perf_counter() - started < 3


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (404, True), (501, True), (502, False), (504, False)])
@pytest.mark.parametrize("variable", ["http_proxy", "WANDB_HTTP_PROXY"])
def test_proxies_are_respected(monkeypatch, server, status, reachable, variable):
    monkeypatch.setenv(variable, os.environ["WANDB_BASE_URL"])
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid:8080")
    server.head = status
    assert (room.why_unreachable() == "") == reachable
    assert server.asked[0].startswith("http://wandb.invalid:8080")


def test_certificate_unknown_to_python_is_left_to_wandb(monkeypatch):
    def untrusted(*args, **kwargs):
        raise urllib.error.URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", untrusted)
    assert room.why_unreachable() == ""


def test_online_without_credentials_is_offline(tmp_path, caplog):
    (mirror,) = start(tmp_path, "online")
    mirror.finish(0)
    (line,) = lines(caplog)
    assert line.startswith("W&B: offline, no credentials") and "wandb sync" in line
