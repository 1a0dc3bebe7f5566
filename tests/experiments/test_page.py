"""The page is what the rows say: it is written from them alone, and the documented one from the documented rows."""

from pathlib import Path

import pytest
from benchmarks.experiments import page
from benchmarks.experiments.catalog import EXPERIMENTS
from benchmarks.experiments.degradation import NAMES
from benchmarks.experiments.rows import Row, RowsFile

DOCS = Path(__file__).parents[2] / "docs"
MEANS = {"plain20": 0.01, "plain56": 0.5, "resnet20": 0.03, "resnet56": 0.02}


def degradation_rows(changes: dict[str, float], seeds: int = 5) -> list[Row]:
    means = MEANS | changes
    return [
        Row(
            experiment="degradation",
            network=name,
            data="digits, 16 px",
            recipe="r",
            epochs=8,
            seed=seed,
            loss=0.1,
            training_error=means[name] + 0.001 * ((seed + place) % 3),
            accuracy=0.9,
            seconds=2.0,
        )
        for place, name in enumerate(NAMES)
        for seed in range(seeds)
    ]


def verdicts(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("| He et al.")]
    return [line.split("**")[1] for line in lines]


def test_the_documented_page_is_that_of_the_documented_rows(tmp_path: Path) -> None:
    rows = list(RowsFile(path=DOCS / "experiments" / "rows.json").read().values())
    written = page.write(rows, tmp_path)
    assert {row.experiment for row in rows} == set(EXPERIMENTS)
    assert (tmp_path / "experiments.md").read_text() == (DOCS / "experiments.md").read_text()
    assert len((DOCS / "experiments.md").read_text().splitlines()) < 200
    names = {path.name for path in written if path.suffix == ".svg"}
    assert names == {path.name for path in (DOCS / "assets").glob("experiments-*.svg")}
    assert all(name in (DOCS / "experiments.md").read_text() for name in names)


def test_every_documented_claim_that_is_decided_has_five_seeds() -> None:
    rows = list(RowsFile(path=DOCS / "experiments" / "rows.json").read().values())
    claims = [
        claim
        for name, experiment in EXPERIMENTS.items()
        if (some := [row for row in rows if row.experiment == name])
        for claim in experiment.claims(some)
    ]
    assert len(claims) > 15
    decided = [claim for claim in claims if claim.verdict != "not decided" and "counted exactly" not in claim.ours]
    assert len(decided) > 10
    assert all(claim.num_seeds >= 5 for claim in decided)


def test_a_verdict_turns_with_the_rows() -> None:
    assert verdicts(page.text(degradation_rows({}))) == ["agrees", "agrees", "agrees"]
    assert verdicts(page.text(degradation_rows({"plain56": 0.001}))) == ["does not", "agrees", "does not"]
    assert verdicts(page.text(degradation_rows({"resnet56": 0.03}))) == ["agrees", "not decided", "agrees"]
    assert verdicts(page.text(degradation_rows({}, seeds=1))) == ["not decided"] * 3


def test_a_network_that_diverged_is_in_the_table_and_draws_no_dot(tmp_path: Path) -> None:
    rows = degradation_rows({})
    lost = {"loss": None, "training_error": None, "accuracy": None}
    rows = [row.model_copy(update=lost) if row.network == "plain56" else row for row in rows]
    text = page.text(rows)
    assert "| plain56 | digits, 16 px | 8 | 5 | diverged |" in text
    assert verdicts(text)[0] == "not decided"
    assert page.write(rows, tmp_path)


def test_the_same_rows_give_the_same_figures(tmp_path: Path) -> None:
    first, second = (page.write(degradation_rows({}), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    light, dark = (tmp_path / "a" / "assets" / f"experiments-degradation-{look}.svg" for look in ("light", "dark"))
    assert light.read_bytes() != dark.read_bytes()


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_has_claims_without_rows(name: str) -> None:
    for claim in EXPERIMENTS[name].claims([]):
        assert claim.verdict == "not decided" or "counted exactly" in claim.ours


def test_an_experiment_without_rows_has_its_section_and_its_command() -> None:
    text = page.text(degradation_rows({}))
    assert "## Lesions\n" in text
    assert "No rows yet: `make lesions` measures them." in text
    assert "`make degradation` measures" not in text
