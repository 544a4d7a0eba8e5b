"""The recipes and `python -m recsys_collapse.prepare`: every number it shows, counted again by hand."""

import hashlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from recsys_collapse.build import build
from recsys_collapse.config import config_dir, register
from recsys_collapse.dataset import report
from recsys_collapse.dataset import store as store_module
from recsys_collapse.dataset.source import PARTS, Source
from recsys_collapse.dataset.store import Store, prepare
from tests.cli import run
from tests.recipe_files import (
    AVAZU,
    CRITEO,
    avazu_fields,
    avazu_rows,
    avazu_x4_fields,
    criteo_fields,
    criteo_rows,
    criteo_x4_fields,
    ids,
    read_table,
    write_table,
)

REAL = Path(__file__).parents[2] / "shared" / "data"
RECIPES = sorted(path.stem for path in (config_dir() / "dataset").glob("*.yaml"))


def command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(*words, cwd=cwd, module="recsys_collapse.prepare", **environment)


def source(name: str, *words: str) -> Source:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return build(compose("config", [f"dataset={name}", *words]).dataset, "dataset")


def x4_files(folder: Path, name: str) -> str:
    """Three given files; returns the override that names their folder."""
    rows, header = (criteo_rows(60), ["Label", *CRITEO[1:]]) if name == "criteo_x4" else (avazu_rows(60), AVAZU)
    for part, own in zip(PARTS, (rows[:40], rows[40:50], rows[50:]), strict=True):
        write_table(folder / f"{part}.csv", own, header, ",")
    return f"dataset.dir={folder}"


def check(store: Store, fields: dict[str, list[str]], labels: list[str], min_count: int, counted: list[int]) -> None:
    """Everything in a store and its manifest against an independent count."""
    assert store.fields == list(fields)
    manifest = store.manifest()
    assert store.labels.tolist() == [int(label) for label in labels]
    assert manifest["positives"] == {p: sum(int(labels[row]) for row in rows) for p, rows in store.splits.items()}
    for i, (name, column) in enumerate(fields.items()):
        expected = ids(column, [column[row] for row in counted], min_count)
        assert store.ids[:, i].tolist() == expected, name
        assert store.cardinalities[i] == max(expected) + 1
        rare = {part: sum(expected[row] == 0 for row in rows) / len(rows) for part, rows in store.splits.items()}
        assert manifest["id_0_rate"][name] == pytest.approx(rare)


@pytest.mark.parametrize("name", ["criteo", "avazu"])
def test_recipes_of_the_paper(tmp_path: Path, name: str) -> None:
    """Vocabulary over all rows, the official split."""
    if name == "criteo":
        path, header, delimiter = write_table(tmp_path / "train.txt", criteo_rows(400), None, "\t"), CRITEO, "\t"
    else:
        path, header, delimiter = write_table(tmp_path / "train", avazu_rows(400), AVAZU, ","), None, ","
    check_recipe(tmp_path, name, path, header, delimiter, [])


def check_recipe(
    tmp_path: Path, name: str, path: Path, header: list[str] | None, delimiter: str, words: list[str]
) -> Store:
    made = source(name, f"dataset.path={path}", *words)
    store = prepare(made, tmp_path / "stores", 0)
    columns = read_table(path, header, delimiter)
    fields = (criteo_fields if name == "criteo" else avazu_fields)(columns)
    rows = len(next(iter(columns.values())))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).tolist()
    assert [row for part in PARTS for row in store.splits[part].tolist()] == order
    assert len(store.splits["train"]) == int(0.8 * rows)
    label = columns["label" if name == "criteo" else "click"]
    check(store, fields, label, made.min_count, list(range(rows)))
    return store


