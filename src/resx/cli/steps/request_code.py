"""One request to an image endpoint, as code that needs nothing of resx: curl, Python or JavaScript.

Each sends the file's bytes behind a JSON head, as Triton's binary data extension has it, and asks for labels by the
classification extension, whose strings are `value:index:label`. Secrets stay out: a header is named, and its value is
read from the environment where the code runs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from resx.cli.options.request_code import Language
from resx.errors import UsageError
from resx.repository.image_endpoint import FILE_INPUT, PROBABILITIES

if TYPE_CHECKING:
    from resx.serving.client.address import Address

_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """What is asked, and where."""

    address: Address
    """Over HTTP."""
    endpoint: str
    """The model that takes files."""
    image: str
    output: str
    top: int

    @property
    def path(self) -> str:
        """Of the URL."""
        return f"/v2/models/{quote(self.endpoint, safe='')}/infer"

    @property
    def url(self) -> str:
        """With scheme, host and port."""
        return f"{self.address}{self.path}"

    @property
    def outputs(self) -> str:
        """What the head asks for, as JSON."""
        return json.dumps([{"name": self.output, "parameters": {"classification": self.top}}])

    @property
    def variables(self) -> dict[str, str]:
        """The environment variable with the value of each header."""
        names = [name for name, _ in self.address.headers]
        return {name: f"HEADER_{re.sub(r'[^A-Z0-9]', '_', name.upper())}" for name in names}

    @property
    def gives_probabilities(self) -> bool:
        """Whether the values are probabilities."""
        return self.output == PROBABILITIES


def write_code(request: ImageRequest, language: Language) -> list[str]:
    """Return the lines of the code.

    Raises:
        UsageError: the language cannot say it.
    """
    return _WRITERS[language](request)


def _curl(request: ImageRequest) -> list[str]:
    size = "'$size'"
    head = (
        f'{{"inputs":[{{"name":"{FILE_INPUT}","datatype":"UINT8","shape":[{size}],'
        f'"parameters":{{"binary_data_size":{size}}}}}],"outputs":{_in_single_quotes(request.outputs)}}}'
    )
    options = ["-sS", "-w '\\n'", "-H 'Content-Type: application/octet-stream'", f'-H "{_LENGTH}: ${{#head}}"']
    options += [f'-H "{name}: ${{{variable}:?}}"' for name, variable in _in_double_quotes(request.variables)]
    if tls := request.address.tls:
        files = {"--cacert": tls.ca, "--cert": tls.cert, "--key": tls.key}
        options += [f"{option} {shlex.quote(path)}" for option, path in files.items() if path]
    options += ["--data-binary @-", shlex.quote(request.url)]
    return [
        *(f"# {line}" for line in _explain(request)),
        f"image={shlex.quote(request.image)}",
        'size=$(($(wc -c < "$image")))',
        f"head='{head}'",
        f'{{ printf %s "$head"; cat < "$image"; }} | curl {" ".join(options)}',
    ]


def _in_single_quotes(text: str) -> str:
    """Return a text as it stands inside single quotes."""
    return text.replace("'", "'\\''")


def _in_double_quotes(variables: dict[str, str]) -> list[tuple[str, str]]:
    """Return headers' names as they stand inside double quotes: a name may have a $ or a backquote."""
    return [(re.sub(r"([$`])", r"\\\1", name), variable) for name, variable in variables.items()]


def _python(request: ImageRequest) -> list[str]:
    tls, variables = request.address.tls, request.variables
    modules = ["http.client", "json", *(["os"] if variables else []), *(["ssl"] if tls else [])]
    headers = [f'"{_LENGTH}": str(len(head))']
    headers += [f"{_text(name)}: os.environ[{_text(variable)}]" for name, variable in variables.items()]
    host = _text(request.address.host_port)
    server = [f"server = http.client.HTTPConnection({host})"]
    if tls:
        server = [f"context = ssl.create_default_context({f'cafile={_text(tls.ca)}' if tls.ca else ''})"]
        server += [f"context.load_cert_chain({_text(tls.cert)}, {_text(tls.key)})"] if tls.cert else []
        server += [f"server = http.client.HTTPSConnection({host}, context=context)"]
    shown = 'f"{float(value):.2%}  {label}"' if request.gives_probabilities else "value, label"
    return [
        *(f"# {line}" for line in _explain(request)),
        *(f"import {module}" for module in modules),
        "from pathlib import Path",
        "",
        f"image = Path({_text(request.image)}).read_bytes()",
        'size = {"binary_data_size": len(image)}',
        f'sent = {{"name": "{FILE_INPUT}", "datatype": "UINT8", "shape": [len(image)], "parameters": size}}',
        f"wanted = {request.outputs}",
        'head = json.dumps({"inputs": [sent], "outputs": wanted}).encode()',
        *server,
        f"headers = {{{', '.join(headers)}}}",
        f'server.request("POST", {_text(request.path)}, head + image, headers)',
        "answer = json.load(server.getresponse())",
        'if "error" in answer:',
        '    raise SystemExit(answer["error"])',
        'for line in answer["outputs"][0]["data"]:',
        '    value, index, label = line.split(":", 2)',
        f"    print({shown})",
    ]


def _javascript(request: ImageRequest) -> list[str]:
    tls = request.address.tls
    if tls and tls.cert:
        raise UsageError(f"--cert {tls.cert}: fetch in JavaScript sends no client certificate; give --curl or --python")
    run = "node ask.mjs"
    if tls and tls.ca:
        run = f"NODE_EXTRA_CA_CERTS={shlex.quote(tls.ca)} {run}"
    headers = [f'"{_LENGTH}": String(head.length)']
    headers += [f"{_text(name)}: process.env[{_text(variable)}]" for name, variable in request.variables.items()]
    label = 'label.join(":")'
    shown = f"`${{(100 * value).toFixed(2)}}%  ${{{label}}}`" if request.gives_probabilities else f"value, {label}"
    return [
        *(f"// {line}" for line in (f"Save as ask.mjs and run with Node 18 or later: {run}", *_explain(request))),
        'import { readFile } from "node:fs/promises";',
        "",
        f"const image = await readFile({_text(request.image)});",
        "const head = Buffer.from(JSON.stringify({",
        f'  inputs: [{{ name: "{FILE_INPUT}", datatype: "UINT8", shape: [image.length],',
        "             parameters: { binary_data_size: image.length } }],",
        f"  outputs: {request.outputs},",
        "}));",
        f"const response = await fetch({_text(request.url)}, {{",
        '  method: "POST",',
        f"  headers: {{ {', '.join(headers)} }},",
        "  body: Buffer.concat([head, image]),",
        "});",
        "const answer = await response.json();",
        "if (answer.error) throw new Error(answer.error);",
        "for (const line of answer.outputs[0].data) {",
        '  const [value, index, ...label] = line.split(":");',
        f"  console.log({shown});",
        "}",
    ]


def _explain(request: ImageRequest) -> list[str]:
    """Return where the headers' values come from."""
    return [f"Set {variable} to the value of the header {name}." for name, variable in request.variables.items()]


def _text(text: str) -> str:
    """Return a string literal that Python and JavaScript read alike."""
    return json.dumps(text, ensure_ascii=False)


_WRITERS: dict[Language, Callable[[ImageRequest], list[str]]] = {
    "curl": _curl,
    "python": _python,
    "javascript": _javascript,
}
