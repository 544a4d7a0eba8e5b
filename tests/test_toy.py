"""The toy experiment (Figure 4): the simulation against a plain one, its conditions, and what is concluded from it."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from experiments import drawing, fig4, toy, toy_claims
from experiments.claims import decided
from experiments.output import Output
from experiments.toy import COMMON_MEAN, CONDITIONS, LARGE, LOW_RANK, SMALL, SMALL_CENTRED, Condition, Training
from recsys_collapse.launch.signals import Interrupted
from recsys_collapse.spectrum import information_abundance, random_information_abundance, singular_values

SMALL_RUN = ["embed_sizes=[4,6]", "seeds=3", "iterations=6", "every=4"]


def by_autograd(condition: Condition, embed_size: int, training: Training) -> Tensor:
    """E_1 at the end, from 10^4 samples, embedding layers, autograd and torch's SGD."""
    world = toy.draw_world([condition], embed_size, seed=3)
    tables = [nn.Embedding.from_pretrained(e, freeze=True) for e in (world.e1_SAK[0], world.e2_BK, world.e3_SDK[0])]
    tables[0].weight.requires_grad_(True)
    x1_n, x2_n = torch.cartesian_prod(torch.arange(100), torch.arange(100)).T
    x_n3 = [x1_n, x2_n, world.x3_AB.flatten()]
    optimizer = torch.optim.SGD(tables[0].parameters(), lr=training.lr)
    loss_of = nn.BCEWithLogitsLoss(reduction=training.reduction)
    for _ in range(training.iterations):
        e1, e2, e3 = (table(x_n) for table, x_n in zip(tables, x_n3, strict=True))
        h_n = (e1 * e2).sum(1) + (e1 * e3).sum(1) + (e2 * e3).sum(1) * condition.offset
        optimizer.zero_grad()
        loss_of(h_n, world.y_AB.flatten()).backward()
        optimizer.step()
    return tables[0].weight.detach()


def trained(conditions: list[Condition], embed_size: int, training: Training, seed: int = 3) -> Tensor:
    *_, (_, e1_SAK) = toy.train(toy.draw_world(conditions, embed_size, seed), training)
    return e1_SAK


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_it_is_the_plain_simulation(condition: Condition) -> None:
    training = Training(iterations=3, lr=50.0, dtype=torch.float64)  # steps that move every row
    expected = by_autograd(condition, 6, training)
    assert (expected - toy.draw_world([condition], 6, 3).e1_SAK[0]).abs().mean() > 0.1
    torch.testing.assert_close(trained([condition], 6, training)[0], expected, rtol=1e-10, atol=1e-12)


def test_side_by_side_and_summed_too() -> None:
    training = Training(iterations=3, lr=0.001, reduction="sum", dtype=torch.float64)
    for batch in toy.batches(CONDITIONS):
        e1_SAK = trained(batch, 5, training)
        for e1_AK, condition in zip(e1_SAK, batch, strict=True):
            torch.testing.assert_close(e1_AK, by_autograd(condition, 5, training), rtol=1e-10, atol=1e-12)


def test_half_the_digits_are_enough() -> None:
    for batch in toy.batches(CONDITIONS):
        half, full = (trained(batch, 10, Training(400, dtype=dtype)) for dtype in (torch.float32, torch.float64))
        torch.testing.assert_close(toy.abundance(half), toy.abundance(full), rtol=1e-5, atol=0)


def test_conditions_are_what_they_say() -> None:
    e3 = {condition: toy.draw_e3(condition, 10, seed=1) for condition in CONDITIONS}
    assert all(e3[condition].shape == (condition.cardinality, 10) for condition in CONDITIONS)
    ranks = {c.name: int(torch.linalg.matrix_rank(e3[c])) for c in (SMALL, LARGE, SMALL_CENTRED, LOW_RANK)}
    assert [*ranks.values()] == [3, 10, 2, 3]
    assert e3[SMALL].mean(0).norm() > 0.5 and e3[SMALL_CENTRED].mean(0).norm() < 1e-12
    for control, origin in ((SMALL_CENTRED, SMALL), (LOW_RANK, LARGE)):
        torch.testing.assert_close(e3[control].norm(), e3[origin].norm())
    assert torch.linalg.matrix_rank(torch.cat([e3[LOW_RANK], e3[SMALL]])) == 3  # mixtures of the small field's rows
    added = e3[COMMON_MEAN] - e3[LARGE]
    assert added.std(0).max() < 1e-12 and added[0].norm() == pytest.approx(1.15 * 10**0.5)
    assert toy.abundance(toy.draw_e3(COMMON_MEAN, 50, 1)).item() == pytest.approx(6.6, abs=0.5)


