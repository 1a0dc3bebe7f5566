"""Words of strangers on a terminal: shown, never obeyed, whoever prints them and whether or not a spinner turns."""

from __future__ import annotations

import http.server
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from PIL import Image
from pyarrow import parquet

from resx.cli import output
from resx.cli.output import Output
from resx.repository.versions import Repository
from resx.serving.running import logs
from resx.serving.running.server_state import LOG
from resx.serving.running.state_folders import folder_of
from resx.serving.supervisor import systemd
from resx.zoo.catalog import variant
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]
# A window's title, a colour by C0 and by C1, a link, what goes back in the line, what turns it round; rich's own words.
EVIL = (
    "\x1b]0;OWNED\x07\x1b[5mE\x9b5m\x1b]8;;http://evil/\x1b\\link\b\x7f\rX\u202e\u200f"
    "[red]m[/red][link=http://e]l :boom:"
)
SHOWN = (
    r"\x1b]0;OWNED\x07\x1b[5mE\x9b5m\x1b]8;;http://evil/\x1b\link\x08\x7f\rX\u202e\u200f"
    "[red]m[/red][link=http://e]l :boom:"
)
_END = "-- the end --"
_ACTED_ON = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# What rich writes on a terminal: colours, the cursor's line, column and visibility.
_OF_RICH = re.compile(r"\x1b\[(\d+A|2K|\?25[lh]|[0-2]m|(1;)?3[1-6]m|9[0-1]m)|\r")


def require_text(text: str) -> None:
    """Check that nothing in it steers a terminal."""
    assert not (found := _ACTED_ON.search(text)), repr(text[max(0, found.start() - 40) : found.end() + 40])


def on_a_terminal(script: str, folder: Path) -> str:
    """Run Python with a terminal of 2,000 columns as stdout and stderr; return all that reached it."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "2000", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=theirs, stderr=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 65536):
            said += block
    except OSError:  # its last writer is gone
        pass
    os.close(ours)
    process.wait()
    return said.decode()


@pytest.fixture
def evil_server() -> Iterator[str]:
    class Evil(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.dumps({"error": f"{EVIL}\nsecond"}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def evil_onnx(path: Path) -> None:
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Flatten", [EVIL], ["y"], name=EVIL)],
            EVIL,
            [helper.make_tensor_value_info(EVIL, TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 192])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    helper.set_model_props(made, {EVIL: EVIL, "resx.mean": EVIL})
    onnx.save(made, path)


def commands(folder: Path, all_arguments: Sequence[Sequence[str]]) -> list[str]:
    """Run commands one after the other in one process, for the imports' sake; return what each wrote."""
    script = f"""
import sys
from resx.cli.main import main
for arguments in {list(all_arguments)!r}:
    sys.argv = ["resx", *arguments]
    try:
        main()
    except SystemExit:
        print("{_END}", flush=True)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    ).stdout.decode()
    return said.split(f"{_END}\n")[:-1]


def test_no_word_of_a_stranger_reaches_the_terminal_raw(tmp_path: Path, evil_server: str) -> None:
    evil_onnx(tmp_path / "x.onnx")
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    parquet.write_table(pa.table({EVIL: [b"1"], "b": [b"2"]}), tmp_path / "t.parquet")
    folder_name = EVIL.replace("/", "")
    (tmp_path / folder_name).mkdir()
    (tmp_path / "run").mkdir()
    run = json.loads(variant("resnet20").spec.model_dump_json()) | {"name": f"{EVIL}\nforged: line"}
    (tmp_path / "run" / "spec.json").write_text(json.dumps(run))
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps({"epoch": 1, EVIL: f"a\n{EVIL}"}) + "\n")
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    card = tmp_path / "model_repository" / "tiny" / "1" / "card.json"
    changed = json.loads(card.read_text())
    changed["source"]["weights"] = changed["command"] = f"{EVIL}\nforged: line"
    changed["operators_after"][EVIL] = 1
    card.write_text(json.dumps(changed))
    (tmp_path / "run2").mkdir()
    (tmp_path / "run2" / "spec.json").write_text(json.dumps(run | {"labels": [EVIL, *"abcdefghi"]}))

    asked = commands(
        tmp_path,
        (
            ["info", "x.onnx"],
            ["info", "run"],
            ["info", "run", "--json"],
            ["info", "run2"],
            ["info", "tiny"],
            ["predict", "tiny", "t.parquet", "-o", "o.csv"],
            ["predict", "tiny", "p.png", "-o", f"{folder_name}/o.exe"],
            ["query", "m", f"{folder_name}/p.png"],
            [f"--{folder_name}"],
            [folder_name],
            ["info", folder_name],
            ["status", "--url", evil_server],
            ["query", "m", "p.png", "--url", evil_server],
            ["bench", "m", "--url", evil_server],
        ),
    )

    for said in asked:
        require_text(said)
        assert "Traceback" not in said
        assert "\nforged" not in said
        assert "OWNED" in said
    assert SHOWN in asked[0]
    assert SHOWN in asked[1]
    assert "error: run2/spec.json: label '\\x1b]0;OWNED" in asked[3]
    assert f"{SHOWN}\\nforged: line" in asked[4]


def test_what_others_print_while_a_spinner_or_a_bar_is_shown_is_text_too(tmp_path: Path) -> None:
    script = f"""
