"""Known vulnerabilities of what the locks name; `make audit` runs it.

    python -m supply.audit                    asks PyPI, then OSV, by pip-audit
    python -m supply.audit --database PATH    reads a copy of OSV's database: a folder of records, or a zip of them

Exit code 0: everything was checked and nothing is known. 3: something is known. 4: something could not be checked. That
a service does not know a package is no answer: pip-audit alone ends with "No known vulnerabilities found" then, and 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from resx.errors import MissingCapability, ResxError, UsageError
from resx.files.listing import one_line
from supply.locks import Pin, lock_files, read_lock, triton

PIP_AUDIT = (sys.executable, "-m", "pip_audit")
TRITON_KNOWN = (
    "CVE-2025-23310",
    "CVE-2025-23311",
    "CVE-2025-23319",
    "CVE-2025-23320",
    "CVE-2025-23334",
    "CVE-2026-24207",
)
"""Of NVIDIA's bulletins, which no database of Python packages holds; docs/security.md says what follows from them."""
FRESH_DAYS = 30
"""A database without a newer record is an old copy: PyPI's packages have several records a week."""
_REMEDY = "give a current copy of OSV's database: make audit AUDIT_DB=PATH (docs/supply.md)"
_FOUND, _UNCHECKED = 3, MissingCapability.exit_code


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A vulnerability that is known of a locked version."""

    name: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What sources knew of some pins."""

    findings: tuple[Finding, ...]
    source: str
    unchecked: tuple[Pin, ...] = ()
    reason: str = ""
    """Why some are unchecked."""


def locked() -> tuple[Pin, ...]:
    """Return the pins of all locks, each package and version once."""
    pins = {(pin.name, pin.version): pin for path in lock_files() for pin in read_lock(path)}
    return tuple(pins[key] for key in sorted(pins))


def ask_services(pins: Collection[Pin], program: Sequence[str] = PIP_AUDIT) -> Audit:
    """Ask PyPI, and OSV about what PyPI has no answer for."""
    findings: list[Finding] = []
    left, reasons, answered = tuple(pins), list[str](), list[str]()
    for service in ("pypi", "osv"):
        try:
            packages = _ask(left, service, program)
        except MissingCapability as error:
            reasons.append(str(error))
            continue
        known = [package for package in packages if "skip_reason" not in package]
        reasons += [f"{service}: {one['skip_reason']}" for one in packages if "skip_reason" in one][:1]
        answered += [service] * bool(known)
        findings += [_of_pip_audit(package, one) for package in known for one in package.get("vulns", ())]
        done = {(one["name"], one["version"]) for one in known}
        left = tuple(pin for pin in left if (pin.name, pin.version) not in done)
        if not left:
            break
    return Audit(
        findings=tuple(findings),
        source=" and ".join(answered) or "no service",
        unchecked=left,
        reason="; ".join(map(one_line, reasons)),
    )


def _ask(pins: Collection[Pin], service: str, program: Sequence[str]) -> list[dict[str, Any]]:
    """Return what pip-audit says of each package, whatever system it is for.

    Raises:
        MissingCapability: pip-audit or the service gives no answer.
    """
    command = [*program, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command += ["--vulnerability-service", service, "--requirement"]
    packages: list[dict[str, Any]] = []
    for few in _without_twins(pins):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as names:
            names.write("".join(f"{pin.name}=={pin.version}\n" for pin in few))
            names.flush()
            done = subprocess.run([*command, names.name], capture_output=True, text=True, check=False)
        try:
            packages += json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError, TypeError) as error:
            reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise MissingCapability(f"{service}: {reason}") from error
    return [package | {"name": canonicalize_name(package["name"])} for package in packages]


def _without_twins(pins: Collection[Pin]) -> list[list[Pin]]:
    """Return the pins in lists that hold a package once: pip-audit takes one version at a time."""
    lists: list[dict[str, Pin]] = []
    for pin in pins:
        free = next((one for one in lists if pin.name not in one), None)
        if free is None:
            lists.append(free := {})
        free[pin.name] = pin
    return [list(one.values()) for one in lists]


def _of_pip_audit(package: dict[str, Any], known: dict[str, Any]) -> Finding:
    return Finding(
        name=package["name"],
        version=package["version"],
        ids=(known["id"], *known.get("aliases", ())),
        fixed_in=tuple(known.get("fix_versions", ())),
        summary=known.get("description") or "",
    )


def read_database(pins: Collection[Pin], path: Path, today: date) -> Audit:
    """Compare pins with records in OSV's format, JSON or YAML (ossf.github.io/osv-schema).

    Raises:
        UsageError: there is nothing at `path`.
        MissingCapability: it has no record of PyPI's packages, or one that cannot be read.
    """
    findings, newest, number = [], "", 0
    for record in _records(path):
        of_pypi = [one for one in record.get("affected") or () if one.get("package", {}).get("ecosystem") == "PyPI"]
        number += bool(of_pypi)
        newest = max(newest, str(record.get("modified", ""))[:10])
        for affected in of_pypi if not record.get("withdrawn") else ():
            name = canonicalize_name(affected["package"]["name"])
            hit = [pin for pin in pins if pin.name == name and _affects(affected, Version(pin.version))]
            findings += [_of_record(record, affected, pin) for pin in hit]
    if not number:
        raise MissingCapability(f"{path}: has no record of a package of PyPI; give a copy of OSV's database")
    old = newest < f"{today - timedelta(days=FRESH_DAYS)}"
    return Audit(
        findings=tuple(findings),
        source=f"{path}: {number} records, the newest of {newest or 'no date'}",
        unchecked=tuple(pins) if old else (),
        reason=f"no record is newer than {FRESH_DAYS} days, so later vulnerabilities are missing" if old else "",
    )