def test_conditions_of_a_seed_share_all_else() -> None:
    small, large = worlds = [toy.draw_world(batch, 10, 1) for batch in toy.batches(CONDITIONS)]
    assert torch.equal(small.e2_BK, large.e2_BK) and torch.equal(small.y_AB, large.y_AB)
    assert (torch.cat([world.e1_SAK for world in worlds]) == small.e1_SAK[0]).all()
    assert small.x3_AB.unique().tolist() == [0, 1, 2] and len(large.x3_AB.unique()) == 100
    assert 0.45 < large.y_AB.mean() < 0.55
    has_offset = [bool(offset_AB.any()) for world in worlds for offset_AB in world.offset_SAB]
    assert has_offset == [c.offset and c.present for batch in toy.batches(CONDITIONS) for c in batch]


def test_information_abundance_is_that_of_the_package() -> None:
    e_AK = torch.randn(100, 12, dtype=torch.float64)
    for centred in (False, True):
        expected = information_abundance(singular_values(e_AK, centred=centred))
        torch.testing.assert_close(toy.abundance(e_AK, centred), expected)


def test_e1_starts_as_a_random_matrix() -> None:
    for size in (10, 50):
        start = [toy.abundance(toy.draw_world([SMALL], size, seed).e1_SAK)[0].item() for seed in range(5)]
        assert np.mean(start) == pytest.approx(random_information_abundance(100, size, "normal"), rel=0.05)


def test_geometry_of_a_known_matrix() -> None:
    world = toy.draw_world([SMALL], 6, 0)
    e1_SAK = 5 * world.e3_SDK[:, :1] + 0.01 * world.e1_SAK  # nearly one direction, of span(E_3)
    found = {name: value.item() for name, value in toy.geometry(e1_SAK, world).items()}
    assert [found[name] for name in ("cosine", "direction_in_e3", "energy_in_e3")] == pytest.approx([1, 1, 1], abs=1e-3)
    input_nK = (world.e2_BK + world.e3_SDK[0][world.x3_AB]).flatten(0, 1)
    expected = np.linalg.lstsq(input_nK.numpy(), -world.offset_SAB.flatten().numpy(), rcond=None)[0]
    np.testing.assert_allclose(toy.cancelling(world)[0], expected, rtol=1e-8)


def test_the_paper_s_figure_at_a_fifth_of_its_length() -> None:
    for seed in range(4):
        small, large = (toy.abundance(trained([c], 10, Training(1000), seed)).item() for c in (SMALL, LARGE))
        assert small < large - 0.2


def config(**changes: object) -> OmegaConf:
    return OmegaConf.structured(fig4.Root(embed_sizes=[4], iterations=5, every=2, **changes))  # type: ignore[arg-type]


def test_a_seed_s_numbers_are_its_own() -> None:
    one, three = fig4.records(config(seeds=1, workers=1)), fig4.records(config(seeds=3, workers=2))
    assert one.equals(three.filter(seed=0), null_equal=True)
    assert sorted(one["iteration"].unique()) == [0, 2, 4, 5] and len(three) == 3 * len(one)
    assert one.filter(iteration=4)["cosine"].null_count() == len(CONDITIONS)  # of the end only


def ends(**ia: float) -> pl.DataFrame:
    """Ends as if these had been found: IA 26 but for the conditions given; `<name>_of_rows`: without the mean row."""
    rng, rows = np.random.default_rng(0), []
    for condition in CONDITIONS:
        value = ia.get(condition.name, 26.0)
        for seed, noise in enumerate(rng.normal(scale=0.05, size=5)):
            columns = {"ia": value + noise, "ia_centred": ia.get(f"{condition.name}_of_rows", value) + noise}
            columns |= {"ia_e3": 3.0, "cosine": 0.9, "cosine_offset": 0.8, "energy_in_e3": 0.01 + noise / 100}
            rows.append({"embed_size": 50, "condition": condition.name, "seed": seed, **columns})
    return pl.DataFrame(rows)


def concluded(frame: pl.DataFrame) -> tuple[dict[str, str], list[str]]:
    claims = decided(toy_claims.make_claims(frame))
    return {claim.text: claim.verdict for claim in claims}, toy_claims.make_notes(frame, claims)


