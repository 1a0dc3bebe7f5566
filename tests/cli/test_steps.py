"""What a person sees of a command's steps on a terminal: each once, with its time, and nothing left of the spinner."""

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

_STEPS = """
import logging, sys, time
from resx.cli.output import Output
out = Output(as_json=False, quiet=False)
with out.live() as live:
    live.begin("load PyTorch")
    time.sleep(0.3)  # some frames of the spinner
    live.show("half of it")
    out.note("a note in between")
    live.begin("export a network whose name and settings take more than a terminal of eighty columns has in one line")
    time.sleep(0.3)
    live.begin("publish")
with out.steps() as step:
    step("load and check its answer")
    time.sleep(0.2)
out.note("the end")
"""


def on_a_terminal(command: list[str], columns: int, cwd: Path) -> str:
    """Run a command whose stderr is a terminal, and return the bytes that it wrote there."""
    ours, theirs = pty.openpty()
    read: list[bytes] = []

    def read_all() -> None:
        try:
            while part := os.read(ours, 4096):
                read.append(part)
        except OSError:  # the last writer has gone
            return

    reader = threading.Thread(target=read_all)
    reader.start()
    environment = os.environ | {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color"}
    done = subprocess.run(command, cwd=cwd, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert done.returncode == 0, b"".join(read)
    return b"".join(read).decode()


def screen(text: str, columns: int) -> list[str]:
    """Return what is left on the screen: carriage returns, lines up and erased lines are obeyed, colors left out."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b["):
            if part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                lines[row] = ""
        else:
            for character in part:
                if column == columns:
                    row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
                column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("columns", [80, 120])
def test_each_step_is_left_on_the_screen_once_with_its_time(columns: int, tmp_path: Path) -> None:
    written = on_a_terminal([sys.executable, "-c", _STEPS], columns, tmp_path)
    assert "\x1b[2K" in written, "there was a spinner"
    seen = "".join(line.ljust(columns) if len(line) == columns else line + "\n" for line in screen(written, columns))
    seconds = r"  \d+\.\d s\n"
    assert re.fullmatch(
        rf"a note in between\n✓ Loaded PyTorch{seconds}✓ Exported a network .* in one line{seconds}✓ Published{seconds}"
        rf"✓ Loaded and checked its answer{seconds}the end\n\s*",
        seen,
    ), seen


def test_a_real_command_leaves_its_steps_once(tmp_path: Path) -> None:
    from resx.repository.versions import Repository
    from tests.support.tiny_models import publish_tiny

    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    seen = screen(on_a_terminal([sys.executable, "-m", "resx", "verify", "tiny"], 80, tmp_path), 80)
    steps = [line for line in seen if re.search(r"\d\.\d s$", line)]
    assert steps
    assert [line for line in seen if line] == steps, "no spinner and no second copy is left"
    assert len({re.sub(r"\d+\.\d s$", "", line) for line in steps}) == len(steps)
    assert all(re.match("✓ [A-Z]", line) for line in steps), steps