@pytest.mark.parametrize(("name", "file"), [("criteo", "criteo_sample.tsv"), ("avazu", "avazu_sample.csv")])
def test_recipes_of_the_paper_on_real_rows(tmp_path: Path, name: str, file: str) -> None:
    if not (REAL / file).is_file():
        pytest.skip(f"{REAL / file} is not here; it is not part of the project")
    words = (CRITEO, "\t") if name == "criteo" else (None, ",")
    store = check_recipe(tmp_path, name, REAL / file, *words, ["dataset.min_count=2"])
    assert len(store.fields) == (39 if name == "criteo" else 22)


@pytest.mark.parametrize("name", ["criteo_x4", "avazu_x4"])
def test_recipes_of_bars(tmp_path: Path, name: str) -> None:
    """Given parts, vocabulary over the training rows, FuxiCTR's buckets."""
    made = source(name, x4_files(tmp_path, name), "dataset.md5=null")
    store = prepare(made, tmp_path / "stores", 0)
    parts = [read_table(tmp_path / f"{part}.csv", None, ",") for part in PARTS]
    columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    fields = (criteo_x4_fields if name == "criteo_x4" else avazu_x4_fields)(columns)
    assert [rows.tolist() for rows in store.splits.values()] == [[*range(40)], [*range(40, 50)], [*range(50, 60)]]
    assert len(store.fields) == (39 if name == "criteo_x4" else 24)
    check(store, fields, columns["Label" if name == "criteo_x4" else "click"], made.min_count, list(range(40)))


def test_given_files_must_be_the_published_ones(tmp_path: Path) -> None:
    folder = x4_files(tmp_path, "criteo_x4")
    found = hashlib.md5((tmp_path / "train.csv").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"train.csv: MD5 {found}, expected 4a53bb7.*not the published file"):
        prepare(source("criteo_x4", folder), tmp_path / "stores", 0)
    with pytest.raises(ValueError, match="not the published file"):  # also where a store of it exists
        prepare(source("criteo_x4", folder, "dataset.md5=null"), tmp_path / "stores", 0)
        prepare(source("criteo_x4", folder), tmp_path / "stores", 0)
    with pytest.raises(ValueError, match=r"dataset\.md5\.train: expected one of path"):
        prepare(
            source("table", "dataset.label=y", f"dataset.path={tmp_path / 'train.csv'}", "dataset.md5={train: a}"),
            tmp_path / "stores",
            0,
        )
    words = [f"dataset.md5.{part}={hashlib.md5((tmp_path / f'{part}.csv').read_bytes()).hexdigest()}" for part in PARTS]
    assert len(prepare(source("criteo_x4", folder, *words), tmp_path / "stores", 0).labels) == 60


def test_a_recipe_is_part_of_the_store(tmp_path: Path) -> None:
    """The same file under other recipes, and other versions of one, are other stores, and their names say so."""
    path = write_table(tmp_path / "train.txt", criteo_rows(60), None, "\t")
    made = source("criteo", f"dataset.path={path}")
    names = {prepare(made, tmp_path / "stores", 0).path.name}
    assert re.fullmatch(r"criteo-v3-[0-9a-f]{16}", next(iter(names)))
    for word in ("dataset.min_count=2", "dataset.vocabulary=train", "dataset.buckets.I3=log_squared_bars"):
        names.add(prepare(source("criteo", f"dataset.path={path}", word), tmp_path / "stores", 0).path.name)
    type(made).version += 1
    try:
        names.add(prepare(made, tmp_path / "stores", 0).path.name)
    finally:
        type(made).version -= 1
    assert len(names) == 5
    assert sum(name.startswith("criteo-v4-") for name in names) == 1


