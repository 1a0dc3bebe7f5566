"""A page as its tests see it: the elements and their text, read by html.parser, and results to make pages of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np

from resx.bench.results.result import (
    Answers,
    BenchResult,
    Client,
    Environment,
    Measurement,
    Second,
    Stability,
    histogram_text,
)
from resx.bench.results.samples import histogram, percentiles
from resx.bench.results.server_statistics import ServerBreakdown

VOID = {"meta", "br", "hr", "img", "input", "link", "source", "wbr"}


@dataclass(slots=True)
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def all(self, tag: str = "", style: str = "") -> Iterator[Element]:
        """Yield this element and those inside it, of a tag and of a class."""
        if tag in ("", self.tag) and (not style or style in self.attributes.get("class", "").split()):
            yield self
        for child in self.children:
            yield from child.all(tag, style)

    def one(self, name: str) -> Element:
        """Return the element of an id."""
        (found,) = [element for element in self.all() if element.attributes.get("id") == name]
        return found

    def has(self, name: str) -> bool:
        return any(element.attributes.get("id") == name for element in self.all())

    @property
    def text(self) -> str:
        return " ".join(word for element in self.all() for word in element.words)

    @property
    def marks(self) -> list[Element]:
        return list(self.all(style="mark"))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"<{tag}> says an attribute twice"
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.open[-1].words.append(data.strip())


def read_page(html: str) -> Element:
    """Return the page's root; fails where tags do not match."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    return reader.open[0]


def measurement(
    *, model: str = "resnet20", concurrency: int = 0, rate: float = 0.0, samples: int = 2000, **changes: Any
) -> Measurement:
    """Return a load whose latencies are log-normal around 4 ms; `rate` makes it an open loop."""
    latencies_ms = np.random.default_rng(7 + concurrency).lognormal(1.4, 0.3, samples)
    seconds = tuple(Second(at_s=at, answers_per_s=300.0, failed=0, p50_ms=4.0, p99_ms=9.0) for at in (1.0, 2.0, 3.0))
    made = Measurement(
        model=model,
        version=None,
        url="http://127.0.0.1:8000",
        load="open" if rate else "closed",
        concurrency=0 if rate else concurrency or 1,
        rate_per_s=rate,
        arrivals="poisson" if rate else "",
        batch_size=1,
        window_s=3.0,
        requests=samples,
        sent=samples,
        failed=0,
        images_per_s=samples / 3,
        requests_per_s=samples / 3,
        **percentiles(latencies_ms).model_dump(),
        service=percentiles(latencies_ms),
        errors={},
        client_cpu_ms_per_request=0.08,
        client=Client(processes=1, cpu_ms_per_request=0.08, cpu_share=0.03, ceiling_requests_per_s=40_000.0),
        late=None,
        answers=Answers(checked=100, wrong=0, reference="the card's recorded logits", worst=1e-7, tolerance=1e-3),
        contents="noise",
        stability=Stability(rates_per_s=(1.0, 1.0, 1.0), spread=0.01, stable=True),
        server=ServerBreakdown(
            requests=samples,
            executions=samples // 2,
            mean_batch_size=2.0,
            queue_ms=0.5,
            compute_input_ms=0.02,
            compute_infer_ms=2.0,
            compute_output_ms=0.1,
            batches={1: 200, 2: 500, 3: 266},
        ),
        seconds=seconds,
        hdr=histogram_text(histogram(latencies_ms)),
        invalid=(),
        remarks=(),
    )
    return made.model_copy(update=changes)


def result(*measurements: Measurement, **changes: Any) -> BenchResult:
    """Return a benchmark of these loads."""
    made = BenchResult(
        model="resnet20",
        version=None,
        url="http://127.0.0.1:8000",
        created="2026-01-02T03:04:05+00:00",
        command="resx bench resnet20",
        environment=Environment(
            resx="0.2.0", triton="2.51.0", python="3.11.7", machine="A processor", usable_cores=2, server_is_local=True
        ),
        measurements=measurements,
    )
    return made.model_copy(update=changes)
