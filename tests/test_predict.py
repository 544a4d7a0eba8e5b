"""`python -m recsys_collapse.predict`: scores of new rows, what is said of them, and what is refused."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import log_loss, roc_auc_score

from recsys_collapse import predict, scoring
from recsys_collapse.export import load
from recsys_collapse.export.formats import FILES
from recsys_collapse.load import load_run
from recsys_collapse.predict_options import EXPORTS
from recsys_collapse.runs.records import write_result
from recsys_collapse.scoring import ScoreFile, Scorer
from tests.cli import ROOT, SMALL_SYNTHETIC, python_path, run
from tests.predicting import clicks_run, finished, rows_of, scored, split_rows, write_rows
from tests.recipe_files import CRITEO, criteo_rows, write_table


def command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(*words, cwd=cwd, module="recsys_collapse.predict", **environment)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run on `clicks.csv`, which lies three folders above it; to be left as it is."""
    return clicks_run(tmp_path_factory.mktemp("clicks"), "trainer.eval_batch_size=50")


def its_file(run_dir: Path) -> Path:
    return run_dir.parents[2] / "clicks.csv"


def test_from_the_command_line(tmp_path: Path, clicks: Path) -> None:
    """What stands in the README: labels are kept, AUC and log-loss are those of the scores, the output has a name."""
    header, rows, expected = split_rows(clicks, its_file(clicks))
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "new.csv", header, rows)
    done = command(f"run={clicks}", "input=in/new.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "new-scores.parquet"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["new.csv"]
    found = pl.read_parquet(tmp_path / "new-scores.parquet")
    assert found.schema == {"row_id": pl.Int64, "label": pl.UInt8, "logit": pl.Float32, "probability": pl.Float32}
    assert found.select("label", "logit").equals(expected.select("label", "logit"))
    label_n, logit_n = found["label"].to_numpy(), found["logit"].to_numpy()
    assert f"AUC        {roc_auc_score(label_n, logit_n):.6f}" in done.stdout
    assert f"log-loss   {log_loss(label_n, 1 / (1 + np.exp(-logit_n.astype(np.float64)))):.6f}" in done.stdout
    assert f"scored     {len(rows)} rows in" in done.stdout and "rows/s: new-scores.parquet" in done.stdout
    assert "last bits" not in done.stdout and "look at" not in done.stdout
    mode = (tmp_path / "new-scores.parquet").stat().st_mode & 0o777
    assert mode == (tmp_path / "in" / "new.csv").stat().st_mode & 0o777


def test_csv_and_parquet_are_the_same(tmp_path: Path, clicks: Path) -> None:
    header, rows = rows_of(its_file(clicks))
    write_rows(tmp_path / "a.csv", header, rows)
    frame = pl.DataFrame(rows, schema=header, orient="row").with_columns(
        pl.col("click").cast(pl.Int8), pl.col("site").replace("", None)
    )
    frame.write_parquet(tmp_path / "a.parquet")
    one, other = (scored(clicks, tmp_path / f"{i}.parquet", f"input={tmp_path / f'a.{i}'}") for i in ("csv", "parquet"))
    assert one.equals(other) and one.height == 1200


def test_unseen_values_are_the_rare_one_and_are_shown(tmp_path: Path, clicks: Path, capsys, caplog) -> None:
    """All the same id, so all the same score; the share of every field stands beside that of the run's data."""
    rows = [[f"new{i}", "i1", "a"] for i in range(30)] + [["u1", "i1", "a"]] * 10
    write_rows(tmp_path / "a.csv", ["user", "item", "site"], rows)
    caplog.set_level("INFO")
    found = scored(clicks, tmp_path / "s.parquet", f"input={tmp_path / 'a.csv'}")
    assert found["logit"][:30].n_unique() == 1
    assert found["logit"][30:].n_unique() == 1 and found["logit"][0] != found["logit"][30]
    shown = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines()
             if line.startswith("│")}  # fmt: skip
    assert shown == {"user": "75.00%", "item": "0.00%", "site": "0.00%"}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "user 75.0% (at most 0.0% in the run's data)" in warning and "item" not in warning
    assert not any("AUC" in record.getMessage() for record in caplog.records)