def test_time_split(tmp_path: Path) -> None:
    """The earliest rows train, the latest test, ties in file order; the time is no field unless it is asked for."""
    hours = [3, 1, 2, 2, 10, 9, 1, 5, 4, 7, 7, 6, 2, 8, 11, 1, 3, 3, 2, 2]
    lines = [f"{i % 3 // 2},{hour},a{i}" for i, hour in enumerate(hours)]
    (tmp_path / "t.csv").write_text("y,hour,a\n" + "\n".join(lines) + "\n")
    words = [f"dataset.path={tmp_path / 't.csv'}", "dataset.label=y", "dataset.time=hour"]
    store = prepare(source("table", *words), tmp_path, 0)
    order = sorted(range(20), key=lambda row: hours[row])
    assert [store.splits[part].tolist() for part in PARTS] == [order[:16], order[16:18], order[18:]]
    assert store.fields == ["a"]
    assert prepare(source("table", *words, "dataset.features=[a,hour]"), tmp_path, 0).fields == ["a", "hour"]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2014-10-21", "2013-01-01", "2014-01-30"], [1, 2, 0]),
        (["1e3", "-5", "20"], [1, 2, 0]),
        (["9007199254740993", "9007199254740992", "9007199254740994"], [1, 0, 2]),
        (["2024-01-01 00:00:00.5", "2024-01-01 00:00", "2024-01-01T00:00:00.05"], [1, 2, 0]),
        (["2024-10-27 02:10:00+01:00", "2024-10-27 02:50:00+02:00", "2024-10-27T00:30Z"], [2, 1, 0]),
    ],
)
def test_times_are_numbers_or_text(times: list[str], expected: list[int]) -> None:
    import polars as pl

    from recsys_collapse.dataset.split import time_ranks

    assert time_ranks(pl.Series(times)).argsort().tolist() == expected
    numbers, text = [["1", ""], ["1", "soon"], ["1", "nan"]], [["10/1/2014", "10/30/2014"], ["v0", "v1"]]
    iso = [["2024-02-30", "2024-01-01"], ["2024-01-01 01:05 PM", "2024-01-01"], ["2024-01-01 00:00Z", "2024-01-01"]]
    for wrong in [*numbers, *text, *iso]:
        with pytest.raises(ValueError, match=r"dataset\.time"):
            time_ranks(pl.Series(wrong))


def test_hashing_bounds_the_cardinality(tmp_path: Path) -> None:
    """Only fields above the limit are hashed; id 0 stays that of rare values; the hash does not change between runs."""
    rows = "".join(f"{i % 2},u{i // 2},{i % 3}\n" for i in range(200))
    (tmp_path / "t.csv").write_text("y,user,b\n" + rows + "0,once,0\n")
    words = [f"dataset.path={tmp_path / 't.csv'}", "dataset.label=y", "dataset.vocabulary=all", "dataset.min_count=2"]
    plain = prepare(source("table", *words), tmp_path, 0)
    store = prepare(source("table", *words, "dataset.hashed_cardinality=8"), tmp_path, 0)
    assert (plain.cardinalities, store.cardinalities) == ([101, 4], [8, 4])
    assert torch.equal(plain.ids[:, 1], store.ids[:, 1])
    assert set(store.ids[:, 0].tolist()) == set(range(8))
    assert torch.equal(store.ids[:, 0] == 0, plain.ids[:, 0] == 0)
    digests = [hashlib.blake2b(f"u{i}".encode(), digest_size=8).digest() for i in range(4)]
    assert store.ids[:8:2, 0].tolist() == [1 + int.from_bytes(digest, "little") % 7 for digest in digests]


