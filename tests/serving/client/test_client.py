"""A real Triton answers real requests."""

import json
import shutil
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from resx.bench import measuring
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.request_times import LoadProgress
from resx.bench.measuring import Extras
from resx.bench.results.verdict import SOMEBODY_ELSE
from resx.card.canary_rows import canary_input
from resx.errors import MissingCapability, ParityError, ServerError, UsageError
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.client.address import PROTOCOLS, Address, Protocol, parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.transport import Transport
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.file_checks import VersionRejected
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)


def in_process(triton: RunningTriton, name: str) -> OnnxRuntimeModel:
    return OnnxRuntimeModel(triton.repository.version_folder(name) / "model.onnx")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["tiny", "tiny_fp16"])
def test_the_served_answer_is_the_files_answer(triton: RunningTriton, protocol: Protocol, name: str) -> None:
    with triton.client(protocol) as client:
        interface = client.interface(name)
        answer = client.infer(name, interface, IMAGES)
    expected = in_process(triton, name)(IMAGES)
    assert answer.version == 1
    assert np.abs(answer.logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_requests_that_were_batched_together_each_get_their_own_answer(triton: RunningTriton) -> None:
    expected = in_process(triton, "tiny")(np.concatenate([IMAGES] * 1))
    with triton.client() as client:
        interface = client.interface("tiny")

        def ask(index: int) -> np.ndarray:
            return client.infer("tiny", interface, IMAGES[index % 3 : index % 3 + 1]).logits

        for _ in range(20):  # on a busy machine requests may come one by one for a while
            before = int(client.statistics("tiny")[0]["execution_count"])
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(ask, range(300)))
            executions = int(client.statistics("tiny")[0]["execution_count"]) - before
            for index, answer in enumerate(answers):
                assert np.abs(answer - expected[index % 3]).max() < 1e-4
            if executions < 300:
                break
    assert executions < 300, "dynamic batching joined none of 300 concurrent requests"