def test_rows_of_one_class_have_no_auc(tmp_path: Path, clicks: Path, caplog) -> None:
    caplog.set_level("INFO")
    write_rows(tmp_path / "a.csv", ["click", "user", "item", "site"], [[1, "u1", "i1", "a"]])
    found = scored(clicks, tmp_path / "s.parquet", f"input={tmp_path / 'a.csv'}")
    assert found.select("row_id", "label").rows() == [(0, 1)]
    assert "AUC        null (the rows have one class only)\nlog-loss   " in caplog.text


@pytest.mark.parametrize("header", [["user", "item", "site"], ["user", "item", "site", "click"]])
def test_no_rows_are_no_scores(tmp_path: Path, clicks: Path, header: list[str]) -> None:
    """Text of a header only, and Parquet without rows."""
    write_rows(tmp_path / "a.csv", header, [])
    pl.DataFrame(schema=dict.fromkeys(header, pl.String)).write_parquet(tmp_path / "b.parquet")
    for name in ("a.csv", "b.parquet"):
        found = scored(clicks, tmp_path / f"{name}.pq", f"input={tmp_path / name}")
        assert found.height == 0
        assert found.columns == ["row_id", *(["label"] if "click" in header else []), "logit", "probability"]


def test_a_run_on_built_in_data(tmp_path: Path) -> None:
    """Columns are called as the fields of the store."""
    run_dir = finished(tmp_path, "dataset=synthetic", *SMALL_SYNTHETIC)
    loaded = load_run(run_dir)
    known = pl.read_parquet(loaded.store.path / "vocabulary.parquet")
    value = {(field, i): text for field, text, i in known.select("field", "value", "id").rows()}
    expected = pl.read_parquet(run_dir / "test_scores.parquet")
    ids = loaded.store.ids[expected["row_id"].to_list()].tolist()
    rows = [[value.get((field, i), "?") for field, i in zip(loaded.store.fields, row, strict=True)] for row in ids]
    write_rows(tmp_path / "a.csv", loaded.store.fields, rows)
    assert scored(run_dir, tmp_path / "s.parquet", f"input={tmp_path / 'a.csv'}")["logit"].equals(expected["logit"])