def test_the_command_shows_what_was_counted(tmp_path: Path) -> None:
    path = write_table(tmp_path / "train.txt", criteo_rows(400), None, "\t")
    words = ["dataset=criteo", f"dataset.path={path}"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/stores/criteo-v3-*/")
    manifest = json.loads((folder / "manifest.json").read_text())
    sizes = manifest["cardinalities"]
    for shown in ("400", "39", f"{sum(sizes):,}", f"{max(sizes)}", f"{min(sizes)}", "320", "train", "D_i"):
        assert shown in done.stdout
    for i, name in enumerate(manifest["fields"]):
        rates = " ".join(f"{manifest['id_0_rate'][name][part]:.2%}" for part in PARTS)
        row = f"{name} {sizes[i]} {manifest['distinct_values'][name]} {rates}"
        assert row in re.sub(r"[│\s]+", " ", done.stdout)
    assert "differs    rows: 400 here, 45.8M in the paper, Table 2" in done.stdout
    assert Path(f"{folder}.png").stat().st_size > 5000
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert command(*words, cwd=tmp_path).stdout == done.stdout.partition("\n")[2]
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before, "it was prepared again"


@pytest.mark.parametrize("name", ["criteo", "avazu"])
def test_run_prepares_by_itself(tmp_path: Path, name: str) -> None:
    rows = criteo_rows(300) if name == "criteo" else avazu_rows(300)
    header, delimiter = (None, "\t") if name == "criteo" else (AVAZU, ",")
    path = write_table(tmp_path / "train.txt", rows, header, delimiter)
    small = ["dataset.min_count=2", "trainer.max_epochs=2", "model.backbone.hidden_sizes=[8,8]", "logger=local"]
    done = run(f"dataset={name}", f"dataset.path={path}", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("outputs/runs/*/result.json")
    assert json.loads(result.read_text())["dataset"] == name
    assert "differs    rows: 300 here" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["dataset=criteo"], ["expected either dataset.path=FILE"]),
        (["dataset=criteo", "dataset.path=gone.txt"], ["dataset.path=gone.txt", "no such file"]),
        (["dataset=criteoo"], ["did you mean dataset=criteo"]),
        (["dataset=criteo", "dataset.path=t.tsv"], ["t.tsv:1: 2 values, expected 40"]),
        (["dataset=criteo", "dataset.path=t.tsv", "dataset.min_cuont=2"], ["did you mean dataset.min_count"]),
        (
            ["dataset=avazu", "dataset.path=t.tsv"],
            ["t.tsv:1: 1 column found", "tab seen 1 times"],
        ),
        (["dataset.name=../../evil"], ["dataset.name=../../evil", "it names files"]),
        (["split_seed=100000000000000000000"], ["split_seed=", "below 2**63"]),
        (["store_dir=t.tsv"], ["store_dir=t.tsv", "choose another store_dir"]),
        (["store_dir=t.tsv/x"], ["store_dir=t.tsv/x", "choose another store_dir"]),
    ],
)
def test_a_wrong_command_says_what_is_wrong(tmp_path: Path, words: list[str], named: list[str]) -> None:
    (tmp_path / "t.tsv").write_text("1\tx\n0\ty\n")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [word for word in named if word not in done.stderr] == [], done.stderr
    assert list(tmp_path.glob("outputs/stores/*-v*")) == []


@pytest.mark.slow
def test_the_advice_on_delimiters_can_be_pasted(tmp_path: Path) -> None:
    for name, sign in {"semicolon": ";", "comma": ",", "space": " "}.items():
        file = tmp_path / f"{name}.{'csv' if name != 'comma' else 'tsv'}"
        file.write_text("".join(f"{sign.join(row)}\n" for row in [("y", "a"), *([("0", "u"), ("1", "v")] * 20)]))
        words = ["dataset=table", f"dataset.path={file.name}", "dataset.label=y", f"output_dir={name}"]
        advice = re.search(r"set (dataset\.delimiter=\S+)", command(*words, cwd=tmp_path).stderr)
        assert advice is not None
        assert command(*words, *shlex.split(advice[1]), cwd=tmp_path).returncode == 0


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """Also what rich would take for markup."""
    names = ["[/x]", "price[usd]", "$\\foo$", "1", "[red]id"]
    rows = "".join(f"{i % 2},{i % 3},{i % 5},{i % 3},{i % 4},{i}\n" for i in range(40))
    (tmp_path / "t.csv").write_text(",".join(["y", *names]) + "\n" + rows)
    done = command("dataset=table", "dataset.path=t.csv", "dataset.label=y", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in names)
    assert "\"dataset.ignore=['[red]id']\"" in done.stdout


