"""The JSON schema of what every command prints: `make schemas` writes docs/json.schema.json with it.

    python -m resx.cli.json_schema > docs/json.schema.json

A property of the schema is a command: `{"models": RESULT}` is valid where `resx models --json` printed RESULT.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from resx.analysis.lesion.study import LesionStudy
from resx.bench.capacity.capacity_plan import CapacityPlan
from resx.bench.exports.comparison import ExportComparison
from resx.bench.loadgen import ScenarioResult
from resx.bench.results.result import BenchResult
from resx.cli.results import errors, machine, measurements, networks, servers, versions
from resx.cli.views.demo_summary import Summary
from resx.runtimes.profiling.profile import Profile

RESULTS: Mapping[str, tuple[Any, ...]] = {
    "models": (networks.Variants,),
    "info": (networks.VariantInfo, networks.RunInfo, networks.PublishedInfo, networks.FileInfo),
    "train": (networks.Trained,),
    "runs": (networks.Runs,),
    "lesion": (LesionStudy,),
    "paths": (networks.Paths,),
    "shrink": (networks.Shrunken,),
    "export": (versions.Exported, versions.ExportedFamily, versions.Reproduced),
    "compare": (ExportComparison,),
    "verify": (versions.Verified, versions.Compared),
    "push": (versions.Pushed,),
    "pull": (versions.Pulled,),
    "serve": (servers.Ready,),
    "stop": (servers.Stopped,),
    "status": (servers.Status,),
    "logs": (servers.Log,),
    "deploy": (
        servers.Deployed, servers.DeployPlan, servers.DeployedBest, servers.FleetDeployed, servers.FleetPlan,
        servers.Manifests,
    ),
    "rollback": (servers.Deployed,),
    "undeploy": (servers.Undeployed,),
    "gc": (versions.Collected,),
    "query": (servers.ImageAnswers, servers.RequestCode),
    "predict": (measurements.Predicted, measurements.PredictedBefore),
    "evaluate": (measurements.Evaluated,),
    "bench": (BenchResult, ScenarioResult),
    "tune": (measurements.Tuned, measurements.TuningUndone),
    "plan": (CapacityPlan,),
    "profile": (Profile,),
    "doctor": (machine.Machine,),
    "demo": (Summary,),
}  # fmt: skip
"""By command: what its `--json` prints, one of these."""
ERROR = "error"
"""The property that an error has, alone or beside a result."""


def schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of every command's result, and of an error."""
    kinds = list(dict.fromkeys([*(kind for group in RESULTS.values() for kind in group), errors.Error]))
    parts, shared = TypeAdapter.json_schemas(
        [(str(index), "serialization", TypeAdapter(kind)) for index, kind in enumerate(kinds)],
        schema_generator=GenerateJsonSchema,
    )
    of_kind = {kind: parts[str(index), "serialization"] for index, kind in enumerate(kinds)}
    definitions = shared["$defs"]
    failed = of_kind[errors.Error]
    for kind, part in of_kind.items():
        if kind is not errors.Error:
            definition = definitions[part["$ref"].rpartition("/")[2]]
            definition["properties"].setdefault(ERROR, failed)  # of a study of lesions it is an error rate
    commands = {name: _any_of([of_kind[kind] for kind in group]) for name, group in RESULTS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What `resx COMMAND --json` prints",
        "description": "A property for each command; a command that fails prints `error`, beside its result or alone.",
        "type": "object",
        "properties": commands | {ERROR: failed},
        "$defs": definitions,
    }


def _any_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


def main() -> None:
    """Print it."""
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