def test_criteo_with_and_without_labels(tmp_path: Path) -> None:
    """Text without a header, integers in buckets; test.txt has no label."""
    rows = criteo_rows(400)
    path = write_table(tmp_path / "train.txt", rows, None, "\t")
    run_dir = finished(tmp_path, "dataset=criteo", f"dataset.path={path}", "dataset.min_count=2")
    assert len(CRITEO) == len(rows[0])
    write_table(tmp_path / "test.txt", [row[1:] for row in rows], None, "\t")
    labelled = scored(run_dir, tmp_path / "a.parquet", f"input={path}")
    unlabelled = scored(run_dir, tmp_path / "b.parquet", f"input={tmp_path / 'test.txt'}")
    assert labelled["label"].to_list() == [int(row[0]) for row in rows]
    assert labelled.drop("label").equals(unlabelled)
    test = pl.read_parquet(run_dir / "test_scores.parquet")
    np.testing.assert_allclose(labelled["logit"].gather(test["row_id"]), test["logit"], rtol=1e-4, atol=1e-6)
    write_table(tmp_path / "bad.txt", [row[2:] for row in rows], None, "\t")
    with pytest.raises(ValueError, match=r"bad\.txt:1: 38 values, expected 40 .*, or 39 without the label label"):
        scored(run_dir, tmp_path / "c.parquet", f"input={tmp_path / 'bad.txt'}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["input=a.csv"], "run is not set: add run=... to the command"),
        (["run=RUN"], "input is not set: add input=FILE"),
        (["run=RUN", "input=a.csv", "inptu=b"], "inptu=b: no such key; did you mean input?"),
        (["run=RUN", "input=a.csv", "predict.batchsize=3"], "did you mean predict.batch_size?"),
        (["run=RUN", "input=a.csv", "predict.batch_size=x"], "predict.batch_size=x"),
        (["run=RUN", "input=a.csv", "predict.batch_size=0"], "predict.batch_size=0: expected an integer of 1 or more"),
        (["run=RUN", "input=a.csv", "predict.threads=0"], "predict.threads=0: expected an integer of 1 or more"),
        (["run=RUN", "input=a.csv", "predict.accelerator=tpu"], "expected one of auto, cpu, cuda"),
        (["run=RUN", "input=a.csv", "predict.accelerator=cuda"], "no GPU is visible here; use auto or cpu"),
        (
            ["run=RUN", "predict.export=m.onnx"],
            "predict.export=m.onnx: expected one of safetensors, torch_export, onnx",
        ),
        (["run=RUN", "input=a.csv", "predict.export=onnx"], "input=a.csv, predict.export=onnx: expected one of them"),
        (["run=RUN", "predict.export=onnx", "output=there.parquet"], "output=there.parquet: it exists; choose another"),
        (["run=RUN", "input=7"], "input=7: expected a file, a pattern"),
        (["run=RUN", "input=a.cvs"], "input=a.cvs: no such file"),
        (["run=RUN", "input=empty.csv"], "empty.csv: the file is empty"),
        (["run=RUN", "input=a.csv", "dataset.columns=3"], "dataset.columns=3: expected a list of names, header"),
        (["run=RUN", "input=a.csv", "dataset.label_map=3"], "dataset.label_map=3: expected words"),
        (["run=RUN", "input=a.csv", "output=a.txt"], "output=a.txt: the scores are written as Parquet"),
        (["run=RUN", "input=there.parquet", "output=there.parquet"], "output=there.parquet: it is an input"),
        (["run=RUN", "input=a.csv", "output=there.parquet"], "there.parquet: it exists; choose another name, or add"),
        (["run=RUN", "input=a.csv", "output=a.csv/x.parquet"], "a.csv is not a folder"),
        (["run=a.csv", "input=a.csv"], "run=a.csv"),
        (["run=gone", "input=a.csv"], "run=gone: there is no result.json; expected the directory of a finished run"),
        (["-m", "run=RUN,RUN", "input=a.csv"], "2 commands in one: expected one run"),
        (
            ["run=RUN", "input=a.csv", "dataset=table"],
            "dataset=...: there is no such choice in this command; known here: run, input",
        ),
    ],
)
def test_a_wrong_command_says_what_is_wrong(
    tmp_path: Path, clicks: Path, monkeypatch, capsys, words: list[str], said: str
) -> None:
    """In one message and before torch is loaded, but for what only the run knows."""
    (tmp_path / "a.csv").write_text("user,item,site\nu1,i1,a\n")
    (tmp_path / "empty.csv").touch()
    pl.DataFrame({"user": ["u1"]}).write_parquet(tmp_path / "there.parquet")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["predict", *(word.replace("RUN", str(clicks)) for word in words)])
    assert predict.main() == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_help(tmp_path: Path) -> None:
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "python -m recsys_collapse.predict run=" in done.stdout and "overwrite: false" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_mistyped_is_said_without_torch(tmp_path: Path, clicks: Path) -> None:
    """With a torch that cannot be imported: a wrong key, a wrong file, a wrong run."""
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text("raise RuntimeError('torch was imported')")
    path = os.pathsep.join([str(tmp_path / "broken"), str(ROOT)])
    wrong = [f"run={clicks}", "input=gone.csv"], ["run=gone", f"input={its_file(clicks)}"], [f"run={clicks}", "inptu=1"]
    for words in wrong:
        done = command(*words, cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 2 and "torch was imported" not in done.stderr
    assert (
        "torch was imported"
        in command(f"run={clicks}", f"input={its_file(clicks)}", cwd=tmp_path, PYTHONPATH=path).stderr
    )


def test_an_output_is_replaced_only_if_that_is_asked_for(tmp_path: Path, clicks: Path) -> None:
    output = tmp_path / "s.parquet"
    output.write_text("old")
    words = [f"input={its_file(clicks)}"]
    with pytest.raises(ValueError, match=r"s\.parquet: it exists"):
        scored(clicks, output, *words)
    assert output.read_text() == "old"
    assert scored(clicks, output, *words, "predict.overwrite=true").height == 1200


def test_an_output_that_appears_meanwhile_stays(tmp_path: Path, clicks: Path, monkeypatch, caplog) -> None:
    """And the scores, which may have taken hours, go beside it."""
    output, original = tmp_path / "s.parquet", scoring.score_rows

    def score_rows(*given) -> None:
        original(*given)
        output.write_text("of somebody else")

    monkeypatch.setattr(scoring, "score_rows", score_rows)
    with pytest.raises(pl.exceptions.PolarsError):  # what reads the scores finds the other file
        scored(clicks, output, f"input={its_file(clicks)}")
    assert output.read_text() == "of somebody else"
    (beside,) = {*tmp_path.iterdir()} - {output}
    assert beside.name.startswith("s-2") and pl.read_parquet(beside).height == 1200
    assert "the scores go beside it" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["logits", "add", "finish"])