def _of_record(record: dict[str, Any], affected: dict[str, Any], pin: Pin) -> Finding:
    return Finding(
        name=pin.name,
        version=pin.version,
        ids=(str(record["id"]), *(record.get("aliases") or ())),
        fixed_in=_fixes(affected),
        summary=str(record.get("summary") or record.get("details") or ""),
    )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_dir():
        files = [found for found in sorted(path.rglob("*")) if found.suffix in {".json", ".yaml", ".yml"}]
        texts = ((str(file), file.read_bytes()) for file in files)
        yield from (_record(name, text) for name, text in texts)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            yield from (_record(f"{path}: {name}", archive.read(name)) for name in names)
    else:
        raise UsageError(f"{path}: no folder and no zip; give a copy of OSV's database")


def _record(name: str, text: bytes) -> dict[str, Any]:
    try:
        # JSON by its own reader, as it is many times faster.
        record = json.loads(text) if name.endswith(".json") else yaml.load(text, yaml.CSafeLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise MissingCapability(f"{name}: cannot be read ({one_line(str(error))}), so nothing is sure") from error
    return record if isinstance(record, dict) else {}


def _ranges(affected: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """Return the events of each range of versions, as pairs of what happens and where."""
    ranges = [one for one in affected.get("ranges") or () if one.get("type") == "ECOSYSTEM"]
    return [[pair for event in one.get("events") or () for pair in event.items()] for one in ranges]


def _fixes(affected: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(text) for events in _ranges(affected) for kind, text in events if kind == "fixed")


def _affects(affected: dict[str, Any], version: Version) -> bool:
    """Say whether a record is about a version: it is listed, or lies in a range."""
    listed = (_version(text) == version for text in affected.get("versions") or ())
    return any(listed) or any(_lies_in(events, version) for events in _ranges(affected))


def _lies_in(events: list[tuple[str, str]], version: Version) -> bool:
    order = {"introduced": 0, "last_affected": 1, "fixed": 2}
    # Where a range begins at what is no version, it begins at the first; where it ends there, it has no end.
    points = [(_version(text) or Version("0"), kind) for kind, text in events if kind == "introduced"]
    points += [(end, kind) for kind, text in events if kind in ("last_affected", "fixed") if (end := _version(text))]
    inside = False
    for point, kind in sorted(points, key=lambda one: (one[0], order[one[1]])):
        if kind == "last_affected":
            inside = inside and version <= point
        elif version >= point:
            inside = kind == "introduced"
    return inside


def _version(text: object) -> Version | None:
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


def lines_of(audit: Audit, number: int) -> list[str]:
    """Return what is printed: what was checked with what, what is known, what was not checked, and Triton."""
    lines = [f"{number - len(audit.unchecked)} of {number} packages checked with {audit.source}"]
    for found in sorted(audit.findings, key=lambda one: (one.name, one.ids)):
        fixed = f"fixed in {', '.join(found.fixed_in)}" if found.fixed_in else "no fix is known"
        summary = " ".join(found.summary.split())[:200]
        lines.append(f"{found.name} {found.version}: {', '.join(found.ids)}; {fixed}: {summary}")
    if audit.unchecked:
        first = f"{audit.unchecked[0].name} {audit.unchecked[0].version}"
        others = f" and {len(audit.unchecked) - 1} others" if len(audit.unchecked) > 1 else ""
        lines.append(f"could not be checked: {first}{others} ({audit.reason}); {_REMEDY}")
    elif not audit.findings:
        lines.append("no vulnerability is known there")
    wheel, _, inside = triton()
    lines.append(
        f"Triton {inside} (in {wheel.name} {wheel.version}): in no such database, and not patched since October 2024; "
        f"known: {', '.join(TRITON_KNOWN)}; for this machine's own programs only (docs/security.md)"
    )
    return [one_line(line) for line in lines]


def main(words: Sequence[str] | None = None) -> int:
    """Print what is known; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m supply.audit", description="List known vulnerabilities.")
    parser.add_argument("--database", type=Path, help="A copy of OSV's database, a folder or a zip.")
    options = parser.parse_args(words)
    try:
        pins = locked()
        if options.database is None:
            audit = ask_services(pins)
        else:
            audit = read_database(pins, options.database, datetime.now(UTC).date())
    except ResxError as error:
        print(f"could not be checked: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines_of(audit, len(pins))))
    return _FOUND if audit.findings else _UNCHECKED if audit.unchecked else 0


if __name__ == "__main__":
    sys.exit(main())
