"""Pages with commands that run: take them out of the Markdown, run them in a folder, write what they print back.

    python -m docsite.console_pages docs/tutorial.md README.md

runs each page in an empty folder and writes its outputs.

A block of `console` has commands behind `$ ` and what they print below; one of `console quiet`, the commands alone. A
block with `title="FILE"` is a file that the commands find. Servers get free ports; the page shows the usual ones.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')
PORTS = (8000, 8001, 8002)
LONGEST_S = 600
WIDTH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A file to write, or a command to run."""

    place: int
    """Where it stands in the page's text."""
    file: str = ""
    text: str
    """The file's, or the command's."""


def steps_of(page: str) -> list[Step]:
    """Return a page's files and commands in their order."""
    steps = []
    for block in _FENCE.finditer(page):
        language, info, body = block.groups()
        if title := _TITLE.search(info):
            steps.append(Step(place=block.start(3), file=title[1], text=body))
        elif language == "console":
            steps += [
                Step(place=block.start(3) + line.start(), text=line[1])
                for line in re.finditer(r"^\$ ((?:.*\\\n)*.*)$", body, flags=re.MULTILINE)
            ]
    return steps


def run(
    steps: list[Step], folder: Path, environment: Mapping[str, str], *, width: int = WIDTH
) -> Iterator[tuple[Step, int, str]]:
    """Do the steps in a folder, one at a time; yield each command with its exit code and what it printed."""
    ports = dict(zip(PORTS, _free_ports(), strict=True))
    path = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath)))
    for step in steps:
        if step.file:
            (folder / step.file).write_text(_on_ports(step.text, ports))
            continue
        done = subprocess.run(
            ["bash", "-c", _on_ports(step.text, ports)],
            cwd=folder,
            env={**environment, "PATH": path, "COLUMNS": str(width)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        yield step, done.returncode, _as_usual(done.stdout, ports)


def _on_ports(command: str, ports: Mapping[int, int]) -> str:
    for usual, free in ports.items():
        command = command.replace(f":{usual}", f":{free}")
    if re.match(r"resx serve\b", command):
        options = zip(("--http-port", "--grpc-port", "--metrics-port"), ports.values(), strict=True)
        command += "".join(f" {name} {port}" for name, port in options)
    return command


def _as_usual(output: str, ports: Mapping[int, int]) -> str:
    for usual, free in ports.items():
        output = output.replace(f":{free}", f":{usual}")
    return output


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        return [one.getsockname()[1] for one in sockets]


def write_outputs(page: str, outputs: Mapping[int, str]) -> str:
    """Return the page with what each command printed below it; `outputs` by the commands' places."""

    def fill(block: re.Match[str]) -> str:
        if block[1] != "console" or "quiet" in block[2]:
            return block[0]
        lines = []
        for command in re.finditer(r"^\$ (?:.*\\\n)*.*$", block[3], flags=re.MULTILINE):
            lines += [command[0], *_tidy(outputs.get(block.start(3) + command.start(), ""))]
        return f"```console{block[2]}\n" + "\n".join(lines) + "\n```"

    return _FENCE.sub(fill, page)


def _tidy(output: str) -> list[str]:
    lines = [line.rstrip() for line in output.splitlines()]
    return [line for line in lines if line]


def record(file: Path, environment: Mapping[str, str]) -> None:
    """Run a page's commands in an empty folder and write what they print into it.

    Raises:
        SystemExit: a command failed.
    """
    page = file.read_text()
    outputs = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        # No export is taken from an earlier run of the page.
        for step, code, output in run(steps_of(page), Path(folder), {**environment, "RESX_EXPORT_CACHE_GB": "0"}):
            if code:
                sys.exit(f"{file}: {shlex.quote(step.text)} ended with {code}:\n{output}")
            output = output.replace(environment.get("RESX_STATE", "\0"), "~/.local/state/resx")
            outputs[step.place] = output.replace(str(Path.home()), "~")
    file.write_text(write_outputs(page, outputs))


def prepare(folder: Path) -> None:
    """Put the pictures there that the pages' commands name."""
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_images

    Image.fromarray(load_sample_images().images[0]).save(folder / "photo.jpg")
    digit = Image.fromarray((load_digits().images[3] * 255 / 16).astype("uint8"))
    digit.resize((64, 64)).save(folder / "digit.png")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(Path(argument), os.environ)
