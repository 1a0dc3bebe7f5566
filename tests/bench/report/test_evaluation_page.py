"""The page of an evaluation: every figure, some images, and nothing that is fetched or run."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from resx.analysis.classification.evaluation import Answers, Asked, Evaluation, ImagesUsed, evaluate_answers
from resx.analysis.classification.paired_comparison import compare_answers
from resx.bench.report.evaluation_page import PageImages, html
from resx.bench.report.image_tiles import make_tile
from tests.support.report_page import read_page

HOSTILE = '<script>alert("x")</script>&</title>'


def evaluation(*, num_classes: int = 6, name: str = "m", output: str = "logits") -> tuple[Evaluation, Answers]:
    random = np.random.default_rng(0)
    targets = random.integers(0, num_classes, 120)
    values = random.standard_normal((120, num_classes)).astype(np.float32)
    values[np.arange(120), targets] += 1
    shares = np.exp(values.astype(np.float64))
    asked = Asked(
        model=name,
        kind="file",
        random_weights=False,
        output=output,
        labels=[HOSTILE, *(f"c{number}" for number in range(1, num_classes))],
        matched_by="name",
        images=ImagesUsed(data="d", part="all", origin="120 images of d", num_images=120, num_skipped=2),
    )
    answers = Answers(
        values=values, probabilities=None if output == "scores" else shares / shares.sum(1, keepdims=True)
    )
    return evaluate_answers(answers, targets, asked), answers


def test_the_page_has_every_figure_and_needs_nothing_but_itself() -> None:
    found, _ = evaluation(name=HOSTILE)
    tile = make_tile(Image.new("RGB", (8, 8), "red"), name=HOSTILE, words=HOSTILE)

    text = html(found, PageImages(confused=[[tile, tile]]), against=None, paired=None, command=HOSTILE)
    page = read_page(text)

    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:image/|#)", text)
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in text
    assert f"{100 * found.top1.share:.2f} %" in page.text
    assert f"{100 * found.top1.low:.2f} to {100 * found.top1.high:.2f} %" in page.text
    assert len(page.one("matrix").marks) == 36
    assert len(page.one("reliability").marks) == sum(
        one.num_images > 0
        for one in found.calibration.bins  # type: ignore[union-attr]
    )
    assert len(list(page.one("confused").all("img"))) == 2
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert "2 images that cannot be read were left out" in page.text
    assert not page.has("paired")


@pytest.mark.parametrize(
    ("edge", "kind"), [((8, 8), "png"), ((64, 40), "png"), ((300, 200), "jpeg"), ((2000, 1), "jpeg")]
)
def test_images_are_small_data_in_the_page(edge: tuple[int, int], kind: str) -> None:
    tile = make_tile(Image.new("RGB", edge, "red"), name="a", words="b")

    head, _, data = tile.data.partition(",")
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(image.size) <= 96
    assert image.size == edge or kind == "jpeg"


def test_many_classes_have_no_matrix_and_scores_no_calibration() -> None:
    found, _ = evaluation(num_classes=40, output="scores")

    page = read_page(html(found, PageImages(), against=None, paired=None, command=""))

    assert not page.has("matrix")
    assert not page.has("reliability")
    assert len(list(page.one("classes").all("tr"))) == 41


def test_two_models_are_compared_in_words_and_image_by_image() -> None:
    found, answers = evaluation()
    targets = np.zeros(120, np.int64)
    paired = compare_answers(
        "m",
        HOSTILE,
        (answers.predicted, targets),
        targets,
        labels=[one.label for one in found.classes],
        names=[f"{number}.png" for number in range(120)],
    )

    page = read_page(html(found, PageImages(), against=found, paired=paired, command=""))

    assert "McNemar's exact test: p = " in page.one("paired").text
    assert f"{paired.num_flips} images of 120 answered differently" in page.one("paired").text
    folded = [part for part in page.one("paired").all("details") if part.attributes.get("class") != "csv"]
    assert len(folded) == 1
