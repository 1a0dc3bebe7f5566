"""The base of the types in this room: the text under a field is its description in the JSON schema."""

from __future__ import annotations

from pydantic import ConfigDict, with_config

described = with_config(ConfigDict(use_attribute_docstrings=True))