def test_nothing_is_left_of_what_was_not_finished(tmp_path: Path, clicks: Path, monkeypatch, error, place: str) -> None:
    """Wherever it ends: at the third batch, or while the file is put together; an output that was there stays."""
    output, calls = tmp_path / "s.parquet", []
    output.write_text("old")
    owner = Scorer if place == "logits" else ScoreFile
    original = getattr(owner, place)

    def fails(*given):
        calls.append(1)
        if len(calls) == (1 if place == "finish" else 3):
            raise error
        return original(*given)

    monkeypatch.setattr(owner, place, fails)
    monkeypatch.setattr(scoring, "ROWS_OF_A_PIECE", 50)
    with pytest.raises(error):
        scored(clicks, output, f"input={its_file(clicks)}", "predict.overwrite=true")
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"] and output.read_text() == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_is_said(tmp_path: Path, clicks: Path, monkeypatch, failing: int) -> None:
    """While a piece is written, and while the pieces are put together."""
    real, calls = os.write, []

    def write(descriptor: int, data: memoryview) -> int:
        calls.append(1)
        if len(calls) >= failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left on device"):
        scored(clicks, tmp_path / "s.parquet", f"input={its_file(clicks)}")
    assert len(calls) >= failing and [*tmp_path.iterdir()] == []


def test_ctrl_c(tmp_path: Path, clicks: Path) -> None:
    """130, a word, and nothing left, as soon as there is something to leave."""
    header, rows = rows_of(its_file(clicks))
    write_rows(tmp_path / "large.csv", header, rows * 400)
    words = [
        sys.executable,
        "-m",
        "recsys_collapse.predict",
        f"run={clicks}",
        "input=large.csv",
        "predict.batch_size=2",
    ]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not [*tmp_path.glob(".large-scores.parquet-*")]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "\nStopped; nothing is left of what was not finished.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["large.csv"]


def test_many_pieces_are_one_file(tmp_path: Path, clicks: Path, monkeypatch) -> None:
    words = [f"input={its_file(clicks)}"]
    whole = scored(clicks, tmp_path / "a.parquet", *words)
    monkeypatch.setattr(scoring, "ROWS_OF_A_PIECE", 70)
    assert scored(clicks, tmp_path / "b.parquet", *words).equals(whole)


def copy_of(run_dir: Path, folder: Path) -> Path:
    """The run in an outputs folder of its own, with its store."""
    shutil.copytree(run_dir.parents[1] / "stores", folder / "outputs" / "stores")
    copied = folder / "outputs" / "runs" / run_dir.name
    shutil.copytree(run_dir, copied)
    return copied


