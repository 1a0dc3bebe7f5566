import re
from pathlib import Path

import pytest
from PIL import Image

from resx.analysis.training_curves import NAMES, write_curves
from resx.training.runs.checkpoint import Metrics

METRICS: list[Metrics] = [
    {"epoch": epoch, "loss": 2.0 / epoch, "held_out_loss": 2.5 / epoch, "accuracy": accuracy, "balanced_accuracy": 0.5}
    for epoch, accuracy in ((1, 0.25), (2, 0.5), (3, 0.4))
]


def test_both_files_are_drawn_and_are_the_same_each_time(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_curves(METRICS, "accuracy", "a run", tmp_path)]
    second = [path.read_bytes() for path in write_curves(METRICS, "accuracy", "a run", tmp_path)]

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    assert first == second
    with Image.open(tmp_path / "curves.png") as image:
        colors = {color for _, color in image.convert("RGB").getcolors(2**20) or []}
    assert (255, 255, 255) in colors  # light
    assert (0x0B, 0x62, 0xB8) in colors  # the held-out curve


@pytest.mark.parametrize(("best_by", "epoch"), [("accuracy", 2), ("loss", 3)])
def test_the_best_epoch_is_marked_as_it_was_chosen(tmp_path: Path, best_by: str, epoch: int) -> None:
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        write_curves(METRICS, best_by, "50 $x$", tmp_path)  # type: ignore[arg-type]
    text = (tmp_path / "curves.svg").read_text()

    assert f"best epoch: {epoch}" in text
    assert re.search(r"50 \$x\$", text)
    assert "validation" not in text


def test_a_run_of_an_older_resx_has_the_curves_that_it_knows(tmp_path: Path) -> None:
    old = [{"epoch": 1, "loss": 2.0, "accuracy": 0.5}]
    assert len(write_curves([*old, METRICS[1]], "accuracy", "old", tmp_path)) == 2
