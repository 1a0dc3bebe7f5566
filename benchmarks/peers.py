"""The same networks behind resx and behind other servers, with one request at a time and with eight.

    make bench-peers
    python -m benchmarks.peers [--quick] [--networks resnet20,resnet50] [--contenders resx,fastapi] [--rounds 3]
                               [--turns 8] [--seconds 2] [--spinning on] [-o build/peers.json]
                               [--page docs/benchmarks.md]

One server runs at a time, on all cores, with the client on the same ones. In each round each contender is started,
driven by resx's generator with 1 and with 8 requests of one image in flight (and by wrk with 8, where it is
installed), and ended; the order rotates from round to round, and ratios are taken within a round, so that a machine
whose speed drifts favours nobody. What a bar compares is measured besides, by turns in short windows (`peer_turns`).
resx serves what it exports by default. FastAPI with OpenVINO serves the
same file as resx. Every answer that is looked at is compared with the file's own in its runtime. Without BF16 in the
processor there are no bf16 rows, and the page says so. The figures go into a JSON file; `python -m benchmarks.peer_page
FILE` writes page and chart from it. Exit code 1 if a server gave a wrong answer or none, 3 if a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peer_contenders import BARS, CONTENDERS, FORMS, NETWORKS, Form
from benchmarks.peer_page import bar_lines, write_page
from benchmarks.peer_rounds import Case, Measuring, case_of, measure_round
from benchmarks.peer_servers import HERE
from benchmarks.peer_turns import by_turns

from resx.bench.results.result import environment
from resx.machine import instruction_set, usable_cores
from resx.repository.versions import Published, Repository
from resx.serving.client.address import parse_address


def main() -> int:
    """Measure, print, and write the JSON and the page."""
    options = _options()
    lacks = _lacks()
    contenders = [name for name in options.contenders.split(",") if CONTENDERS[name].form not in lacks]
    _require_environments(contenders, options.environments)
    wrk = shutil.which("wrk")
    results = _description(options, lacks, wrk)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="resx-peers-") as name:
        how = Measuring(
            seconds=options.seconds,
            folder=Path(name),
            environments=options.environments,
            spinning=options.spinning,
            wrk=wrk,
        )
        for network in options.networks.split(","):
            forms = dict.fromkeys(CONTENDERS[name].form for name in contenders)
            folder = options.models or how.folder
            cases = {form: case_of(_published(network, form, folder, options.quick)) for form in forms}
            runs = _measure(network, contenders, cases, options, how)
            results["runs"] |= {network: runs} if options.rounds else {}
            results["bars"] |= _take_turns(network, contenders, cases, options, how)
            failures += sum(
                one["wrong"] + one["failed"] + (not one["checked"]) for some in runs.values() for one in some
            )
            _write(results, options)
    lines, missed = bar_lines(results)
    print("\n".join(lines))
    if options.page:
        write_page(results, options.page)
    return 1 if failures else 3 if missed else 0


def _measure(
    network: str,
    contenders: Sequence[str],
    cases: Mapping[Form, Case],
    options: argparse.Namespace,
    how: Measuring,
) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        first = number % len(contenders)
        for name in [*contenders[first:], *contenders[:first]]:
            found = measure_round(CONTENDERS[name], cases[CONTENDERS[name].form], how)
            runs[name].append(found)
            figures = {key: round(value, 3) for key, value in found.items() if value is not None}
            print(f"{network} round {number + 1} {name}: {figures}", flush=True)
    return runs


def _take_turns(
    network: str,
    contenders: Sequence[str],
    cases: Mapping[Form, Case],
    options: argparse.Namespace,
    how: Measuring,
) -> dict[str, list[float]]:
    """Return the ratios of each bar whose two sides are among the contenders."""
    found = {}
    for bar in BARS:
        if bar.network == network and {bar.over[0], bar.under[0]} <= set(contenders):
            found[bar.title] = by_turns(bar, cases, how, options.turns)
            print(f"{bar.title}: {[round(ratio, 3) for ratio in found[bar.title]]}", flush=True)
    return found


def _published(network: str, form: Form, folder: Path, quick: bool) -> Published:
    """Return the newest version of a network in a form, in a repository of its own; exported if it is not there."""
    repository = Repository(folder / f"{network}-{form}")
    if network not in repository.names():
        flags = [*FORMS[form], *(["--no-verify"] if quick and "--no-verify" not in FORMS[form] else [])]
        command = ["-m", "resx", "export", network, *flags, f"--repository={repository.root}", "-q"]
        subprocess.run([sys.executable, *command], check=True, stdout=sys.stderr)
    return repository.find(network)


def _lacks() -> dict[str, str]:
    """Return the forms that cannot be measured here, each with the reason."""
    if importlib.util.find_spec("openvino") is None:
        return dict.fromkeys(("bf16", "int8"), "openvino is not installed")
    from resx.runtimes.openvino_package import computes_in_bf16

    return {} if computes_in_bf16() else {"bf16": f"the processor has no BF16 ({instruction_set()})"}


def _description(options: argparse.Namespace, lacks: Mapping[str, str], wrk: str | None) -> dict[str, Any]:
    here = environment(parse_address("127.0.0.1", "http"), "", {})
    scripts = sorted({CONTENDERS[name].script for name in options.contenders.split(",")} - {""})
    return {
        "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": here.machine,
        "instruction_set": instruction_set(),
        "cores": usable_cores(),
        "python": here.python,
        "load_average": str(here.load_average),
        "lacks": dict(lacks),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "spinning": options.spinning,
        "wrk": wrk is not None,
        "packages": {
            script: [line for line in (HERE / f"{script}.in").read_text().split("\n") if "==" in line]
            for script in scripts
        },
        "runs": {},
        "bars": {},
    }


def _write(results: dict[str, Any], options: argparse.Namespace) -> None:
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The same networks behind resx and behind other servers.")
    parser.add_argument("--networks", default="", help=f"of {','.join(NETWORKS)}, or any other variant")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help=f"of {','.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick; 0: what the bars compare alone")
    parser.add_argument("--turns", type=int, default=0, help="of each bar's two sides; default: 8, or 2 with --quick")
    parser.add_argument("--seconds", type=float, default=0, help="of each window; default: 2, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="resnet20 alone, one round: does it run?")
    parser.add_argument("--spinning", choices=("on", "off"), default="on", help="of the peers' onnxruntime threads")
    parser.add_argument("--models", type=Path, help="a folder to export into, or to take the exports from")
    parser.add_argument("--environments", type=Path, default=Path(".peers"), help="where `make bench-peers` put them")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/peers.json"), help="the figures")
    parser.add_argument("--page", type=Path, help="write the page, and its chart into assets/ beside it")
    found = parser.parse_args()
    found.networks = found.networks or ("resnet20" if found.quick else ",".join(NETWORKS))
    found.rounds = (1 if found.quick else 3) if found.rounds is None else found.rounds
    found.seconds = found.seconds or (1 if found.quick else 2)
    found.turns = found.turns or (2 if found.quick else 8)
    if unknown := [name for name in found.contenders.split(",") if name not in CONTENDERS]:
        parser.error(f"--contenders {','.join(unknown)}: give some of {','.join(CONTENDERS)}")
    if found.rounds < 0 or found.turns < 2 or found.seconds <= 0:
        parser.error("give --rounds of 0 or more, --turns of 2 or more, and --seconds above 0")
    return found


def _require_environments(contenders: Sequence[str], folder: Path) -> None:
    scripts = sorted({CONTENDERS[name].script for name in contenders} - {""})
    missing = [script for script in scripts if not (folder / script / "bin" / "python").exists()]
    if missing:
        raise SystemExit(f"{folder}: no environment of {', '.join(missing)}; `make bench-peers` makes them")


if __name__ == "__main__":
    sys.exit(main())
