"""The patches as a whole: left out by a switch, in a folder of its own, and written into no file but the one known."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from resx.errors import MissingCapability, UsageError
from resx.repository.versions import Repository
from resx.serving.client.address import PROTOCOLS, Protocol
from resx.serving.client.loopback import LOOPBACK
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.rollback import undeploy
from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.installation.triton_installation import install
from resx.serving.embedded.patches import batcher, idle_instances, patch_set, region_modes, request_limits, socket_reads
from resx.serving.embedded.patches.binary_edits import Edit, rewrite
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import KEY
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.assembler import assemble
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

PATCHED_FILES = (
    f"libs/{batcher.LIBRARY}",
    "bin/tritonserver",
    *(f"backends/python/{name}" for name in region_modes.FILES),
)


EDITED = {
    f"libs/{batcher.LIBRARY}": (*batcher.EDITS, *idle_instances.EDITS),
    "bin/tritonserver": (*request_limits.edits(), *socket_reads.EDITS),
}
DELAYED = "dynamic_batching {{ max_queue_delay_microseconds: {us} "


@pytest.fixture(scope="module")
def unpatched(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> Iterator[RunningTriton]:
    repository = Repository(tmp_path_factory.mktemp("unpatched") / "model_repository")
    publish_tiny(repository, "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(patch_set.SWITCH, "1")
        serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    yield RunningTriton(repository=repository)
    stop(repository)


@pytest.mark.triton
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_server_works_without_the_patches(unpatched: RunningTriton, protocol: Protocol) -> None:
    images = np.zeros((2, 3, 16, 16), np.uint8)
    with unpatched.client(protocol) as client:
        publish_tiny(unpatched.repository, "tiny", seed=1)
        deployed = deploy(client, unpatched.repository, "tiny")
        assert deployed.checked
        assert client.infer("tiny", client.interface("tiny"), images).version == deployed.version


@pytest.mark.triton
def test_without_the_patches_no_byte_and_no_argument_is_another(unpatched: RunningTriton) -> None:
    program = Path(f"/proc/{unpatched.state.server_pid}/exe").resolve()
    theirs, ours = program.parent.parent, install().server.parent.parent
    assert theirs != ours
    for name in PATCHED_FILES:
        assert (theirs / name).read_bytes() != (ours / name).read_bytes(), name
    for name, edits in EDITED.items():
        content = (theirs / name).read_bytes()
        assert all(content[at : at + len(before)] == before for at, before, _ in edits), name
    log = Path(unpatched.state.log)
    assert (log.parent / KEY).read_text() in Path(f"/proc/{unpatched.state.server_pid}/cmdline").read_text()
    assert "the process list: an unpatched program is left as it is" in log.read_text()


@pytest.mark.triton
def test_status_says_that_an_unpatched_server_is_not_guarded(
    unpatched: RunningTriton, triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    shown = [resx("status", "--json", "--repository", one.repository.root) for one in (unpatched, triton)]
    assert [json.loads(status.out)["guarded"] for status in shown] == [False, True]


@pytest.mark.triton
def test_the_unpacked_files_have_what_this_version_changes(triton: RunningTriton) -> None:
    """They are kept between versions, so whoever changes a patch has to raise the number of the layout."""
    root = Path(f"/proc/{triton.state.server_pid}/exe").resolve().parent.parent
    for name, edits in EDITED.items():
        content = (root / name).read_bytes()
        assert all(content[at : at + len(after)] == after for at, _, after in edits), name


def test_what_hands_requests_over_is_the_listings_code_and_lies_in_the_way_of_each(tmp_path: Path) -> None:
    code, places = assemble("idle_instances.s", idle_instances.CODE_AT, "enqueue", tmp_path)
    assert code == idle_instances.CODE
    branch, _ = idle_instances.EDITS

    def target(instruction: bytes) -> int:
        return branch.at + len(instruction) + int.from_bytes(instruction[2:], "little", signed=True)

    assert target(branch.before) == places["batched"]
    assert target(branch.after) == places["enqueue"]
    assert branch.at + len(branch.after) == places["direct"], "where a model without batching goes on"


@pytest.mark.triton
def test_with_a_queue_delay_a_request_waits_for_others(triton: RunningTriton) -> None:
    """Of requests one after another, some wait all of it: others may find the server's own check in the queue."""
    name, delay_s = "delayed", 0.5
    publish_tiny(triton.repository, name)
    config = triton.repository.root / name / "config.pbtxt"
    config.write_text(config.read_text().replace("dynamic_batching {", DELAYED.format(us=round(delay_s * 1e6))))
    with triton.client("http") as client:
        deploy(client, triton.repository, name)
        interface = client.interface(name)
        answered_s = [time.monotonic()]
        for _ in range(4):
            client.infer(name, interface, np.zeros((1, 3, 16, 16), np.uint8))
            answered_s.append(time.monotonic())
        assert max(np.diff(answered_s)) >= delay_s
        undeploy(client, triton.repository, name)


@pytest.mark.triton
def test_a_large_request_is_read_in_few_pieces(unpatched: RunningTriton, triton: RunningTriton) -> None:
    body = b" " * 2**19

    def reads_per_request(server: RunningTriton) -> float:
        process = psutil.Process(server.state.server_pid)
        before = process.io_counters().read_count
        for _ in range(10):
            connection = http.client.HTTPConnection(LOOPBACK, server.state.http_port, timeout=60)
            connection.request("POST", "/v2/models/tiny/infer", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status >= 400  # no JSON, but read to its end
            connection.close()
        return (process.io_counters().read_count - before) / 10

    assert reads_per_request(unpatched) >= len(body) / 4096
    assert reads_per_request(triton) < len(body) / 4096 / 2


@pytest.mark.parametrize(("text", "expected"), [("", True), ("0", True), ("1", False), (" 1 ", False)])
def test_the_switch_is_on_at_1_alone(monkeypatch: pytest.MonkeyPatch, text: str, expected: bool) -> None:
    monkeypatch.setenv(patch_set.SWITCH, text)
    assert patch_set.is_patched() is expected
    folder = triton_installation._install_root()
    assert folder.name.endswith("-unpatched") is not expected


@pytest.mark.parametrize("text", ["yes", "2", "true"])
def test_another_word_for_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(patch_set.SWITCH, text)
    with pytest.raises(UsageError, match=f"RESX_UNPATCHED={text}: use 1"):
        patch_set.is_patched()


def test_a_file_that_is_not_the_known_one_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.write_bytes(b"abcdef")
    with pytest.raises(MissingCapability, match=r"library\.so: from a different wheel .*RESX_UNPATCHED=1"):
        rewrite(file, [Edit(0, b"ab", b"xy"), Edit(4, b"--", b"zz")])
    assert file.read_bytes() == b"abcdef"
    rewrite(file, [Edit(0, b"ab", b"xy"), Edit(4, b"ef", b"zz")])
    assert file.read_bytes() == b"xycdzz"