def test_a_run_of_somebody_else_builds_no_class_of_theirs(tmp_path: Path, clicks: Path) -> None:
    """Nothing of it is imported without `allow`, whatever its own config allows."""
    copied = copy_of(clicks, tmp_path)
    (tmp_path / "theirs.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\nfrom recsys_collapse.model.dcnv2 import DCNv2 as Model\n"
    )
    config = OmegaConf.load(copied / "config.yaml")
    config.model.backbone._target_, config.allow = "theirs.Model", ["theirs"]
    OmegaConf.save(config, copied / "config.yaml")
    words, path = [f"run={copied}", f"input={its_file(clicks)}"], os.pathsep.join([str(tmp_path), str(ROOT)])
    done = command(*words, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 2 and "theirs.Model" in done.stderr and "allow=[theirs]" in done.stderr
    assert not (tmp_path / "imported").exists() and not [*tmp_path.glob("*.parquet")]
    done = command(*words, "allow=[theirs,recsys_collapse.model.dcnv2]", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imported").exists() and pl.read_parquet(tmp_path / "clicks-scores.parquet").height == 1200


@pytest.mark.parametrize("damaged", ["result.json", "checkpoints/best.ckpt", "config.yaml", "vocabulary", "no store"])
def test_a_damaged_run_is_named(tmp_path: Path, clicks: Path, damaged: str) -> None:
    copied = copy_of(clicks, tmp_path)
    (store,) = (tmp_path / "outputs" / "stores").glob("clicks-v*")
    if damaged == "no store":
        shutil.rmtree(store)
        config = OmegaConf.load(copied / "config.yaml")
        config.store_dir = str(tmp_path / "gone")
        OmegaConf.save(config, copied / "config.yaml")
    else:
        path = store / "vocabulary.parquet" if damaged == "vocabulary" else copied / damaged
        path.write_bytes(b"model: [" if damaged == "config.yaml" else path.read_bytes()[:-40])
    words = [f"run={copied}", f"input={its_file(clicks)}", f"predict.store_dir={tmp_path / 'outputs' / 'stores'}"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert ("predict.store_dir" if damaged == "no store" else Path(damaged).name) in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_another_machine_is_named(tmp_path: Path, clicks: Path, caplog) -> None:
    caplog.set_level("INFO")
    copied = copy_of(clicks, tmp_path)
    result = load_run(copied).result
    assert result["environment"]["threads"] == 1
    environment = result["environment"] | {"torch": "1.0", "python": "2.7"}
    write_result(copied, {k: v for k, v in result.items() if k != "checksum"} | {"environment": environment})
    scored(copied, tmp_path / "s.parquet", f"input={its_file(clicks)}", "predict.threads=2")
    (line,) = [record.getMessage() for record in caplog.records if "last bits" in record.getMessage()]
    assert ", then 1.0" in line and "threads 2, then 1" in line and "2.7" not in line


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Eight times the rows, in a process of its own; with small blocks, so that few rows fill what is held at once."""
    run_dir = clicks_run(tmp_path, "model=dnn", "model.backbone.hidden_sizes=[8,8]")
    header, rows = rows_of(tmp_path / "clicks.csv")
    long = [[*row, "x" * 100] for row in rows]
    code = "from functools import partial; from recsys_collapse import predict, score, scoring; "
    code += "score.score_pieces = partial(score.score_pieces, at_once=1 << 14); scoring.ROWS_OF_A_PIECE = 1 << 14; "
    code += "assert predict.main() == 0; "
    code += "print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1])"
    peaks = []
    for times in (50, 400):
        path = write_rows(tmp_path / f"{times}.csv", [*header, "more"], long * times)
        words = [f"run={run_dir}", f"input={path}", f"output={tmp_path / f'{times}.parquet'}", "dataset.block_mib=1"]
        environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]) * 1024)
        assert "AUC        0." in done.stdout
        assert pl.scan_parquet(tmp_path / f"{times}.parquet").select(pl.len()).collect().item() == 1200 * times
    assert peaks[1] - peaks[0] < 40 * 1200 * 350, (
        peaks
    )  # bytes: less than 40 for each further row, of which one has 110


@pytest.mark.parametrize("way", ["inside", "by name", "link", "up"])
def test_a_run_can_be_named_from_anywhere(tmp_path: Path, clicks: Path, monkeypatch, way: str) -> None:
    """Also when the folder of stores in its config is relative and another one now."""
    config = OmegaConf.load(clicks / "config.yaml")
    copied = tmp_path / "outputs" / "runs" / clicks.name
    shutil.copytree(clicks.parents[1], tmp_path / "outputs")
    config.store_dir = "elsewhere"  # type: ignore[union-attr]
    OmegaConf.save(config, copied / "config.yaml")
    (tmp_path / "link").symlink_to(copied)
    (tmp_path / "deep").mkdir()
    folder, run = {
        "inside": (copied, "."),
        "by name": (copied.parent, clicks.name),
        "link": (tmp_path, "link"),
        "up": (tmp_path / "deep", "../link"),
    }[way]
    monkeypatch.chdir(folder)
    found = scored(Path(run), tmp_path / "s.parquet", f"input={its_file(clicks)}")
    assert found.height == 1200


def test_the_store_itself_may_be_named(tmp_path: Path, clicks: Path) -> None:
    store = load_run(clicks).store.path
    for folder in (store, store.parent):
        name = f"{folder.name}.parquet"
        scored(clicks, tmp_path / name, f"input={its_file(clicks)}", f"predict.store_dir={folder}")
    with pytest.raises(ValueError, match=r"is not in /.*: predict.store_dir= .* says where"):
        scored(clicks, tmp_path / "s.parquet", f"input={its_file(clicks)}", f"predict.store_dir={tmp_path}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(("threads", value, "an integer of 1 or more") for value in ("abc", -4, True, 1.5)),
        *(("eval_batch_size", value, "an integer of 1 or more") for value in (0, "x", None)),
        *(("precision", value, "one of 32-true") for value in ([1], "16", None)),
    ],
)
def test_a_config_that_was_tampered_with(tmp_path: Path, clicks: Path, key: str, value, expected: str) -> None:
    shutil.copytree(clicks.parents[1], tmp_path / "outputs")
    path = tmp_path / "outputs" / "runs" / clicks.name / "config.yaml"
    config = OmegaConf.load(path)
    config.trainer[key] = value  # type: ignore[union-attr]
    OmegaConf.save(config, path)
    with pytest.raises(ValueError, match=rf"config\.yaml: trainer\.{key}=.*: expected {expected}"):
        scored(path.parent, tmp_path / "s.parquet", f"input={its_file(clicks)}")


def test_labels_need_not_be_read(tmp_path: Path, clicks: Path) -> None:
    header, rows = rows_of(its_file(clicks))
    rows[3][header.index("click")] = ""
    path = write_rows(tmp_path / "a.csv", header, rows)
    with pytest.raises(ValueError, match=r"to score without labels: dataset\.label=none"):
        scored(clicks, tmp_path / "s.parquet", f"input={path}")
    found = scored(clicks, tmp_path / "s.parquet", f"input={path}", "dataset.label=none")
    assert found.columns == ["row_id", "logit", "probability"] and found.height == 1200


def test_export_by_the_command(tmp_path: Path, clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a folder named after run and format; once more only if told to; the model gives the run's own scores."""
    assert tuple(FILES) == EXPORTS
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict", f"run={clicks}", "predict.export=safetensors"])
    assert predict.main() == 0
    folder = tmp_path / f"{clicks.name}-safetensors"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "card.json", "model.safetensors", "vocabulary.parquet"
    }  # fmt: skip
    model, scores = load(folder), pl.read_parquet(clicks / "test_scores.parquet")
    store = load_run(clicks).store
    with torch.inference_mode():
        logit_n = model(store.ids[torch.tensor(scores["row_id"].to_numpy())])
    torch.testing.assert_close(logit_n, torch.tensor(scores["logit"].to_numpy()))
    assert predict.main() == 2
    monkeypatch.setattr(sys, "argv", [*sys.argv, "predict.overwrite=true"])
    assert predict.main() == 0


@pytest.mark.slow
def test_an_export_says_one_line(tmp_path: Path, clicks: Path) -> None:
    """What torch and its helpers remark on graphs is nothing for the user."""
    done = command(f"run={clicks}", "predict.export=onnx", "output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line == "exported   out: README.md, card.json, model.onnx, vocabulary.parquet"
    wrong = command(f"run={clicks}", "predict.export=onnx", "output=out/card.json/x", cwd=tmp_path)
    assert wrong.returncode == 2 and "card.json is not a folder one can write to" in wrong.stderr