import logging, sys, time, warnings
from resx import streams
from resx.cli.output import Output
from resx.cli.views.progress import show_bar
streams.make_readable()
evil, out = {EVIL!r}, Output(as_json=False, quiet=False)
with out.live() as live:
    live.begin(evil + "\\nforged"); live.show(evil); time.sleep(0.2)
    warnings.warn(evil); print(evil); print("two\\nlines"); logging.getLogger("x").warning(evil)
    sys.stderr.write("unended " + evil)
with show_bar(out, "images", with_rate=True) as moved:
    moved(1, 4); print("above " + evil); moved(2, 4)
out.result({{}}, lambda console: console.print(evil + "\\nforged"))
raise RuntimeError(evil)
"""
    said = on_a_terminal(script, tmp_path)

    left = _OF_RICH.sub("", said.replace("\x1b[2K", "\n"))  # where a line is begun anew
    require_text(left)
    assert "\nforged" not in left
    for line in (
        "two",
        "lines",
        SHOWN,
        f"unended {SHOWN}",
        f"above {SHOWN}",
        f"{SHOWN}\\nforged",
        f"RuntimeError: {SHOWN}",
    ):
        assert any(one.rstrip() == line for one in left.split("\n")), line
    assert "\x1b[?25h" in said  # there was a spinner


def test_help_keeps_its_colours_on_a_terminal_and_an_error_shows_what_was_typed(tmp_path: Path) -> None:
    script = "import sys; from resx.cli.main import main; sys.argv = ['resx', *{}]; main()"

    helped = on_a_terminal(script.format(["query", "--help"]), tmp_path)
    failed = on_a_terminal(script.format(["query", f"--{EVIL}"]), tmp_path)

    assert "\x1b[1" in helped
    assert "\\x1b" not in helped
    require_text(_OF_RICH.sub("", failed))
    assert "OWNED" in failed


def test_json_has_no_byte_that_steers_a_terminal_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True, quiet=False).result({EVIL: [EVIL, {"a": EVIL}]}, lambda _console: None)

    printed = capsys.readouterr().out
    require_text(printed)
    assert json.loads(printed) == {EVIL: [EVIL, {"a": EVIL}]}


def test_a_cell_a_title_and_a_column_take_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    made = output.table("[b]t", ["[red]column[/red]"], [["[link=x]a"], ["a\\[b]"], ["one\ntwo\tthree"]])

    Output(as_json=False, quiet=False).result({}, lambda console: console.print(made))

    printed = capsys.readouterr().out
    for text in ("[b]t", "[red]column[/red]", "[link=x]a", "a\\[b]", "one\\ntwo\\tthree"):
        assert text in printed


def test_a_log_is_shown_as_text_and_no_name_in_it_makes_a_line_of_its_own(resx: Resx, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    repository.root.mkdir()
    log = folder_of(repository) / LOG
    log.parent.mkdir(parents=True)
    logs.append(log, f"{EVIL}\nresx 0101 00:00:00 1] forged")
    with log.open("ab") as file:
        file.write(f"E0101 {EVIL}\u2028resx forged \x85resx forged\r\n".encode() + b"\xff\n")

    shown, followed, asked = resx("logs"), resx("logs", "-f", "-n", "0"), resx("logs", "--json")

    require_text(shown.out)
    assert (shown.code, followed.code, followed.out) == (0, 0, "")
    own, other, last = shown.out.splitlines()
    assert own.endswith(f"{SHOWN}\\nresx 0101 00:00:00 1] forged")
    assert other.startswith(f"E0101 {SHOWN}\\u2028resx forged \\x85resx forged\\r")
    assert last == "\N{REPLACEMENT CHARACTER}"
    require_text(asked.out)
    assert len(asked.json["lines"]) == 3


def test_the_service_manager_is_told_one_thing_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        systemd.notify("STATUS=model a\nMAINPID=1 is recovering")

        assert listener.recv(1000) == b"STATUS=model a\\nMAINPID=1 is recovering"


@pytest.mark.parametrize(("closed", "arguments", "code"), [(1, "models", 0), (2, "frob", 2), (1, "frob", 2)])
def test_a_stream_that_is_closed_takes_nothing_and_changes_no_exit_code(
    tmp_path: Path, closed: int, arguments: str, code: int
) -> None:
    command = f"exec {sys.executable} -m resx {arguments} {closed}>&-"

    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
