"""The benchmark against the embedded Triton."""

import csv
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from PIL import Image

from resx.bench import measuring
from resx.bench.comparing import ratios, summarize_repeats, tell_apart
from resx.bench.load import payloads
from resx.bench.load.load_plan import LoadPlan
from resx.bench.measuring import Extras, target_of
from resx.bench.result_files import CSV_COLUMNS
from resx.bench.results.observed_run import ObservedRun
from resx.bench.results.result import Measurement, environment, schema_text
from resx.bench.results.samples import Samples
from resx.repository.interface import Interface
from resx.repository.versions import Repository
from resx.serving.client.address import PROTOCOLS, Protocol, parse_address
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.rollback import undeploy
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor import supervisor
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

ROOT = Path(__file__).parents[2]
SHORT = LoadPlan(concurrency=2, duration_s=1.0, warmup_s=0.3)
QUICK = Extras(measure_ceiling=False)


def images_that_triton_computed(triton: RunningTriton, model: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{triton.state.metrics_port}/metrics") as page:
        found = re.findall(rf'nv_inference_count{{model="{model}",version="\d+"}} (\d+)', page.read().decode())
    return sum(map(int, found))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_are_compared_with_the_card_and_a_wrong_one_is_found(triton: RunningTriton, protocol: Protocol) -> None:
    target = target_of(triton.state.address(protocol), "tiny", 1)
    right = payloads.canaries(triton.repository.card("tiny", 1), 3)
    measured = measuring.measure(target, replace(SHORT, batch_size=3), replace(QUICK, payloads=lambda _t, _b: right))
    assert measured.answers.checked > 10
    assert measured.answers.wrong == 0
    assert measured.answers.worst is not None
    assert measured.invalid == ()
    assert measured.server_use is not None
    assert measured.server_use.num_processes > 1
    assert (measured.server_use.cpu_ms_per_request or 0) > 0
    assert measured.server_use_missing == ""
    wrong = replace(right, expected=tuple(logits + 1 for logits in right.expected))
    measured = measuring.measure(target, replace(SHORT, batch_size=3), replace(QUICK, payloads=lambda _t, _b: wrong))
    assert measured.answers.wrong == measured.answers.checked > 10
    assert any("sampled answers are wrong" in reason for reason in measured.invalid)


def test_a_result_says_which_kind_of_server_was_measured(triton: RunningTriton) -> None:
    assert environment(triton.state.address("grpc"), "", {}).server_kind == "isolated"
    assert environment(parse_address("somewhere:8000", "http"), "", {}).server_kind == ""


def test_prometheus_statistics_and_client_agree(triton: RunningTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[ObservedRun, Samples]] = []
    summarize = measuring.summarize
    before = images_that_triton_computed(triton, "tiny_fp16")
    target = target_of(triton.state.address("http"), "tiny_fp16", None)

    def keep_and_summarize(*args: Any) -> Measurement:
        kept.append((args[3], args[4]))
        return summarize(*args)

    monkeypatch.setattr(measuring, "summarize", keep_and_summarize)
    measured = measuring.measure(target, replace(SHORT, batch_size=2, warmup_s=0.0), QUICK)
    seen, samples = kept[0]
    assert len(samples.answered) == len(samples) >= measured.requests > 10
    # Whatever the machine did at the edges of the window, the whole load was counted: 20 is for the canary.
    deadline = time.monotonic() + 120  # Triton writes its counters a moment after the answer
    while (computed := images_that_triton_computed(triton, "tiny_fp16") - before) < 2 * len(samples):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert computed <= 2 * len(samples) + 20
    # Between its two readings the server counted what was open then, and all that was sent and answered in between.
    assert measured.server is not None
    counted = sum(size * count for size, count in measured.server.batches.items())
    first, last = seen.readings
    surely = int(((samples.sent_ns >= first.ended_ns) & (samples.done_ns < last.begun_ns)).sum())
    assert 2 * surely - 20 <= counted <= 2 * seen.most_served(samples) + 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_open_loop_sends_what_falls_due(triton: RunningTriton, protocol: Protocol) -> None:
    target = target_of(triton.state.address(protocol), "tiny", None)
    plan = LoadPlan(rate_per_s=60.0, arrivals="constant", duration_s=2.0, warmup_s=0.3)
    measured = measuring.measure(target, plan, QUICK)
    assert measured.sent == pytest.approx(60 * measured.window_s, abs=2)  # it may close late on a busy machine
    assert measured.late is not None
    assert (measured.p50_ms or 0) >= (measured.service.p50_ms or 1)


def test_inputs_go_through_shared_memory_where_the_server_lets_us(triton: RunningTriton) -> None:
    target = target_of(triton.state.address("http"), "tiny", 1)
    right = payloads.canaries(triton.repository.card("tiny", 1), 2)
    extras = replace(QUICK, payloads=lambda _t, _b: right, shared_memory=True)
    measured = measuring.measure(target, replace(SHORT, batch_size=2), extras)
    assert measured.answers.checked > 10
    assert measured.answers.wrong == 0
    assert not list(Path("/dev/shm").glob(f"resx-bench-{os.getpid()}*"))


def test_a_server_without_our_key_refuses_shared_memory_and_the_message_says_what_helps(
    triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    done = resx("bench", "tiny", "--shared-memory", "--url", triton.url("http"), "--concurrency", "1")
    assert done.code == 4
    assert "--shared-memory" in done.err
    assert "--allow-client-shm" in done.err


def test_closed_and_open_loops_are_one_result(triton: RunningTriton, resx: Callable[..., Finished]) -> None:
    words = ("--concurrency", "1,2", "--rate", "30", "--duration", "0.6", "--warmup", "0.2", "--json", "-q")
    done = resx("bench", "tiny", f"--repository={triton.repository.root}", *words)
    loads = [(one["load"], one["concurrency"], one["rate_per_s"]) for one in done.json["measurements"]]
    assert loads == [("closed", 1, 0.0), ("closed", 2, 0.0), ("open", 0, 30.0)]


def test_every_file_is_written_and_says_the_same(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    done = resx(
        "bench",
        "tiny",
        f"--repository={triton.repository.root}",
        "--concurrency",
        "1:2",
        "--duration",
        "0.6",
        "--warmup",
        "0.2",
        "--repeat",
        "2",
        "-o",
        "r.json",
        "--csv",
        "r.csv",
        "--samples",
        "r.jsonl",
        "--hdr-log",
        "r.hlog",
        "--json",
    )
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result == done.json
    jsonschema.validate(result, json.loads(schema_text()))
    assert [measured["concurrency"] for measured in result["measurements"]] == [1, 1, 2, 2]
    assert [entry["num_runs"] for entry in result["repeated"]] == [2, 2]
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row[0] for row in rows[1:]] == ["1", "1", "2", "2"]
    answered = sum(measured["requests"] for measured in result["measurements"])
    samples = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(samples) == answered
    assert all(sample["due_s"] <= sample["sent_s"] <= sample["done_s"] for sample in samples)
    reader = HistogramLogReader(str(tmp_path / "r.hlog"), HdrHistogram(1, 10**9, 3))
    counts = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        counts.append(histogram.get_total_count())
    reader.close()
    assert counts == [measured["requests"] for measured in result["measurements"]]


def test_models_are_compared_pair_by_pair_and_a_baseline_fails_with_exit_code_3(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    common = [f"--repository={triton.repository.root}", "--concurrency", "2", "--duration", "0.4", "--warmup", "0.1"]
    done = resx("bench", "tiny", "tiny_float", "--compare", "--repeat", "3", *common, "--json", "-o", "r.json")
    assert done.code == 0, done.err
    assert [measured["model"] for measured in done.json["measurements"]] == [
        "tiny",
        "tiny_float",
        "tiny_float",
        "tiny",
        "tiny",
        "tiny_float",
    ]
    ratio = next(ratio for ratio in done.json["ratios"] if ratio["what"] == "images_per_s")
    assert (ratio["target"], ratio["base"], ratio["num_pairs"]) == ("tiny_float", "tiny", 3)
    assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    slower = json.loads((tmp_path / "r.json").read_text())
    for measured in slower["measurements"]:
        measured["images_per_s"] *= 10
    (tmp_path / "old.json").write_text(json.dumps(slower))
    done = resx("bench", "tiny", *common, "--baseline", "old.json", "--fail-above", "50%")
    assert done.code == 3
    assert "worse than the baseline by more than 50%" in done.err


def test_a_model_beside_itself_is_two_sides_with_ratios_that_were_measured(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    """The usual check of how far two equal measurements are apart."""
    common = [f"--repository={triton.repository.root}", "--concurrency=2", "--duration=0.4", "--warmup=0.1"]
    done = resx(
        "bench", "tiny", "tiny", "--compare", "--repeat=2", *common, "--json", "-o", "r.json", "--report=r.html"
    )
    assert done.code == 0, done.err
    found = done.json
    assert [one["label"] for one in found["measurements"]] == ["tiny (1)", "tiny (2)", "tiny (2)", "tiny (1)"]
    assert [(one["target"], one["num_runs"]) for one in found["repeated"]] == [("tiny (1)", 2), ("tiny (2)", 2)]
    ratio = next(one for one in found["ratios"] if one["what"] == "images_per_s")
    assert (ratio["target"], ratio["base"], ratio["num_pairs"]) == ("tiny (2)", "tiny (1)", 2)
    rates: dict[str, float] = {"tiny (1)": 1.0, "tiny (2)": 1.0}
    for one in found["measurements"]:
        rates[one["label"]] *= one["images_per_s"]
    assert ratio["ratio"] == pytest.approx((rates["tiny (2)"] / rates["tiny (1)"]) ** 0.5)
    assert set(found["models"]) == {"tiny (1)", "tiny (2)"}
    assert "tiny (2) to tiny (1)" in (tmp_path / "r.html").read_text()
    slower = json.loads((tmp_path / "r.json").read_text())
    for one in slower["measurements"]:
        one["images_per_s"] *= 100 if one["label"] == "tiny (2)" else 1e-6
    (tmp_path / "old.json").write_text(json.dumps(slower))
    again = resx("bench", "tiny", "tiny", "--compare", "--repeat=2", *common, "--baseline=old.json", "--fail-above=99%")
    assert again.code == 3, "each side is held to its own"
    worse = re.findall(r"(tiny \(\d\)) at concurrency 2: [\d.e+]+ images/s", again.err)
    assert worse == ["tiny (2)", "tiny (2)"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("tiny", "tiny"), ["tiny (1)", "tiny (2)"]),
        (("tiny:1", "tiny:1"), ["tiny:1 (1)", "tiny:1 (2)"]),
        (("tiny", "tiny:1"), ["tiny", "tiny:1"]),
        (("tiny", "tiny", "tiny"), ["tiny (1)", "tiny (2)", "tiny (3)"]),
        (("tiny", "tiny_fp16", "tiny"), ["tiny (1)", "tiny_fp16", "tiny (2)"]),
        (("tiny@HTTP", "tiny@HTTP"), ["tiny (1)", "tiny (2)"]),
        (("tiny@HTTP", "tiny@GRPC"), ["tiny@HTTP", "tiny@GRPC"]),
        (("tiny@GRPC", "tiny@HTTP", "tiny@GRPC"), ["tiny@GRPC (1)", "tiny@HTTP", "tiny@GRPC (2)"]),
    ],
)
def test_equal_sides_of_a_comparison_are_told_apart(
    triton: RunningTriton, names: tuple[str, ...], labels: list[str]
) -> None:
    targets = []
    for text in names:
        called, _, server = text.partition("@")
        model, _, version = called.partition(":")
        address = triton.state.address("http" if server == "HTTP" else "grpc")
        targets.append(target_of(address, model, int(version) if version else None))
    apart = tell_apart(targets)
    hosts = {word: triton.state.address(word.lower()).host_port for word in ("HTTP", "GRPC")}  # type: ignore[arg-type]
    assert [one.name for one in apart] == [
        label.replace("HTTP", hosts["HTTP"]).replace("GRPC", hosts["GRPC"]) for label in labels
    ]
    made = [
        measuring.measure(target, replace(SHORT, duration_s=0.2), QUICK, repeat=number)
        for number in (1, 2)
        for target in apart[:2]
    ]
    known = [replace_rate(one, 100.0 * one.repeat if one.target == apart[0].name else 300.0) for one in made]
    first = ratios([one.name for one in apart[:2]], known)[0]
    assert first.ratio == pytest.approx((300 / 100 * 300 / 200) ** 0.5)
    assert [one.num_runs for one in summarize_repeats(known)] == [2, 2]


def replace_rate(measured: Measurement, images_per_s: float) -> Measurement:
    return measured.model_copy(update={"images_per_s": images_per_s})


def num_answered(client: TritonClient, model: str) -> int:
    """Return how many requests the model has answered."""
    return sum(int(entry["inference_stats"]["success"].get("count", 0)) for entry in client.statistics(model))


def test_a_second_without_an_answer_shows_in_the_tail_of_an_open_loop(
    triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    ended = threading.Event()

    def stall() -> None:
        with triton.client() as client:
            before = num_answered(client, "tiny")
            while num_answered(client, "tiny") < before + 150 and not ended.wait(0.05):
                pass  # until the load has begun, however long the command takes to start
        os.kill(triton.state.server_pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(triton.state.server_pid, signal.SIGCONT)

    thread = threading.Thread(target=stall)
    thread.start()
    done = resx(
        "bench",
        "tiny",
        f"--repository={triton.repository.root}",
        "--rate",
        "60",
        "--duration",
        "9",
        "--warmup",
        "0",
        "--json",
    )
    ended.set()
    thread.join()
    (measured,) = done.json["measurements"]
    # Those that found the queue full of what had waited were refused at once; nothing else went wrong.
    assert all("maximum queue size" in error for error in measured["errors"])
    assert measured["max_ms"] > 900
    waited = [second for second in measured["seconds"] if (second["p99_ms"] or 0) > 500]
    assert waited
    assert measured["sent"] == pytest.approx(540, rel=0.2)


def test_a_server_that_disappears_leaves_what_was_measured_marked(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    state = supervisor.serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    done: list[Finished] = []
    options = ("--url", str(state.address("http")), "--concurrency", "2", "--warmup", "0", "--duration", "600")
    bench = threading.Thread(target=lambda: done.append(resx("bench", "tiny", *options, "-o", "r.json")))
    bench.start()
    with TritonClient(state.address("grpc"), timeout_s=60) as client:
        while bench.is_alive() and num_answered(client, "tiny") < 1000:  # however long the command takes to begin
            time.sleep(0.05)
    supervisor.stop(repository)
    bench.join()
    assert done[0].code == 1
    assert "Traceback" not in done[0].err
    (measured,) = json.loads((tmp_path / "r.json").read_text())["measurements"]
    assert measured["interrupted"]
    assert measured["requests"] > 10
    assert "no answer for 3 s" in measured["invalid"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], "--rate 0"),
        (["--rate", "1e9"], "--rate 1e9"),
        (["--slo", "p99=15ms", "--rate", "5"], "remove --concurrency and --rate"),
        (["--compare", "tiny_fp16", "--rate", "5", "--concurrency", "1"], "takes one load"),
        (["--compare"], "needs two models"),
        (["--slo", "p99"], "p99=15ms"),
        (["tiny_float", "--slo", "p99=15ms"], "searches for one model"),
        (["--slo", "p99=15ms", "--in-process"], "--in-process"),
        (["--slo", "p99=15ms", "--baseline", "nothing.json"], "--baseline"),
        (["--scenario", "offline", "--concurrency", "2"], "remove --concurrency"),
        (["--scenario", "server", "--rate", "20", "--slo", "p90=15ms"], "give p99"),
        (["-o", "missing/r.json"], "no such folder: missing"),
        (["-o", "/proc/r.json"], "/proc cannot be written to"),
        (["--report", "."], "is a folder"),
        (["--data", "nowhere"], "no such folder"),
        (["--check"], "no card"),
        (["--baseline", "nothing.json"], "nothing.json"),
        (["--fail-above", "x", "--baseline", "nothing.json"], "nothing.json"),
        (["--processes", "5", "--concurrency", "2"], "processes=5"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is_begun(
    triton: RunningTriton, resx: Callable[..., Finished], arguments: list[str], words: str
) -> None:
    done = resx("bench", "tiny", "--url", triton.url("http"), *arguments)
    assert done.code == 2, done.err
    assert words in done.err
    assert done.out == ""


def test_answers_are_held_to_the_card_of_the_version_that_answers_not_of_the_newest(
    triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    publish_tiny(triton.repository, "twice")
    with TritonClient(triton.state.address("grpc")) as client:
        deploy(client, triton.repository, "twice")
        publish_tiny(triton.repository, "twice", seed=5)  # there, and not deployed
        done = resx(
            "bench",
            "twice",
            f"--repository={triton.repository.root}",
            "--concurrency",
            "1",
            "--duration",
            "0.5",
            "--in-process",
            "--json",
        )
        undeploy(client, triton.repository, "twice")
    assert done.code == 0, done.err
    assert done.json["measurements"][0]["answers"]["checked"] > 0


def test_the_published_schema_is_the_results() -> None:
    assert (ROOT / "docs/bench.schema.json").read_text() == schema_text()


def test_a_client_of_one_model_needs_no_repository(triton: RunningTriton, resx: Callable[..., Finished]) -> None:
    done = resx("bench", "tiny", "--url", triton.url("grpc"), "--concurrency", "1", "--duration", "0.5", "--json")
    assert done.code == 0, done.err
    assert done.json["measurements"][0]["answers"]["checked"] == 0
    with TritonClient(triton.state.address("grpc")) as client:
        assert client.is_live()


def test_hidden_files_of_a_data_folder_are_not_sent(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "images"
    for folder in (root, root / ".ipynb_checkpoints", root / "__MACOSX"):
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 20), "red").save(folder / "a.png")
    (root / "._a.png").write_bytes(b"\0\5\26\7" + bytes(4092))
    interface = Interface(
        input_name="image",
        input_type="UINT8",
        output_name="logits",
        num_classes=10,
        input_dims=(3, 16, 16),
        max_batch_size=4,
        fixed_batch=False,
        parameters={},
    )

    sent = payloads.pictures(root, interface, 1, None)

    assert sent.contents == f"1 images of {root}; skipped 3 hidden files or folders"
    (root / "b.avif").touch()
    for number in range(299):
        (root / f"a{number}.png").symlink_to("a.png")
    sent = payloads.pictures(root, interface, 1, None)
    skipped = "skipped 3 hidden files or folders and 1 .avif file: convert it to JPEG or PNG"
    assert sent.contents == f"the first 256 of 300 images of {root}; {skipped}"
