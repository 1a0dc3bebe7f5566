"""The report says what the result says, draws a mark for each figure, and needs nothing but itself."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import subprocess
from html import escape
from pathlib import Path

import pytest

from resx.bench.report.comparison_charts import members
from resx.bench.report.html_report import html
from resx.bench.report.html_style import DARK, LIGHT
from resx.bench.report.latency_charts import histogram_steps
from resx.bench.results.result import BenchResult, InProcess, Interval, Ratio, Repeated, Second, Stability
from resx.pareto import pareto_front
from tests.support import debian
from tests.support.report_page import Element, measurement, read_page, result

HOSTILE = '<script>alert("x")</script>&</title>'
ACCURACIES = {"small": 0.92, "middle": 0.95, "beaten": 0.91, "large": 0.97}


def family() -> BenchResult:
    """Four models; `beaten` is slower than `middle` and worse."""
    times = {"small": 2.0, "middle": 4.0, "beaten": 5.0, "large": 8.0}
    return result(
        *(measurement(model=name, p50_ms=ms) for name, ms in times.items()),
        models={name: {"accuracy": share, "kept_blocks": 4, "blocks": 9} for name, share in ACCURACIES.items()},
    )


def everything() -> BenchResult:
    """A result in which no section is empty, with one load that is invalid and one that failed at times."""
    failing = (
        Second(at_s=1.0, answers_per_s=90.0, failed=0, p50_ms=4.0, p99_ms=9.0),
        Second(at_s=2.0, answers_per_s=0.0, failed=12, p50_ms=None, p99_ms=None),
    )
    served = InProcess(images_per_s=800.0, p50_ms=1.2, batch_size=1, threads=1, instances=1, efficiency=0.83)
    loads = (
        measurement(concurrency=1, in_process=served),
        measurement(concurrency=2, samples=300, remarks=("client and server share this machine",)),
        measurement(rate=500.0, seconds=failing, failed=12, errors={"HTTP 503": 12}, invalid=("3 % were sent late",)),
    )
    ratio = Ratio(target="b", base="a", load="concurrency 2", what="p50_ms", ratio=0.8, low=0.7, high=0.9, num_pairs=5)
    repeated = Repeated(
        title="concurrency 2",
        target="resnet20",
        num_runs=3,
        images_per_s=Interval(mean=612.3, half_width=4.5),
        p50_ms=Interval(mean=4.2, half_width=float("inf")),
        p99_ms=None,
    )
    return result(
        *loads,
        *family().measurements,
        models=family().models,
        ratios=(ratio,),
        repeated=(repeated,),
    )


def page_of(shown: BenchResult) -> Element:
    return read_page(html(shown))


def test_a_valid_result_says_so_first() -> None:
    page = page_of(result(measurement()))
    verdict = next(page.all(style="verdict"))
    assert "Valid" in verdict.text
    assert "INVALID" not in page.one("main").text.replace("INVALID marks figures", "")


def test_an_invalid_load_is_told_with_its_reason_and_marked_in_the_table() -> None:
    page = page_of(result(measurement(), measurement(concurrency=2, invalid=("3 % were sent late",))))
    verdict = next(page.all(style="verdict"))
    assert "the figures of 1 of 2 loads must not be used" in verdict.text
    assert "3 % were sent late" in verdict.text
    assert "concurrency 2" in verdict.text
    flagged = [row for row in page.one("loads").all("tr") if list(row.all(style="flag"))]
    assert len(flagged) == 1
    assert "concurrency 2" in flagged[0].text


def test_a_load_whose_throughput_varied_is_neither_good_nor_invalid() -> None:
    steady, varied = (
        measurement(),
        measurement(concurrency=2, stability=Stability(rates_per_s=(1, 2, 3), spread=0.5, stable=False)),
    )
    page = page_of(result(steady, varied))
    verdict = next(page.all(style="verdict"))
    assert verdict.attributes["class"].split() == ["verdict", "warn"]
    assert "Valid, but unstable" in verdict.text
    assert "the throughput of 1 varied" in verdict.text
    (flag,) = page.one("loads").all(style="flag")
    assert (flag.text, flag.attributes["class"]) == ("UNSTABLE", "flag warn")
    assert next(page_of(result(steady)).all(style="verdict")).attributes["class"] == "verdict good"
    worse = measurement(concurrency=4, invalid=("3 % were sent late",))
    assert next(page_of(result(varied, worse)).all(style="verdict")).attributes["class"] == "verdict bad"


def test_a_table_can_be_copied_as_csv() -> None:
    load = measurement(rate=1234.0, samples=300, model='of, "both"')
    page = page_of(result(load, measurement(model="other")))
    text = "".join(next(page.one("loads").all("pre")).words)
    (row, _) = csv.DictReader(io.StringIO(text))
    assert (row["Load"], row["p99, ms"]) == (f'of, "both", {load.title}', "")
    assert float(row["Images/s"]) == pytest.approx(load.images_per_s, abs=0.05)
    assert len(list(page.all("table"))) == len(list(page.all("pre")))


def test_the_table_holds_the_figures_of_every_load() -> None:
    loads = (measurement(concurrency=4), measurement(rate=800.0, failed=3))
    rows = list(page_of(result(*loads)).one("loads").all("tr"))[1:]
    for load, row in zip(loads, rows, strict=False):
        assert f"{load.images_per_s:,.1f}" in row.text
        for value in (load.p50_ms, load.p90_ms, load.p99_ms, load.max_ms):
            assert f"{value:,.2f}" in row.text
        assert load.title in row.text
    assert f"{100 * loads[1].requests_per_s / 800:.1f}" in rows[1].text


def test_a_percentile_without_enough_samples_is_not_available() -> None:
    few, many = (page_of(result(measurement(samples=samples))).one("loads") for samples in (300, 7000))
    cells = [cell for cell in next(few.all("tbody")).all("td") if cell.text == "n/a"]
    assert len(cells) == 2  # p99 and p99.9
    assert "n/a" not in next(many.all("tbody")).text


def test_every_slice_has_its_marks_and_a_failure_has_its_own() -> None:
    shown = everything()
    figure = page_of(shown).one("time")
    slices = [second for load in shown.measurements for second in load.seconds]
    times = [ms for second in slices for ms in (second.p50_ms, second.p99_ms) if ms is not None]
    failures = [second for second in slices if second.failed]
    assert len(figure.marks) == len(times) + len(failures)
    assert len([mark for mark in figure.marks if "failure" in mark.attributes["class"]]) == len(failures) == 1
    assert len(list(figure.all("tr"))) == 1 + len(slices)
    assert "12 requests failed" in next(figure.all("figcaption")).text


def test_curves_mark_the_percentiles_that_are_known_and_dot_what_is_not() -> None:
    shown = result(measurement(), measurement(concurrency=2, samples=300))
    figure = page_of(shown).one("percentiles")
    fields = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms")
    known = [load for load in shown.measurements for name in fields if getattr(load, name) is not None]
    assert len(figure.marks) == len(known)
    assert len(list(figure.all(style="dotted"))) == 2


def test_a_curve_goes_through_the_percentiles_of_its_samples() -> None:
    load = measurement()
    steps = histogram_steps(load.hdr)
    median = next(ms for nines, ms in steps if 1 - 10**-nines >= 0.5)
    assert median == pytest.approx(load.p50_ms, rel=2e-3)
    assert steps[-1][1] == pytest.approx(load.max_ms, rel=2e-3)


@pytest.mark.parametrize("broken", ["", "HISTFAAAA", "not base64!", "AAAA", "HIST" + "A" * 400])
def test_a_histogram_that_cannot_be_read_leaves_out_its_curve_only(broken: str) -> None:
    page = page_of(result(measurement(hdr=broken)))
    assert not page.has("percentiles")
    assert page.has("throughput")


def test_throughput_split_and_batches_draw_every_figure() -> None:
    shown = everything()
    page = page_of(shown)
    times = [ms for load in shown.measurements for ms in (load.p50_ms, load.p99_ms) if ms is not None]
    assert len(page.one("throughput").marks) == len(times)
    assert len(page.one("split").marks) == 4 * len(shown.measurements)
    assert len(page.one("batches").marks) == 3 * len(shown.measurements)


def test_a_server_without_statistics_has_no_charts_of_its_own() -> None:
    page = page_of(result(measurement(server=None)))
    assert not page.has("split")
    assert not page.has("batches")


def test_every_model_stands_in_accuracy_against_latency_and_the_front_goes_through_the_best() -> None:
    figure = page_of(family()).one("pareto")
    assert len(figure.marks) == len(ACCURACIES)
    assert {label.text for label in figure.all("text", "name")} == set(ACCURACIES)
    _, found = members([family()])
    assert [member.name for member in pareto_front(found, lambda member: (member.p50_ms, -member.accuracy))] == [
        "small",
        "middle",
        "large",
    ]
    assert "Beaten in both: beaten" in next(figure.all("figcaption")).text


def test_models_of_other_results_stand_beside_its_own() -> None:
    one = result(measurement(model="a"), models={"a": {"accuracy": 0.9}})
    other = result(measurement(model="b"), models={"b": {"accuracy": 0.8}})
    assert not page_of(one).has("pareto")
    assert len(read_page(html(one, [other])).one("pareto").marks) == 2


def test_ratios_are_drawn_and_read_in_words() -> None:
    def ratio(what: str, middle: float, low: float, high: float) -> Ratio:
        return Ratio.model_validate(
            {
                "target": "b",
                "base": "a",
                "load": "1",
                "what": what,
                "ratio": middle,
                "low": low,
                "high": high,
                "num_pairs": 4,
            }
        )

    found = (ratio("images_per_s", 1.2, 1.1, 1.3), ratio("p50_ms", 0.8, 0.7, 0.9), ratio("p99_ms", 1.0, 0.9, 1.1))
    figure = page_of(result(measurement(), ratios=found)).one("ratios")
    assert len(figure.marks) == len(list(figure.all(style="interval"))) == 3
    caption = next(figure.all("figcaption")).text
    assert "images per second 20.0 % higher, which is better" in caption
    assert "p50 20.0 % lower, which is better" in caption
    assert "no difference shown in p99" in caption


def test_repeated_loads_are_told_with_their_intervals() -> None:
    compared = page_of(everything()).one("compared")
    assert "612.3 ± 4.5" in compared.text
    assert "4.20 ± n/a" in compared.text


@pytest.mark.parametrize(
    ("rate", "word", "said"),
    [(512.0, "Found", "512 requests per second meet p99=15ms"), (None, "Not found", "no rate")],
)
def test_a_search_is_judged_by_what_it_found(rate: float | None, word: str, said: str) -> None:
    slo = {"asked": "p99=15ms", "bound_ms": 15.0, "rate_per_s": rate, "interrupted": False}
    page = page_of(result(measurement(), measurement(rate=900.0, invalid=("late",)), slo=slo))
    verdict = next(page.all(style="verdict")).text
    assert word in verdict
    assert said in verdict
    assert "p99=15ms" in page.one("found").text


def test_a_result_without_loads_is_invalid() -> None:
    assert "nothing was measured" in next(page_of(result()).all(style="verdict")).text


def test_what_was_interrupted_says_so() -> None:
    assert "interrupted" in next(page_of(result(measurement(interrupted=True))).all(style="verdict")).text


def test_names_from_outside_are_text() -> None:
    load = measurement(model=HOSTILE, errors={HOSTILE: 1}, remarks=(HOSTILE,), contents=HOSTILE, url=HOSTILE)
    ratio = Ratio(target=HOSTILE, base=HOSTILE, load=HOSTILE, what="p50_ms", ratio=1, low=0.9, high=1.1, num_pairs=2)
    models = {HOSTILE: {"accuracy": 0.9, "family": HOSTILE}, "b": {"accuracy": 0.8}}
    shown = result(
        load,
        measurement(model="b", url=HOSTILE),
        url=HOSTILE,
        command=HOSTILE,
        ratios=(ratio,),
        models=models,
        slo={"asked": HOSTILE, HOSTILE: True},
        created=HOSTILE,
    )
    made = html(shown)
    assert not list(read_page(made).all("script"))
    assert HOSTILE not in made
    assert escape(HOSTILE) in made


def test_the_file_refers_to_nothing_outside_it() -> None:
    made = html(everything())
    page = read_page(made)
    assert not {element.tag for element in page.all()} & {"script", "link", "img", "iframe", "object", "embed", "use"}
    for element in page.all():
        for name in ("href", "src", "xlink:href", "srcset", "action", "data"):
            assert element.attributes.get(name, "#").startswith("#")
        assert not any(name.startswith("on") for name in element.attributes)
    assert set(re.findall(r"url\(([^)]*)\)", made)) == {"#waiting"}
    assert "@import" not in made
    assert "default-src 'none'" in made


def test_every_part_has_its_name_and_its_place_in_the_order_of_the_keyboard() -> None:
    page = page_of(everything())
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"][1:] for link in page.all("a")} <= set(ids)
    assert next(page.all("a")).attributes["href"] == "#main"  # the skip link comes first
    for picture in page.all("svg"):
        assert picture.attributes.get("aria-label" if picture.attributes.get("role") == "group" else "aria-hidden")
    for datum in page.all("g", "datum"):
        assert (datum.attributes["tabindex"], datum.attributes["role"]) == ("0", "img")
        assert datum.attributes["aria-label"] == next(datum.all("text", "tip")).text
    for table in page.all("table"):
        assert next(table.all("caption")).text
        assert all(heading.attributes.get("scope") in {"col", "row"} for heading in table.all("th"))
    for area in page.all(style="scroll"):
        assert (area.attributes["tabindex"], area.attributes["role"]) == ("0", "region")
        assert area.attributes["aria-label"]
    for figure in page.all("figure"):
        assert next(figure.all("figcaption")).text
    levels = [int(element.tag[1]) for element in page.all() if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_suffices(theme: dict[str, str]) -> None:
    for ground in ("ground", "raised"):
        for text in ("ink", "quiet", "link", "good", "warn", "bad"):
            assert _contrast(theme[text], theme[ground]) >= 4.5, text
    for style in range(6):
        assert _contrast(theme[f"c{style}"], theme["ground"]) >= 3


def test_the_same_result_gives_the_same_file() -> None:
    assert html(everything()) == html(BenchResult.model_validate(everything().model_dump()))


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast of two colours."""

    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# The page in a frame of the wanted width, and beside it what a script outside the frame reads there.
