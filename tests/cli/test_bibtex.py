"""`resx info NAME --bibtex`."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.cli.main import main
from resx.training.recipes import RECIPES, configure
from resx.training.runs import checkpoint
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import VARIANTS, variant
from resx.zoo.papers import PAPERS, papers_cited_in

Info = Callable[..., tuple[int, str, str]]


@pytest.fixture
def info(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Info:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["resx", "info", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def _keys(text: str) -> list[str]:
    return re.findall(r"^@inproceedings\{(\w+),$", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet20", ["he2016deep"]),
        ("resnet1202", ["he2016deep", "huang2016deep"]),
        ("highway19", ["srivastava2015training"]),
        ("vgg16", ["simonyan2015very"]),
    ],
)
def test_a_variant_names_its_papers(info: Info, name: str, keys: list[str]) -> None:
    code, out, err = info(name, "--bibtex")

    assert (code, err) == (0, "")
    assert _keys(out) == keys
    assert out.count("{") == out.count("}")


def test_every_variant_and_every_recipe_of_a_paper_has_an_entry() -> None:
    assert all(papers_cited_in([found.paper]) for found in VARIANTS.values())
    without = {name for name, found in RECIPES.items() if not papers_cited_in([found.source])}
    assert without == {"digits", "small-data", "fine-tuning", "tv-v2"}  # this project's, and torchvision's
    assert len({paper.key for paper in PAPERS}) == len({paper.arxiv for paper in PAPERS}) == len(PAPERS)


@pytest.mark.parametrize(
    ("survival", "recipe", "keys"),
    [
        (1.0, "digits", ["he2016deep"]),
        (0.5, "digits", ["he2016deep", "huang2016deep"]),
        (1.0, "huang2017-dense", ["he2016deep", "huang2017densely"]),
    ],
)
def test_a_run_names_its_recipes_paper_and_stochastic_depths_too(
    info: Info, tmp_path: Path, survival: float, recipe: str, keys: list[str]
) -> None:
    spec = variant("resnet20").spec.with_settings(["width=1"]).with_changes(survival=survival)
    checkpoint.write_run(tmp_path / "run", build_from_spec(spec, seed=0), spec, configure("digits", recipe, {}))

    code, out, _ = info(str(tmp_path / "run"), "--bibtex")

    assert code == 0
    assert _keys(out) == keys


def test_what_is_no_network_is_one_line(info: Info) -> None:
    code, out, err = info("resnet21", "--bibtex")

    assert (code, out) == (2, "")
    assert "did you mean" in err
    assert len(err.splitlines()) == 1
