"""The command `diagnose`, from a file to the table, the JSON and the page."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recsys_collapse.diagnose.__main__ import main
from recsys_collapse.diagnose.options import parser
from recsys_collapse.diagnose.truncation.of_run import ROWS
from recsys_collapse.diagnose.truncation.truncate import TOLERANCE
from tests.predicting import clicks_run


class Shop(nn.Module):
    """Somebody's own model: names that no library has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user_table, self.item_table = nn.Embedding(300, 8), nn.Embedding(200, 8)
        self.weights = nn.Linear(16, 1)
        with torch.no_grad():
            self.item_table.weight.mul_(torch.tensor([1.0] + [0.01] * 7))


def diagnosed(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[dict[str, Any], str, Path]:
    """The JSON, what was printed, and the page of a diagnosis that succeeds."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    paths = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith(("page ", "numbers ")))
    return json.loads(Path(paths["numbers"]).read_text()), out, Path(paths["page"])


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The message of a diagnosis that is refused."""
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    words = ["model=dcnv2", "scale=2", "callback=spectrum"]
    return [clicks_run(folder, *words, f"embed={embed}") for embed in ("se", "me")]


def test_a_state_dict_of_a_plain_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Shop()
    torch.save(model.state_dict(), "shop.pt")
    message = refused(capsys, "shop.pt")
    assert "user_table.weight (300, 8)" in message and "--tables" in message
    found, out, page = diagnosed(capsys, "shop.pt", "--tables", r"(?P<field>\w+)_table\.weight")
    assert [one["field"] for one in found["fields"]] == ["item", "user"]
    sigma = np.linalg.svd(model.item_table.weight.detach().double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found["fields"][0]["spectrum"], sigma, rtol=1e-8)
    assert [one["verdict"] for one in found["fields"]] == ["strongly collapsed", "spread out"]
    assert (
        "1 of 2 fields collapsed" in out
        and "strongly collapsed" in out
        and "300" in out
        and "\N{REPLACEMENT CHARACTER}" not in out
    )
    assert "item" in page.read_text() and found["schema"] == 1
    assert "--tables" in found["made_by"]["command"]
    assert page == Path("diagnosis/shop/diagnosis.html")


def test_a_lightning_checkpoint_says_its_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"net.{name}": tensor for name, tensor in Shop().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer_states": [{"exp_avg": torch.ones(300, 8)}]}, "e3.ckpt")
    found, out, _ = diagnosed(capsys, "e3.ckpt", "--tables", r"net\.(?P<field>\w+)_table\.weight")
    assert found["checkpoint"]["label"] == "e3.ckpt, epoch 3" and "e3.ckpt, epoch 3" in out


def test_safetensors(capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    save_file({"embedding_dict.user.weight": torch.randn(50, 4)}, "weights.safetensors")
    found, out, _ = diagnosed(capsys, "weights.safetensors")
    assert found["checkpoint"]["format"] == "safetensors" and found["checkpoint"]["layout"] == "DeepCTR-Torch"
    assert "DeepCTR-Torch" in out


@pytest.mark.parametrize("number", [0, 1])
def test_a_run_of_this_project_has_the_numbers_that_it_recorded(
    number: int, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = runs[number]
    found, _, _ = diagnosed(capsys, run_dir)
    assert found["checkpoint"]["layout"] == "recsys_collapse, a run"
    result = json.loads((run_dir / "result.json").read_text())
    recorded = result["information_abundance"]
    assert {one["field"] for one in found["fields"]} == {*recorded} == {"user", "item", "site"}
    for one in found["fields"]:
        assert one["information_abundance"] == pytest.approx(recorded[one["field"]]["whole"], rel=1e-9)
        assert one["random"] == pytest.approx(recorded[one["field"]]["random"], rel=1e-9)
        per_set = [own["information_abundance"] for own in one["per_set"]]
        assert per_set == pytest.approx(recorded[one["field"]]["per_set"] if number else [], rel=1e-9)
    same, _, _ = diagnosed(capsys, run_dir / "checkpoints" / "best.ckpt")
    assert same["fields"] == found["fields"]


def test_an_export_of_this_project(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recsys_collapse import predict
    from recsys_collapse.launch.plan import compose_jobs

    words = [f"run={runs[1]}", "predict.export=safetensors", f"output={tmp_path / 'export'}"]
    configs = compose_jobs(words, "predict")
    assert configs is not None
    predict._act(configs[0])
    capsys.readouterr()
    found, _, _ = diagnosed(capsys, tmp_path / "export" / "model.safetensors")
    assert found["checkpoint"]["layout"] == "recsys_collapse, an export"
    of_run, _, _ = diagnosed(capsys, runs[1])
    assert found["fields"] == of_run["fields"]


def test_earlier_checkpoints_make_a_curve(capsys: pytest.CaptureFixture[str]) -> None:
    model = Shop()
    for epoch, factor in enumerate([1.0, 0.5, 0.1]):
        with torch.no_grad():
            model.user_table.weight[:, 1:].mul_(factor)
        torch.save({"epoch": epoch, "state_dict": model.state_dict()}, f"e{epoch}.ckpt")
    tables = ["--tables", r"(?P<field>\w+)_table\.weight"]
    found, out, page = diagnosed(capsys, "e2.ckpt", "--against", "e0.ckpt", "e1.ckpt", *tables)
    curve = [one["fields"]["user"]["relative"] for one in found["against"]]
    curve.append(next(one["relative"] for one in found["fields"] if one["field"] == "user"))
    assert curve == sorted(curve, reverse=True) and curve[0] > 0.9 and curve[2] < 0.3
    assert [one["label"] for one in found["against"]] == ["e0.ckpt, epoch 0", "e1.ckpt, epoch 1"]
    assert "IA / random beside other checkpoints" in out and "e1.ckpt, epoch 1" in page.read_text()


def test_counts_leave_out_rows_that_training_has_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"embedding_dict.a.weight": torch.randn(40, 4)}, "a.pt")
    Path("counts.csv").write_text("field,id,count\n" + "".join(f"a,{i},{i % 2}\n" for i in range(40)))
    found, out, _ = diagnosed(capsys, "a.pt", "--counts", "counts.csv")
    assert (found["fields"][0]["seen_rows"], found["fields"][0]["rows"]) == (20, 40)
    assert "20 of 40" in out and "Only rows that training has seen count" in found["limits"][0]
    found, _, _ = diagnosed(capsys, "a.pt", "--counts", "counts.csv", "--frequency")
    assert "Rows count as often as training has seen them" in found["limits"][0]
    torch.save({"embedding_dict.a.weight": torch.randn(50, 4)}, "more.pt")
    assert "field a has 50 rows in" in refused(capsys, "a.pt", "--against", "more.pt", "--counts", "counts.csv")
    assert "no seen id of a" in refused(capsys, "a.pt", "--counts", write("other.csv", "field,id\nb,1\n"))


FIELDS = ("user", "item", "site")


def write(name: str, content: str) -> Path:
    Path(name).write_text(content)
    return Path(name)


def test_runs_with_their_truncation_curves(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found, out, page = diagnosed(capsys, "--run", *runs, "--fields", "user", "--ranks", "0,1,5,20")
    assert [one["label"] for one in found["truncation"]] == [run.name for run in runs]
    for one, run_dir in zip(found["truncation"], runs, strict=True):
        scores = pl.read_parquet(run_dir / "valid_scores.parquet")
        result = json.loads((run_dir / "result.json").read_text())
        assert (one["rows"], one["split"]) == (len(scores), "valid")
        assert one["auc"] == pytest.approx(result["val_auc"], abs=1e-12)
        curves = {(curve["curve"], curve["field"]): curve["points"] for curve in one["curves"]}
        expected = {("all fields", None), ("field", "user")} | (
            {("each set", None)} if "-me-" in run_dir.name else set()
        )
        assert curves.keys() == expected
        assert [point["rank"] for point in curves["all fields", None]] == [0, 1, 5, 20]
        assert curves["all fields", None][0]["auc"] == 0.5
        assert curves["all fields", None][-1]["auc"] == one["auc"]
        assert one["together"] is None  # only one field has a curve of its own
    assert [one["label"].partition(",")[0] for one in found["against"]] == [runs[1].name]
    assert "AUC after truncation" in out and "all fields" in page.read_text()
    assert any("without retraining" in one for one in found["limits"])


def test_a_model_of_ones_own_is_scored_by_ones_own_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Shop().state_dict(), "shop.pt")
    Path("shop_scoring.py").write_text(
        "import torch\n"
        "def score(tables):\n"
        "    assert {'user_table.weight', 'item_table.weight', 'weights.bias'} <= set(tables)\n"
        "    generator = torch.Generator().manual_seed(0)\n"
        "    ids = torch.randint(200, (500,), generator=generator)\n"
        "    value = tables['item_table.weight'][ids, 0]\n"
        "    return value, torch.arange(500) % 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--tables", r"(?P<field>\w+)_table\.weight", "--score", "shop_scoring:score"]
    found, _, _ = diagnosed(capsys, "shop.pt", *words)
    (one,) = found["truncation"]
    assert (one["label"], one["rows"], one["split"]) == ("shop.pt", 500, None)
    assert {curve["field"] for curve in one["curves"]} == {None, "user", "item"}
    needed = {curve["field"]: curve["needed"] for curve in one["curves"] if curve["field"]}
    assert one["together"]["ranks"] == needed
    fewer = next(advice for advice in found["advice"] if advice["title"].startswith("Fewer"))
    assert fewer["evidence"].startswith("Measured for 2 of 2 fields on 500 rows") and "at once" in fewer["evidence"]
    assert f"item 8 to {needed['item']}" in fewer["text"]
    assert "shop_scoring:nothing" in refused(capsys, "shop.pt", *words[:3], "shop_scoring:nothing", "--output", "x")
    assert not Path("x").exists()
    assert "no field shop; expected" in refused(capsys, "shop.pt", *words, "--fields", "shop", "--output", "x/y")
    write("failing_scoring.py", "def score(tables):\n    raise KeyError('broken')\n")
    assert "broken" in refused(capsys, "shop.pt", *words[:3], "failing_scoring:score", "--output", "x/y")
    assert not Path("x").exists()


def test_another_diagnosis_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = ["--tables", r"(?P<field>\w+)_table\.weight"]
    for name in ("a", "b"):
        Path(name).mkdir()
        torch.save(Shop().state_dict(), f"{name}/shop.pt")
    diagnosed(capsys, "a/shop.pt", *tables)
    Path("link.pt").symlink_to("a/shop.pt")
    for same in ("a/shop.pt", "b/../a/shop.pt", "link.pt"):  # is replaced
        diagnosed(capsys, same, *tables, "--output", "diagnosis/shop")
    before = Path("diagnosis/shop/diagnosis.json").read_bytes()
    assert "a/shop.pt: choose another folder by --output" in refused(capsys, "b/shop.pt", *tables)
    monkeypatch.chdir("b")  # where the same name is another file
    assert "a/shop.pt: choose another" in refused(capsys, "shop.pt", *tables, "--output", "../diagnosis/shop")
    monkeypatch.chdir("..")
    Path("mine").mkdir()
    Path("mine/diagnosis.json").write_text('{"checkpoint": {"path": 5}}')
    assert "is there, and no diagnosis" in refused(capsys, "b/shop.pt", *tables, "--output", "mine")
    Path("mine/diagnosis.json").write_text("{}")
    assert "is there, and no diagnosis" in refused(capsys, "b/shop.pt", *tables, "--output", "mine")
    assert Path("mine/diagnosis.json").read_text() == "{}"
    assert Path("diagnosis/shop/diagnosis.json").read_bytes() == before
    diagnosed(capsys, "b/shop.pt", *tables, "--output", "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a CHECKPOINT, or --run RUN"),
        (["a.pt", "--run", "b"], "expected a CHECKPOINT, or --run RUN"),
        (["--run", "b", "--score", "a:b"], "leave --score out"),
        (["none.pt"], "none.pt"),
        (["."], "expected a checkpoint file or the directory of a run"),
        (["none.pt", "--cardinalities", "x"], "expected numbers such as 7,40,3"),
        (["none.pt", "--ranks", "1"], "--ranks: only with truncation"),
        (["none.pt", "--fields", "a", "--rows", "9"], "--fields, --rows: only with truncation"),
        (["none.pt", "--score", "a:b", "--rows", "9"], "chooses its rows"),
        (["none.pt", "--frequency"], "--frequency: only with --counts"),
        (["none.pt", "--allow", "x"], "--allow, --store-dir: only with --run"),
        (["--run", "r", "--tolerance", "-1"], "--tolerance -1.0: expected"),
        (["--run", "r", "--rows", "0"], "--rows 0: expected"),
        (["--run", "r", "--ranks", "a"], "--ranks a: expected integers"),
        (["none.pt", "--sets", "0"], "--sets 0: expected the number of embedding sets"),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *words)
    assert not Path("diagnosis").exists()


HOSTILE = {
    "empty.pt": b"",
    "text.ckpt": b"epoch,auc\n1,0.7\n",
    "cut.safetensors": b"\x40\x00\x00\x00\x00\x00\x00\x00{",
    "code.pt": b"cos\nsystem\n(S'touch trace'\ntR.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_no_checkpoints_end_in_an_error_and_leave_no_trace(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(HOSTILE[name])
    for more in ([], ["--skip-objects"]):
        assert name in refused(capsys, name, *more)
    assert [path.name for path in Path().iterdir()] == [name]


def test_a_place_that_cannot_be_written_is_noticed_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"embedding_dict.a.weight": torch.randn(40, 4)}, "a.pt")
    write("file", "")
    monkeypatch.setattr("recsys_collapse.diagnose.diagnosis.measure_fields", lambda *args: pytest.fail("measured"))
    assert "Not a directory" in refused(capsys, "a.pt", "--output", "file/below")


