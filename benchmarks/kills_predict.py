"""Kill `resx predict` at random moments, change its source in between, and count the rows in the end.

    python benchmarks/kills_predict.py                      30 kills, about five minutes
    python benchmarks/kills_predict.py --kills 3 --images 400 --model tiny --repository model_repository

A folder, a list and a Parquet file take turns. Each run is killed (SIGKILL) after a random part of the time that a
whole run takes, and gone on with. After one kill in three a file of the source is written again at its own size first:
`--resume` has to refuse that, name the file and keep what is finished; then the file is put back. A run that finishes
begins anew. In the end, and whenever a run finishes, its rows are those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

RESX = [sys.executable, "-m", "resx"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A source, and the file of it that changes."""

    source: str
    changing: Path
    out: Path
    whole: str
    """The output of a run that nobody disturbed."""
    seconds: float
    """What that run took."""


def main() -> None:
    """Kill, change and resume; exit 1 if a row is lost or doubled, or a changed source is taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="", help="A published model. Default: resnet20 with random weights.")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), asked)
    print(json.dumps(counts))
    sys.exit(int(counts["wrong"] > 0))


def run(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Return the counts of kills, changed sources and what went wrong."""
    chance = random.Random(asked.seed)
    repository, model = asked.repository.resolve(), asked.model
    if not model:
        repository, model = folder / "repository", "kills"
        export = ["export", "resnet20", "--name", model, "--repository", str(repository), "-q"]
        subprocess.run([*RESX, *export], check=True, stdout=subprocess.DEVNULL)
    predict = [*RESX, "predict", model, "--repository", str(repository), "-q"]
    subjects = [measured(predict, *one) for one in sources(folder, asked.images)]
    counts = {"kills": 0, "changed": 0, "refused": 0, "finished": 0, "wrong": 0}
    turn = 0
    while counts["kills"] < asked.kills:
        subject, turn = subjects[turn % len(subjects)], turn + 1
        command = [*predict, subject.source, "-o", str(subject.out), "--resume"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(chance.uniform(0.3, 1) * subject.seconds)
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1]
        if process.returncode != -signal.SIGKILL:
            counts["finished"] += 1
            counts["wrong"] += tell(process.returncode != 0, subject, errors) + check(subject)
            continue
        counts["kills"] += 1
        if subject.out.exists() and not parts_of(subject).exists():  # killed between its last act and its end
            counts["wrong"] += check(subject)
            continue
        if 3 * counts["changed"] < counts["kills"] and is_begun(subject):
            counts["changed"] += 1
            with changed(subject.changing):
                again = subprocess.run(command, capture_output=True, text=True, check=False)
            refused = again.returncode == 2 and subject.changing.name in again.stderr and "changed" in again.stderr
            counts["refused"] += refused
            counts["wrong"] += tell(not refused, subject, again.stderr)
    for subject in subjects:
        if parts_of(subject).exists() or not subject.out.exists():  # killed while it deleted them, too
            command = [*predict, subject.source, "-o", str(subject.out), "--resume"]
            last = subprocess.run(command, capture_output=True, text=True, check=False)
            counts["wrong"] += tell(last.returncode != 0, subject, last.stderr)
        counts["wrong"] += check(subject)
    return counts


def sources(folder: Path, num_images: int) -> Iterator[tuple[str, Path, Path]]:
    """Write images and give a folder, a list and a table of them, each with the file that changes and the output."""
    noise = np.random.default_rng(0)
    names, contents = [], []
    for number in range(num_images):
        content = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(content, "BMP")
        path = folder / "images" / f"{number % 3}" / f"{number:05}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
        names.append(str(path))
        contents.append(content.getvalue())
    listed, table = folder / "list.txt", folder / "table.parquet"
    listed.write_text("\n".join(reversed(names)) + "\n")
    columns = {"path": pa.array(names), "image": pa.array(contents, pa.binary())}
    parquet.write_table(pa.table(columns), table, row_group_size=100, use_dictionary=False, compression="none")
    middle = Path(names[num_images // 2])
    yield str(folder / "images"), middle, folder / "of_folder.jsonl"
    yield str(listed), middle, folder / "of_list.jsonl"
    yield str(table), table, folder / "of_table.jsonl"


def measured(predict: list[str], source: str, changing: Path, out: Path) -> Subject:
    """Score a source whole."""
    whole = out.with_stem(f"{out.stem}_whole")
    began = time.monotonic()
    subprocess.run([*predict, source, "-o", str(whole)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    return Subject(source=source, changing=changing, out=out, whole=whole.read_text(), seconds=seconds)


def is_begun(subject: Subject) -> bool:
    """Say whether a killed run said what it was asked, so that it can be gone on with."""
    return (parts_of(subject) / "manifest.json").is_file()


def parts_of(subject: Subject) -> Path:
    """Return where the rows of an unfinished run lie."""
    return subject.out.with_name(f"{subject.out.name}.parts")


@contextmanager
def changed(path: Path) -> Iterator[None]:
    """Write a file backwards while this lasts, then put it back as it was."""
    content, about = path.read_bytes(), path.stat()
    # A table stays one: its rows' bytes change, not its footer.
    start, stop = (len(content) // 4, len(content) // 2) if path.suffix == ".parquet" else (60, len(content))
    path.write_bytes(content[:start] + content[start:stop][::-1] + content[stop:])
    yield
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def check(subject: Subject) -> int:
    """Compare a finished output with the undisturbed one and delete it; return how much is wrong."""
    same = subject.out.exists() and subject.out.read_text() == subject.whole
    left = parts_of(subject).exists()
    subject.out.unlink(missing_ok=True)
    return tell(not same, subject, "rows are lost, doubled or others") + tell(left, subject, "parts are left")


def tell(is_wrong: bool, subject: Subject, what: str) -> int:
    """Print what is wrong and count it."""
    if is_wrong:
        print(f"{subject.source}: {what.strip()}", file=sys.stderr)
    return int(is_wrong)


if __name__ == "__main__":
    main()
