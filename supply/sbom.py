"""The SBOM of a wheel in CycloneDX 1.6: every package of the lock, and the Triton that the embedded server is.

    python -m supply.sbom dist --environment .venv      writes dist/resx-VERSION.cdx.json (`make wheel`)

`scope` says what a package is for: required by resx itself, optional (by an extra), excluded (by the tests alone). The
hashes of a package are those of all files of its version, one of which is installed. The same wheel gives the same
bytes, where SOURCE_DATE_EPOCH is set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from resx.errors import MissingCapability, ResxError, UsageError
from resx.files.staging import sha256_of, write_atomic
from supply.locks import PROJECT, ROOT, SETUP, Pin, constants, read_lock, triton

_LIBRARY = "cyclonedx-python-lib"
_CLASSIFIER = "License :: OSI Approved :: "


def sbom(wheel: Path, licenses: Mapping[str, License], now: datetime) -> str:
    """Return the SBOM of a wheel as text.

    Args:
        wheel: resx's.
        licenses: of packages by their normalized names, as far as they are known.
        now: the time that the SBOM bears.

    Raises:
        ResxError: the text does not fit CycloneDX's schema.
    """
    pins = read_lock(SETUP)
    server, _, version = triton()
    scopes = scopes_of(pins)
    root = Component(
        name=PROJECT,
        type=ComponentType.APPLICATION,
        version=_version(),
        bom_ref=PROJECT,
        purl=_purl(PROJECT, _version()),
        hashes=_hashes([sha256_of(wheel)]),
        licenses=[_license("Apache-2.0")],
    )
    parts = {pin.name: _component(pin, licenses, scopes[pin.name]) for pin in pins}
    parts[server.name] = _component(server, licenses, ComponentScope.OPTIONAL)
    parts[server.name].description = f"Triton Inference Server {version}, unpacked by `resx serve`, never installed"
    library = Component(name=_LIBRARY, type=ComponentType.LIBRARY, version=Distribution.from_name(_LIBRARY).version)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, sha256_of(wheel)),
        components=parts.values(),
        metadata=BomMetaData(component=root, timestamp=now, tools=ToolRepository(components=[library])),
    )
    for pin in (*pins, server):
        for name in pin.wanted_by:
            bom.register_dependency(root if name == PROJECT else parts[name], [parts[pin.name]])
    text = JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
    if (fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise ResxError(f"the SBOM does not fit CycloneDX's schema: {fault}")
    return text


def scopes_of(pins: Sequence[Pin]) -> dict[str, ComponentScope]:
    """Say of each pin what asks for it, directly or through others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = _closure(pins, project["dependencies"])
    used = _closure(pins, [one for name, wanted in extras.items() if name != "test" for one in wanted])
    return {
        pin.name: ComponentScope.REQUIRED
        if pin.name in base
        else ComponentScope.OPTIONAL
        if pin.name in used
        else ComponentScope.EXCLUDED
        for pin in pins
    }


def _closure(pins: Sequence[Pin], requirements: Iterable[str]) -> set[str]:
    # An extra that names another, as `resx[model]`, adds nothing: that one is among them itself.
    found = {str(canonicalize_name(Requirement(text).name)) for text in requirements} - {PROJECT}
    while more := {pin.name for pin in pins if found & set(pin.wanted_by)} - found:
        found |= more
    return found


def _component(pin: Pin, licenses: Mapping[str, License], scope: ComponentScope) -> Component:
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        scope=scope,
        bom_ref=f"{pin.name}@{pin.version}",
        purl=_purl(pin.name, pin.version),
        hashes=_hashes(pin.sha256),
        licenses=[licenses[pin.name]] if pin.name in licenses else (),
        properties=[Property(name="resx:marker", value=pin.marker)] if pin.marker else (),
    )


def _hashes(digests: Iterable[str]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests]


def _purl(name: str, version: str) -> PackageURL:
    return PackageURL(type="pypi", name=name, version=version)


def licenses_in(environment: Path) -> dict[str, License]:
    """Return the licenses that the packages installed in an environment declare.

    Raises:
        MissingCapability: there is no such environment.
    """
    folders = [str(folder) for folder in environment.glob("lib*/python*/site-packages")]
    if not folders:
        raise MissingCapability(f"{environment}: is no environment; run `make setup`")
    found: dict[str, License] = {}
    for one in distributions(path=folders):
        if text := _declared(one.metadata):
            found[canonicalize_name(one.metadata["Name"])] = _license(text)
    return found


def _declared(metadata: PackageMetadata) -> str:
    """Return an SPDX expression, or the words of older packages: their classifiers, or a text that is one line."""
    for expression in metadata.get_all("License-Expression") or ():
        return str(expression)
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License :: ")]
    words = " and ".join(text.removeprefix(_CLASSIFIER).removeprefix("License :: ") for text in classifiers)
    texts = [text.strip() for text in metadata.get_all("License") or ()]
    return next((text for text in texts if 0 < len(text) <= 80 and "\n" not in text), words)


def _license(text: str) -> License:
    return LicenseFactory().make_from_string(text, license_acknowledgement=LicenseAcknowledgement.DECLARED)


def _version() -> str:
    return constants(ROOT / "src" / "resx" / "_version.py")["__version__"]


def main(words: Sequence[str] | None = None) -> int:
    """Write the SBOM beside the wheel; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m supply.sbom", description="Write the SBOM of a wheel.")
    parser.add_argument("folder", type=Path, help="Where the wheel is.")
    parser.add_argument("--environment", type=Path, required=True, help="Whose packages say their licenses.")
    options = parser.parse_args(words)
    try:
        wheels = sorted(options.folder.glob(f"{PROJECT}-{_version()}-*.whl"))
        if not wheels:
            raise UsageError(f"{options.folder}: has no wheel of {PROJECT} {_version()}; run `make wheel`")
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        now = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
        text = sbom(wheels[0], licenses_in(options.environment), now)
        target = options.folder / f"{PROJECT}-{_version()}.cdx.json"
        write_atomic(target, text)
    except ResxError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
