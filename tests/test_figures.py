"""Figures in files: every format, the same bytes each time, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resx.errors import UsageError
from resx.figures import DARK, LIGHT, Figure, Look, draw_figure, draw_forms, join_figures, require_drawable

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def figure(caption: str = "resnet20 on digits: 3 points") -> Figure:
    def draw(axes: Any, look: Look) -> None:
        axes.plot([1, 2, 3], [2, 4, 3], "o-", color=look.main, label="a point")
        axes.set(xlabel="block", ylabel="error, %")
        axes.legend()

    return Figure(name="points", panels=(draw,), caption=caption)


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_chooses_the_format_and_the_bytes_are_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"

    draw_figure(figure(), one)
    draw_figure(figure(), two)

    assert one.read_bytes().startswith(MAGIC[suffix])
    assert one.read_bytes() == two.read_bytes()


def test_a_name_that_ends_with_dark_draws_for_dark_pages(tmp_path: Path) -> None:
    draw_figure(figure(), tmp_path / "f.svg")
    draw_figure(figure(), tmp_path / "f-dark.svg")
    draw_figure(figure(), tmp_path / "asked.svg", dark=True)

    light, dark = ((tmp_path / name).read_text() for name in ("f.svg", "f-dark.svg"))
    assert LIGHT.background in light
    assert DARK.background not in light
    assert DARK.background in dark
    assert all(color not in dark for color in (LIGHT.background, LIGHT.text, LIGHT.main, LIGHT.grid))
    assert (tmp_path / "asked.svg").read_text() == dark


def test_a_study_gets_every_format_for_light_and_dark_pages(tmp_path: Path) -> None:
    paths = draw_forms([figure()], tmp_path)

    assert {path.name for path in paths} == {
        f"points-{look}.{suffix}" for look in ("light", "dark") for suffix in ("png", "svg", "pdf")
    }
    assert all(path.read_bytes().startswith(MAGIC[path.suffix]) for path in paths)


def test_joined_figures_are_side_by_side_under_all_captions(tmp_path: Path) -> None:
    both = join_figures("both", [figure("the first"), figure("the second")])
    draw_figure(figure("the first"), tmp_path / "one.svg")
    draw_figure(both, tmp_path / "both.svg")

    one, two = ((tmp_path / name).read_text() for name in ("one.svg", "both.svg"))
    assert (one.count('id="axes_'), two.count('id="axes_')) == (1, 2)
    assert both.caption == "the first\nthe second"


@pytest.mark.parametrize("name", ["plot.doc", "plot", "plot.PNG.txt"])
def test_another_suffix_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"give a file that ends in \.png, \.svg, \.pdf"):
        draw_figure(figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_and_a_file_in_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder.png", tmp_path / "file" / "plot.png"):
        with pytest.raises(UsageError, match="--plot"):
            require_drawable(path)


@pytest.mark.parametrize("name", [r"runs/$\frac{$", r"a$x^$b", "one $"])
def test_a_name_in_a_caption_is_no_formula(tmp_path: Path, name: str) -> None:
    draw_figure(figure(f"{name}, 10 images"), tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").is_file()