def test_a_run_without_its_measurements_must_be_told_where_fields_begin(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unfinished run, or one with other callbacks: never one table of all fields."""
    copy = tmp_path / "runs" / "copy"
    shutil.copytree(runs[1], copy)
    (copy / "collapse.parquet").unlink()
    message = refused(capsys, copy)
    assert "backbone.embedding.weight holds all fields below each other" in message and "--cardinalities" in message
    whole, _, _ = diagnosed(capsys, runs[1])
    rows = {one["field"]: one["rows"] for one in whole["fields"]}
    sizes = write("sizes.json", json.dumps({field: rows[field] for field in FIELDS}))
    found, _, _ = diagnosed(capsys, copy, "--cardinalities", sizes)
    assert found["fields"] == whole["fields"]
    one, _, _ = diagnosed(capsys, runs[1], "--cardinalities", "whole", "--output", "whole")
    assert [field["rows"] for field in one["fields"]] == [sum(rows.values())]
    monkeypatch.chdir(runs[1])
    found, _, _ = diagnosed(capsys, ".", "--output", tmp_path / "here")
    assert found["checkpoint"]["label"].startswith(f"{runs[1].name}, epoch")


def test_other_folders_with_a_config_are_none_of_our_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """As LightningCLI leaves them."""
    Path("version_0/checkpoints").mkdir(parents=True)
    write("version_0/config.yaml", "seed_everything: 0\nmodel: {}\n")
    torch.save({"state_dict": {"backbone.embedding.weight": torch.randn(40, 4)}}, "version_0/checkpoints/epoch=1.ckpt")
    found, out, _ = diagnosed(capsys, "version_0/checkpoints/epoch=1.ckpt")
    assert found["checkpoint"]["layout"] == 'names with "emb", a guess'
    assert "One table, spread out: if fields lie below each other in it, --cardinalities cuts it" in out


def test_checkpoints_without_a_field_in_common(capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        torch.save({f"embedding_dict.{name}.weight": torch.randn(40, 4)}, f"{name}.pt")
    assert "b.pt: has no field of" in refused(capsys, "a.pt", "--against", "b.pt")


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["\x1b]0;owned\x07", "[red]x[/]", ":smiley:", "[/x]", "a" * 500]
    torch.save({f"embedding_dict.{name}.weight": torch.randn(40, 4) for name in names}, "a.pt")
    found, out, _ = diagnosed(capsys, "a.pt")
    assert {one["field"] for one in found["fields"]} == {*names}
    assert "\x1b" not in out and "\x07" not in out and "[red]x[/]" in out and ":smiley:" in out and "a" * 61 not in out
    torch.save({"\x1b[2J": torch.ones(3)}, "b.pt")
    torch.save({"\x1b[2J": torch.ones(3, 4)}, "c.pt")
    for name in ("b.pt", "c.pt"):
        assert "\x1b" not in refused(capsys, name)


def test_a_checkpoint_without_tables(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.bias": torch.ones(3)}, "bias.pt")
    assert "No tensor has two dimensions" in refused(capsys, "bias.pt")


def test_help_shows_every_option_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    for option in ("--tables", "--cardinalities", "--against", "--run", "--score", "--skip-objects", "--output"):
        assert option in text
    assert f"({ROWS})" in text and f"({TOLERANCE})" in text  # said there without importing torch
    assert "examples:" in text and all(line.isascii() for line in text.splitlines())
