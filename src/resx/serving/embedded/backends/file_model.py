"""One instance of one version, whatever opens its file: completed, opened, asked and closed the same way.

The server's Python runs this file beside a backend's `model.py`, which names what opens the files of that backend.
"""

import json
from pathlib import Path
from typing import Any

import config_values
import file_interface
import request_batches
import triton_python_backend_utils as pb_utils


class FileModel(request_batches.BatchingModel):
    """One instance of one version of a model whose file a runtime opens."""

    opener: Any
    """The backend's module: `model_path`, `describe_file` and `open_model`."""

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Fill in what config.pbtxt leaves out, from the file; as the C++ backends' AutoCompleteConfig does."""
        described = config.as_dict()
        if not (described.get("input") and described.get("output")):
            path = cls.opener.model_path(pb_utils.get_model_dir(), described)
            found = cls.opener.describe_file(path, described, config_values.server_host())
            file_interface.complete(described, *found)
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file; Triton shows what this raises as the reason why the model did not load."""
        config = json.loads(args["model_config"])
        path = self.opener.model_path(str(Path(args["model_repository"]) / args["model_version"]), config)
        kind, device = args.get("model_instance_kind", "CPU"), int(args.get("model_instance_device_id", "0"))
        self.opened = self.opener.open_model(path, config, config_values.server_host(), kind, device)
        self.run, self.run_options = self.opened.run, self.opened.options
        self.prepare(config, path, *self.opened.interface)

    def finalize(self) -> None:
        """Let go of what the runtime holds."""
        self.opened.close()
        self.opened = self.run = None