def test_several_data_sets_in_one_command(tmp_path: Path) -> None:
    """Each once, whatever else the sweep is over; one that cannot be used does not stop the others."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("y,x\n" + "0,u\n1,v\n" * 20)
    words = ["dataset=table", "dataset.label=y", "dataset.path=a.csv,gone.csv,b.csv", "scale=1,2"]
    done = command("-m", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("preparing") == 2 and done.stdout.count("store   ") == 2
    assert done.stderr.count("gone.csv: no such file") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_can_be_used_where_nothing_can_be_written(tmp_path: Path) -> None:
    path = write_table(tmp_path / "train.txt", criteo_rows(60), None, "\t")
    made = source("criteo", f"dataset.path={path}")
    expected = prepare(made, tmp_path / "stores", 0)
    (tmp_path / "stores").chmod(0o555)
    assert torch.equal(prepare(made, tmp_path / "stores", 0).ids, expected.ids)


def test_an_existing_store_needs_no_lock(tmp_path: Path, monkeypatch) -> None:
    path = write_table(tmp_path / "train.txt", criteo_rows(60), None, "\t")
    made = source("criteo", f"dataset.path={path}")
    prepare(made, tmp_path / "stores", 0)
    monkeypatch.setattr(store_module, "exclusive", None)
    assert len(prepare(made, tmp_path / "stores", 0).labels) == 60


def test_help(tmp_path: Path) -> None:
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "dataset: avazu, avazu22, avazu_x4, criteo, criteo39, criteo_x4, mini, synthetic, table, tiny" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_published_statistics_are_compared_as_they_are_rounded() -> None:
    cardinalities = [190_000] * 5 + [4] + [3879] * 33 + [1989]
    manifest = {"rows": 45_840_617, "cardinalities": cardinalities[:39]}
    published = OmegaConf.to_container(OmegaConf.load(config_dir() / "dataset" / "criteo.yaml").published_as)
    assert isinstance(published, dict)
    assert report.differences(manifest, published) == []
    manifest["rows"] = 45_000_000
    assert report.differences(manifest, published) == ["rows: 45,000,000 here, 45.8M in the paper, Table 2"]


def test_warnings_name_what_to_look_at() -> None:
    manifest = {
        "counted_rows": 100, "bad_lines": 3, "distinct_values": {"index": 100, "a": 5, "b": 7},
        "id_0_rate": {"index": {"train": 0, "valid": 1.0, "test": 1.0}, "a": {"train": 0, "valid": 0.19, "test": 0.1},
                      "b": {"train": 0, "valid": 0.1, "test": 0.21}},
    }  # fmt: skip
    index, unseen, bad = report.warnings(manifest)
    assert index.startswith("index: every row has a value of its own")
    assert "index 100%, b 21%" in unseen and "a 19%" not in unseen
    assert bad.startswith("3 lines")
    quiet = manifest | {"bad_lines": 0, "distinct_values": {"a": 5}, "id_0_rate": {"a": manifest["id_0_rate"]["a"]}}
    assert report.warnings(quiet) == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_dataset_says_how_it_is_used(name: str) -> None:
    """Config files are lab notes; options of the base are on the command line for every one of them."""
    text = (config_dir() / "dataset" / f"{name}.yaml").read_text()
    assert f"dataset={name}" in text
    node = OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml")
    if "defaults" not in node:
        assert {"min_count", "vocabulary", "hashed_cardinality", "device_resident"} <= set(node)


def test_a_recipe_of_the_user_is_one_file(tmp_path: Path) -> None:
    """In a folder of their own, on top of `table`."""
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    recipe = {"defaults": ["table", "_self_"], "name": "mine", "label": "y", "buckets": {"price": "quantile:4"}}
    OmegaConf.save(OmegaConf.create(recipe), tmp_path / "conf" / "dataset" / "mine.yaml")
    (tmp_path / "t.csv").write_text("y,price\n" + "".join(f"{i % 2},{i / 4}\n" for i in range(100)))
    done = command("--config-dir", "conf", "dataset=mine", "dataset.path=t.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("outputs/stores/mine-v*/manifest.json")
    assert json.loads(manifest.read_text())["cardinalities"] == [5]