def test_conclusions_follow_the_numbers() -> None:
    verdicts, notes = concluded(ends(**dict.fromkeys(("small", "small_centred", "small_no_offset", "low_rank"), 18.0)))
    assert "accounts for most of the gap." in notes[-1] and "most of it goes" not in notes[-1]
    assert verdicts[toy_claims.ORDERED] == "holds" and verdicts[toy_claims.ALIGNED] == "does not hold"
    verdicts, notes = concluded(ends(small=18.0, small_of_rows=26.0, common_mean=20.0))
    assert "is not seen to account for the gap; most of it goes with each of: centring" in notes[-1]
    assert [verdicts[control.most] for control in toy_claims.CONTROLS] == ["does not hold", *["holds"] * 3]
    _, notes = concluded(ends(small=18.0, small_of_rows=18.0, low_rank=24.0))
    assert "accounts for a part of the gap, the smaller one; most" in notes[-1] and "25% ±" in notes[1]
    verdicts, notes = concluded(ends(small=27.0))
    assert verdicts[toy_claims.REPRODUCED] == "does not hold" and "is reversed" in notes[0] and len(notes) == 1


def test_shares_of_a_gap() -> None:
    whole = np.array([2.0, 3.0, 4.0])
    assert toy_claims.share(whole / 4, whole).estimate == 0.25
    assert toy_claims.share(whole / 4, whole).half == pytest.approx(0)
    assert toy_claims.share(whole, np.array([-2.0, 1.0, 2.0])).half is None  # of what may be nothing
    rng = np.random.default_rng(0)
    pairs = rng.normal((1.0, 4.0), (0.2, 0.3), size=(2000, 10, 2))
    inside = [abs(found.estimate - 0.25) < found.half for a in pairs if (found := toy_claims.share(*a.T)).half]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fig4", *words])
    monkeypatch.setattr(fig4, "end_on_signals", lambda: None)
    return fig4.main()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(drawing, "KINDS", ("svg",))
    assert command(monkeypatch, *SMALL_RUN, f"output_dir={tmp_path}") == 0
    folder = tmp_path / "paper" / "toy"
    figures = {f"{name}.{kind}" for name in ("fig4", "fig4_controls") for kind in ("svg", "csv")}
    assert {path.name for path in folder.iterdir()} == figures | {"fig4_conditions.csv", "fig4.json"}
    content = json.loads((folder / "fig4.json").read_text())
    assert content["seeds"] == [0, 1, 2] and content["dataset"] == "toy" and content["notes"]
    assert content["command"] == "python -m experiments.fig4 'embed_sizes=[4,6]' seeds=3 iterations=6 every=4"
    assert len(content["claims"]) == 2 * (3 + 2 * len(toy_claims.CONTROLS))
    assert {claim["verdict"] for claim in content["claims"]} <= {"holds", "does not hold", "not decidable"}
    curve = pl.read_csv(folder / "fig4.csv")
    assert curve.filter(embed_size=4, condition="small")["iteration"].to_list() == [0, 4, 6]
    assert "low_rank" in capsys.readouterr().out


def test_one_seed_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "figure", lambda *arguments: None)  # drawn, but not written, which takes seconds
    assert command(monkeypatch, *SMALL_RUN[:1], "iterations=2", "seeds=1", f"output_dir={tmp_path}") == 0
    content = json.loads((tmp_path / "paper" / "toy" / "fig4.json").read_text())
    assert {claim["verdict"] for claim in content["claims"]} == {"not decidable"}
    assert "one seed gives no interval" in content["notes"][1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=3", "did you mean seeds"),
        ("embed_sizes=[0,10]", "expected different integers of 4 or more"),
        ("embed_sizes=[10,10]", "expected different integers"),
        ("seeds=0", "seeds=0: expected an integer of 1 or more"),
        ("iterations=few", "iterations=few"),
        ("lr=-1", "expected a number above 0"),
        ("reduction=max", "expected one of mean, sum"),
        ("output_dir=/dev/null/a", "/dev/null is a file; expected a folder"),
    ],
)
def test_what_is_wrong_is_said(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    small = [] if word.startswith("embed_sizes") else ["embed_sizes=[4]"]
    words = [*small, *(w for w in ("seeds=2", "iterations=1") if w.split("=")[0] != word.split("=")[0]), word]
    assert command(monkeypatch, *words) == 2
    assert said in capsys.readouterr().err


def test_overflow_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = [*SMALL_RUN, "lr=1e38", "reduction=sum", f"output_dir={tmp_path}"]
    assert command(monkeypatch, *words) == 2
    assert "expected smaller steps" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_what_is_not_wanted_any_more_stops() -> None:
    assert toy.simulate([SMALL], 4, 0, Training(iterations=10**9, every=1), stopped=lambda: True) == []


def test_interrupted_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(*arguments: object) -> None:
        raise Interrupted(130)

    monkeypatch.setattr(toy, "simulate", simulate)
    assert command(monkeypatch, *SMALL_RUN, f"output_dir={tmp_path}") == 130
    assert not [*tmp_path.iterdir()]


def test_help_shows_the_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):  # Hydra's
        command(monkeypatch, "--help")
    printed = capsys.readouterr().out
    assert "python -m experiments.fig4" in printed and "embed_sizes" in printed
