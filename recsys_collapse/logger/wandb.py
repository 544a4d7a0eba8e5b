"""The mirror of a run in Weights & Biases. The local files are the truth; this room keeps W&B out of training's way.

Every call into wandb has a time limit. The first one that fails or is late is logged as one warning and silences the
mirror for the rest of the run; no exception of W&B leaves this file. `wandb` (0.8 s to import) is imported
only by the functions that use it, so a run without a mirror does not pay for it.
"""

import logging
import os
import ssl
import sys
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from recsys_collapse.config import MODES
from recsys_collapse.logger import one_line, redact, within
from recsys_collapse.runs.secrets import scrub, scrub_tree

log = logging.getLogger(__name__)
log_once = cache(log.info)

REACH_SECONDS = 4.0  # a server that does not answer by then is taken as unreachable
INIT_SECONDS, LOG_SECONDS = 20.0, 10.0
FINISH_SECONDS = 30.0  # for what is still to be uploaded
SUMMARY = ["val_auc", "test_auc", "val_logloss", "test_logloss", "best_epoch", "num_epochs", "parameters"]
SUMMARY += ["flops_per_sample", "samples_per_second", "wall_seconds"]


def make_loggers(
    config: Any,
    *,
    run_dir: Path,
    name: str,
    group: str,
    tags: list[str],
    resolved: dict[str, Any],
    identifier: str | None = None,
) -> list["WandbMirror"]:
    """The mirror of one run in a list, or none; logs one line saying which and why ("off" once per process).

    `config` is the node `logger`; wandb's files go to `<run_dir>/wandb`; of `resolved`, secrets are not shown in W&B.

    Raises:
        ValueError: the mode is unknown. Nothing else: whatever W&B does, training goes on.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return []  # one mirror per run, not per process
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or wandb reports on itself, also when it is offline
    mode, why = choose_mode(config.mode, os.environ, missing_credentials)
    if mode == "disabled":
        log_once(f"W&B: off, {why}")
        return []
    options = redact({"project": config.project, "entity": config.entity, "name": name, "group": group, "tags": tags})
    options |= {} if identifier is None else {"id": identifier, "resume": "allow"}  # a run that goes on is one run
    try:
        why = why or why_unreachable()
        run, why = within(INIT_SECONDS, lambda: _start(why, {**options, "dir": str(run_dir)}, resolved))
        mirror = WandbMirror(run, run_dir)
    except Exception as error:
        log.warning(f"W&B: off for this run, it did not start ({one_line(error)}); the local files are complete")
        return []
    log.info(f"W&B: offline, {why}; {mirror.how_to_send} later" if why else f"W&B: online, {run.url}")
    return [mirror]


def choose_mode(configured: str, environ: Mapping[str, str], missing: Callable[[], str]) -> tuple[str, str]:
    """The mode (`online`, `offline` or `disabled`) and, if it is not `online`, why.

    WANDB_MODE beats `configured` (`logger.mode`); tests send nothing; without credentials nothing goes online and
    nobody is asked. `missing` says what is missing for going online ("": nothing); called only if that matters.

    Raises:
        ValueError: names the variable or key, its value and the choices.
    """
    key, value = ("WANDB_MODE", environ["WANDB_MODE"]) if environ.get("WANDB_MODE") else ("logger.mode", configured)
    mode = "offline" if value == "dryrun" else value  # what wandb called it once
    if mode not in MODES:
        raise ValueError(f"{key}={value}: expected one of {', '.join(MODES)}")
    if mode in ("offline", "disabled"):
        return mode, f"{key}={value}"
    if "PYTEST_CURRENT_TEST" in environ:
        return "disabled", "this is a test"
    if reason := missing():
        hint = "to turn it on: `wandb login`, or without an account logger=wandb or logger.mode=offline"
        return ("offline", reason) if mode == "online" else ("disabled", f"{reason}; {hint}")
    return "online", ""


def missing_credentials() -> str:
    """What is missing for going online; "" with a key, an identity token or a netrc entry that wandb would use."""
    netrc = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    possible = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or "wandb" in sys.modules
    try:
        if not possible and not any(Path(path).expanduser().exists() for path in netrc):
            return "no credentials"  # without the import
        from wandb.sdk.lib.wbauth import authenticate_session

        host = _settings().base_url
        found = authenticate_session(host=host, source=__name__, prompt=False, update_session=False)
    except Exception as error:
        return f"no usable credentials ({one_line(error)})"
    return "" if found else f"no credentials for {host}"


def why_unreachable() -> str:
    """Why W&B's server cannot be reached, proxies respected; "" if it answers. wandb itself would wait for 100 s."""
    settings = _settings()
    own = {"http": settings.http_proxy, "https": settings.https_proxy}
    proxies = urllib.request.getproxies() | {scheme: proxy for scheme, proxy in own.items() if proxy}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    request = urllib.request.Request(settings.base_url, method="HEAD")
    try:
        within(REACH_SECONDS, lambda: opener.open(request, timeout=REACH_SECONDS).close())
    except Exception as error:
        # An answer with any code will do but a gateway's with nothing behind it; and wandb decides whom to trust.
        answered = getattr(error, "code", 502) not in (502, 503, 504)
        if not answered and not isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            return f"{settings.base_url} cannot be reached ({one_line(error)})"
    return ""