def test_a_channel_for_larger_answers_ends_no_other_threads_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC ends what is on a closed channel, and each client opens a larger one with its first request."""
    opened: list[SimpleNamespace] = []

    def connect(_transport: Transport) -> SimpleNamespace:
        channel = SimpleNamespace(is_closed=False)
        channel.close = lambda: setattr(channel, "is_closed", True)
        opened.append(channel)
        return channel

    monkeypatch.setattr(Transport, "_connected", connect)
    transport = Transport(parse_address("127.0.0.1:1", "grpc"), timeout_s=1.0, retries=0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(transport.expect, [2**27] * 8))
    assert [channel.is_closed for channel in opened] == [False, False]
    transport.close()
    assert [channel.is_closed for channel in opened] == [True, True]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_come_from_the_server(triton: RunningTriton, protocol: Protocol) -> None:
    with triton.client(protocol) as client:
        interface = client.interface("tiny")
        (row, *_) = client.classify("tiny", interface, IMAGES)
    logits = in_process(triton, "tiny")(IMAGES)[0]
    assert [guess.index for guess in row] == list(np.argsort(-logits))
    assert row[0].label == f"class-{row[0].index}"
    assert len(row) == 10


def test_a_label_that_is_no_line_is_refused_from_a_server_and_never_deployed(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    publish_tiny(triton.repository, "tiny_words")
    model = triton.repository.root / "tiny_words"
    (model / "labels.txt").write_bytes(b"a\x1b[31mred\n" * 10)
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    where = (f"--repository={triton.repository.root}", f"--url={triton.url()}")
    assert resx("deploy", "tiny_words", *where).code == 0

    asked = resx("query", "tiny_words", "p.png", *where)
    scored = resx("predict", "tiny_words", "p.png", "-o", "o.csv", f"--server={triton.url()}")

    for done in (asked, scored):
        assert (done.code, done.out) == (1, "")
        assert "tiny_words calls class " in done.err
        assert "'a\\x1b[31mred': a class's name is one line" in done.err
    assert not (tmp_path / "o.csv.parts").exists()
    card = model / "1" / "card.json"
    changed = json.loads(card.read_text())
    changed["source"]["spec"]["labels"] = ["a\nb", *map(str, range(9))]
    card.write_text(json.dumps(changed))
    with triton.client() as client, pytest.raises(UsageError, match=r"tiny_words: label 'a\\nb': a class's name"):
        deploy(client, triton.repository, "tiny_words")
    shutil.rmtree(model)


@pytest.mark.parametrize("images", [IMAGES[:, :, :8], IMAGES.repeat(2, axis=0)], ids=["shape", "batch"])
def test_a_wrong_request_is_that_requests_error(triton: RunningTriton, images: np.ndarray) -> None:
    with triton.client() as client:
        interface = client.interface("tiny")
        with pytest.raises(ServerError, match="shape|batch"):
            client.infer("tiny", interface, images)
        assert client.infer("tiny", interface, IMAGES).version == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_model_or_version_is_a_usage_error(triton: RunningTriton, protocol: Protocol) -> None:
    with triton.client(protocol) as client:
        with pytest.raises(UsageError, match="nosuch.*`resx deploy`"):
            client.interface("nosuch")
        with pytest.raises(UsageError, match="resx deploy"):
            client.interface("tiny", 7)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_control_needs_the_key(triton: RunningTriton, protocol: Protocol) -> None:
    address = triton.state.address(protocol)
    for key in ("", "wrong"):
        with (
            TritonClient(Address(host_port=address.host_port, protocol=protocol, control_key=key)) as client,
            pytest.raises(MissingCapability, match="RESX_CONTROL_KEY"),
        ):
            client.load("tiny")


def test_the_key_is_readable_by_its_owner_only(triton: RunningTriton) -> None:
    key = Path(triton.state.log).parent / "control.key"
    assert key.stat().st_mode & 0o077 == 0


def test_the_server_listens_on_loopback_only(triton: RunningTriton) -> None:
    ports = {triton.state.http_port, triton.state.grpc_port, triton.state.metrics_port}
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    hosts = {row[1].split(":")[0] for row in listening if row[3] == "0A" and int(row[1].split(":")[1], 16) in ports}
    assert hosts
    assert hosts <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, also as an IPv6 socket's address


def test_a_new_version_takes_over_and_says_so(triton: RunningTriton) -> None:
    publish_tiny(triton.repository, "swapped", seed=1)
    with triton.client() as client:
        assert deploy(client, triton.repository, "swapped").previous is None
        publish_tiny(triton.repository, "swapped", seed=2)
        done = deploy(client, triton.repository, "swapped")
        interface = client.interface("swapped")
        assert (done.version, done.previous) == (2, 1)
        assert client.infer("swapped", interface, IMAGES).version == 2
        again = deploy(client, triton.repository, "swapped")
        assert (again.version, again.previous) == (2, 2)


def test_a_version_with_wrong_weights_leaves_the_old_one_answering(triton: RunningTriton) -> None:
    """Its file is another model's and its card's hash agrees, so only the canary can tell."""
    publish_tiny(triton.repository, "canary", seed=1)
    with triton.client() as client:
        deploy(client, triton.repository, "canary")
        card, published = publish_tiny(triton.repository, "canary", seed=2)
        other = triton.repository.version_folder("canary", 1) / "model.onnx"
        (published.folder / "model.onnx").write_bytes(other.read_bytes())
        from resx.card.card import write_card
        from resx.files.staging import sha256_of

        lying = card.model_copy(update={"files": {"model.onnx": sha256_of(other)}})
        (published.folder / "card.json").write_text(write_card(lying))

        with pytest.raises(ParityError, match="version 1 kept serving"):
            deploy(client, triton.repository, "canary")

        assert client.infer("canary", client.interface("canary"), IMAGES).version == 1
        assert client.model_versions()["canary"] == [1]


def test_a_damaged_file_is_found_before_the_server_sees_it(triton: RunningTriton) -> None:
    publish_tiny(triton.repository, "damaged", seed=1)
    with triton.client() as client:
        deploy(client, triton.repository, "damaged")
        _, published = publish_tiny(triton.repository, "damaged", seed=2)
        file = published.folder / "model.onnx"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(ParityError, match="not the file that was verified"):
            deploy(client, triton.repository, "damaged")
        assert client.infer("damaged", client.interface("damaged"), IMAGES).version == 1


def test_a_version_that_does_not_load_leaves_the_old_one_and_says_why(triton: RunningTriton) -> None:
    publish_tiny(triton.repository, "broken", seed=1)
    with triton.client() as client:
        deploy(client, triton.repository, "broken")
        publish_tiny(triton.repository, "broken", seed=2)
        config = triton.repository.root / "broken" / "config.pbtxt"
        config.write_text(config.read_text().replace('name: "logits"', 'name: "wrong"'))
        with pytest.raises(VersionRejected, match="version 1 kept serving"):
            deploy(client, triton.repository, "broken")
        assert client.infer("broken", client.interface("broken", 1), IMAGES, 1).version == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_benchmark_agrees_with_the_servers_own_count(triton: RunningTriton, protocol: Protocol) -> None:
    plan = LoadPlan(concurrency=1, duration_s=3.0, warmup_s=0.3)  # long enough for canaries, which are nobody else
    result = measuring.run(triton.state.address(protocol), "tiny", [plan])
    (measured,) = result.measurements
    assert measured.errors == {}
    assert measured.server is not None
    # The server's window holds ours: it counts what came while its statistics were read too, but nothing that was not
    # sent. An answer on its way as the window opens counts for us alone.
    assert measured.server.requests >= measured.requests - plan.concurrency
    assert SOMEBODY_ELSE not in measured.remarks
    assert measured.max_ms is not None
    assert measured.max_ms >= (measured.p50_ms or 0)


def test_a_benchmark_says_that_somebody_else_asks(triton: RunningTriton) -> None:
    plan = LoadPlan(concurrency=1, duration_s=1.0, warmup_s=0.3)
    with triton.client() as client:
        interface = client.interface("tiny")

        def ask(_progress: LoadProgress, _left_s: float) -> None:
            for _ in range(100):
                client.infer("tiny", interface, IMAGES)

        extras = Extras(on_progress=ask, measure_ceiling=False)
        result = measuring.run(triton.state.address("http"), "tiny", [plan], extras=extras)
    assert SOMEBODY_ELSE in result.measurements[0].remarks


def test_a_batch_over_the_models_largest_is_refused_before_sending(triton: RunningTriton) -> None:
    with pytest.raises(UsageError, match=r"batch_size=5: tiny takes 4 at most"):
        measuring.run(triton.state.address("grpc"), "tiny", [LoadPlan(concurrency=1, batch_size=5)])


def test_query_names_what_is_on_a_photograph(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    Image.fromarray(IMAGES[0].transpose(1, 2, 0)).resize((200, 100)).save(tmp_path / "photo.jpg")
    Image.new("L", (20, 30), 128).save(tmp_path / "grey.png")
    answers = []
    for protocol in PROTOCOLS:
        done = resx("query", "tiny", "photo.jpg", "grey.png", "--url", triton.url(protocol), "--json")
        assert done.code == 0, done.err
        answers.append(done.json["images"])
    assert answers[0] == answers[1]
    assert [entry["image"] for entry in answers[0]] == ["photo.jpg", "grey.png"]
    for entry in answers[0]:
        probabilities = [guess["probability"] for guess in entry["top"]]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1


def test_query_gives_a_float_model_the_same_picture(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    Image.fromarray(IMAGES[0].transpose(1, 2, 0)).save(tmp_path / "photo.png")
    answers = [
        resx("query", name, "photo.png", "--url", triton.url(), "--json").json["images"][0]["top"]
        for name in ("tiny", "tiny_float")
    ]
    assert [guess["index"] for guess in answers[0]] == [guess["index"] for guess in answers[1]]
    assert answers[0][0]["probability"] == pytest.approx(answers[1][0]["probability"], rel=1e-4)


def test_status_and_bench_print_one_json_object(triton: RunningTriton, resx: Callable[..., Finished]) -> None:
    repository = f"--repository={triton.repository.root}"
    status = resx("status", repository, "--json").json
    assert status["pid"] == triton.state.pid
    assert {"tiny", "tiny_fp16", "tiny_float"} <= {model["name"] for model in status["models"]}
    bench = resx("bench", "tiny", repository, "--concurrency", "1,2", "--duration", "0.5", "--warmup", "0.2", "--json")
    assert bench.code == 0, bench.err
    assert [measured["concurrency"] for measured in bench.json["measurements"]] == [1, 2]
    assert bench.json["measurements"][0]["p99_ms"] is None or bench.json["measurements"][0]["requests"] >= 662


def test_the_metrics_endpoint_counts_inferences(triton: RunningTriton) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{triton.state.metrics_port}/metrics") as page:
        assert 'nv_inference_request_success{model="tiny"' in page.read().decode()


def test_the_canary_is_the_cards(triton: RunningTriton) -> None:
    card = triton.repository.card("tiny")
    logits = in_process(triton, "tiny")(canary_input(card.signature, 2))
    assert np.allclose(logits, card.canary.logits, rtol=1e-5)


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("localhost:9000", None, "grpc://localhost:9000"),
        ("http://a:1", None, "http://a:1"),
        ("grpc://a", None, "grpc://a:8001"),
        ("a", "http", "http://a:8000"),
        ("http://a:1/", "http", "http://a:1"),
    ],
)
def test_addresses(url: str, protocol: Protocol | None, expected: str) -> None:
    assert str(parse_address(url, protocol)) == expected


@pytest.mark.parametrize("url", ["ftp://a:1", "https://a/b:1", "a:b", ":8000", "a:0", "a:70000", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--url"):
        parse_address(url, None)


def test_a_scheme_and_another_protocol_contradict() -> None:
    with pytest.raises(UsageError, match="contradicts"):
        parse_address("http://a:1", "grpc")


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_CONTROL_KEY", "k")
    assert parse_address("a:1", None).control_key == "k"
    assert "k" not in json.dumps(str(parse_address("b:1", None)))