_FRAME = """<!doctype html><iframe id="page" width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>
<pre id="seen"></pre><script>
addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const marks = [...page.querySelectorAll("figure .mark")].map(mark => {{
    const box = mark.getBBox(), place = mark.getBoundingClientRect();
    return {{figure: mark.closest("figure").id, width: box.width, height: box.height,
             left: place.left, right: place.right}};
  }});
  const sizes = [...page.querySelectorAll("figure svg[role=group] text")].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a);
  document.getElementById("seen").textContent = JSON.stringify({{
    text: page.body.innerText, marks, smallest: Math.min(...sizes), wide: root.scrollWidth, seen: root.clientWidth,
    ground: getComputedStyle(page.body).backgroundColor,
  }});
}});
</script>"""


def look(page: str, folder: Path, *, width: int, dark: bool = False) -> dict[str, object]:
    """Return what Chromium shows of a page."""
    chromium = debian.program(
        "chromium-headless-shell", "usr/lib/chromium/chromium-headless-shell", data=["chromium-common"]
    )
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(width=width, page=escape(page)))
    done = subprocess.run(
        [
            str(chromium), "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom",
            f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--window-size=1400,1000", frame.as_uri(),
        ],
        env=dict(debian.environment(chromium)), capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    (seen,) = (element for element in read_page_loosely(done.stdout) if element.attributes.get("id") == "seen")
    return dict(json.loads("".join(seen.words)))


def read_page_loosely(dom: str) -> list[Element]:
    """Return only what stands in <pre>: the rest of a serialised page is the browser's own."""
    return [*read_page(dom[dom.index('<pre id="seen"') : dom.index("</pre>") + 6]).all("pre")]


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1280])
def test_a_browser_draws_every_mark_within_the_page(width: int, tmp_path: Path) -> None:
    made = html(everything())
    seen = look(made, tmp_path, width=width)

    assert seen["wide"] == seen["seen"] == width
    marks = seen["marks"]
    assert isinstance(marks, list)
    assert len(marks) == len([mark for figure in read_page(made).all("figure") for mark in figure.marks])
    for mark in marks:
        assert mark["width"] > 0, mark
        assert mark["height"] > 0, mark
        assert 0 <= mark["left"] < mark["right"] <= width, mark
    assert {mark["figure"] for mark in marks} == {
        "time",
        "percentiles",
        "throughput",
        "split",
        "batches",
        "pareto",
        "ratios",
    }
    smallest = seen["smallest"]
    assert isinstance(smallest, float)
    assert smallest > 7.5
    for words in ("must not be used", "3 % were sent late", "Latency by percentile", "612.3 ± 4.5", "n/a"):
        assert words in str(seen["text"])


@pytest.mark.browser
def test_a_browser_shows_it_light_and_dark(tmp_path: Path) -> None:
    made = html(result(measurement()))
    for theme, dark in ((LIGHT, False), (DARK, True)):
        red, green, blue = (int(theme["ground"][at : at + 2], 16) for at in (1, 3, 5))
        assert look(made, tmp_path, width=1280, dark=dark)["ground"] == f"rgb({red}, {green}, {blue})"