class WandbMirror(WandbLogger):
    """A started W&B run as a Lightning logger that never raises, waits within limits and uploads no checkpoints."""

    def __init__(self, run: Any, run_dir: Path) -> None:
        super().__init__(project=run.project, save_dir=run_dir, log_model=False, experiment=run)
        self._run, self._silent, self._finished = run, False, False
        self.how_to_send = f"`wandb sync {Path(run.dir).parent}` sends it"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars at `step`, the number of optimizer steps: the x-axis of the charts."""
        send = super().log_metrics
        self._guard(lambda: send(scrub_tree(metrics), step))

    def log_table(
        self, key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: int | None = None
    ) -> None:
        """Log a table, without secrets of the environment in its rows."""
        super().log_table(scrub(key), scrub_tree(columns), scrub_tree(data), dataframe, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add to the run's config, without secrets."""
        send = super().log_hyperparams
        self._guard(lambda: send(redact(params if isinstance(params, Mapping) else vars(params))))

    def log_summary(self, result: dict[str, Any]) -> None:
        """Put the numbers of `result.json` into the run's summary, without nulls; `parameters` stays nested."""
        numbers = {key: result[key] for key in SUMMARY if result.get(key) is not None}
        self._guard(lambda: self.experiment.summary.update(scrub_tree(numbers)))

    def finish(self, exit_code: int) -> None:
        """Close the run, so that the next one is not written into it; within FINISH_SECONDS. Again: does nothing."""
        if not self._finished:
            self._finished = True
            self._guard(lambda: self._run.finish(exit_code=exit_code), last=True)

    def _guard(self, call: Callable[[], Any], last: bool = False) -> None:
        if self._silent and not last:
            return
        try:
            within(FINISH_SECONDS if last else LOG_SECONDS, call)
        except Exception as error:
            if not self._silent:
                log.warning(f"W&B: stopped for this run ({one_line(error)}); local files go on, {self.how_to_send}")
            last = True
        if last:  # for callbacks that use it themselves
            self._silent, self._experiment = True, DummyLogger().experiment  # type: ignore[assignment]


def _start(why_offline: str, options: dict[str, Any], config: dict[str, Any]) -> tuple[Any, str]:
    """A started run, and why it is offline ("" if it is not). wandb's own time limits are a little below ours."""
    import wandb

    _settings()  # silently, before init does it aloud
    settings = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True, finish_timeout_raises=True)
    settings.init_timeout, settings.finish_timeout = 0.7 * INIT_SECONDS, 0.8 * FINISH_SECONDS
    sent = [config, sys.argv]  # metadata have the command line, where a secret may stand
    settings.x_disable_meta = redact(sent) != sent
    settings.reinit = "finish_previous"  # by default init returns a run that was left open and drops the new config
    options |= {"config": redact(config), "settings": settings}
    try:
        run = wandb.init(mode="offline" if why_offline else "online", **options)
    except Exception as error:  # a key that is no longer valid, for example
        why_offline = why_offline or f"it did not start online ({one_line(error)})"
        run = wandb.init(mode="offline", **options)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run, why_offline


def _settings() -> Any:
    """What wandb takes from files and the environment, loaded silently and without WANDB_MODE=auto, our own word."""
    from wandb.sdk import wandb_setup

    before = dict(os.environ)
    os.environ["WANDB_SILENT"] = "true"
    if before.get("WANDB_MODE") == "auto":
        del os.environ["WANDB_MODE"]
    try:
        return wandb_setup.singleton().settings
    finally:
        del os.environ["WANDB_SILENT"]
        os.environ.update(before)
