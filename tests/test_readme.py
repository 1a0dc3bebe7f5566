"""Every command of the README runs, in its order, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_sample_images

README = Path(__file__).parents[1] / "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.mark.triton
def test_the_readmes_commands_run(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(load_sample_images().images[0]).save(tmp_path / "photo.jpg")
    assert len(commands()) >= 10
    try:
        for command in commands():
            words = shlex.split(command)
            assert words[0] == "resx"
            ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"] if words[1] == "serve" else []
            done = subprocess.run(
                [sys.executable, "-m", *words, *ports],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
    finally:
        subprocess.run([sys.executable, "-m", "resx", "stop"], cwd=tmp_path, capture_output=True, check=False)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".staging")]  # noqa: PTH208


def test_every_target_and_command_that_the_readme_names_exists() -> None:
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)`?", text)) - {"it"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    help_text = subprocess.run(
        [sys.executable, "-m", "resx", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name in set(re.findall(r"`resx ([a-z]+)", text)):
        assert f" {name} " in help_text, name
    for link in re.findall(r"\]\((docs/[^)]+)\)", text):
        assert (README.parent / link).is_file(), link
