"""What `resx query --curl` asks the server before it prints a request: whether it has an image endpoint, and which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from resx.cli.options.connection import Connection
from resx.cli.options.request_code import Language
from resx.cli.steps.request_code import ImageRequest
from resx.data.image_decoding import check_image_file
from resx.errors import UsageError
from resx.repository.image_endpoint import IMAGE, PROBABILITIES, takes_a_file
from resx.repository.versions import Repository
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.running.server_state import running_server
from resx.text import one_line


def find_image_request(
    server: Connection, name: str, images: list[Path], *, top: int, language: Language
) -> ImageRequest:
    """Return the request that asks the server for the labels of an image file.

    Raises:
        UsageError: there are several images, the server is named by gRPC, or the model has no image endpoint there.
        MissingCapability: no server answers.
    """
    if len(images) > 1:
        raise UsageError(f"--{language}: prints one request; give a single image")
    image = str(images[0])
    if one_line(image) != image:
        raise UsageError(f"{image}: has characters that code cannot show; rename the file")
    check_image_file(images[0])
    address = _http_address(server, language)
    with TritonClient(address) as client:
        client.interface(name)
        endpoint = name + IMAGE
        try:
            interface = client.interface(endpoint)
            outputs = [output.get("name") for output in client.config(endpoint).get("output", [])]
        except NotLoaded as error:
            raise UsageError(
                f"{address}: {name} has no image endpoint; export it again with --image-endpoint, then load it with "
                f"`resx deploy {name}`"
            ) from error
    if not takes_a_file(interface):
        raise UsageError(f"{address}: {endpoint} does not accept image files; export {name} with --image-endpoint")
    return ImageRequest(
        address=address,
        endpoint=endpoint,
        image=image,
        output=PROBABILITIES if PROBABILITIES in outputs else interface.output_name,
        top=min(top, interface.num_classes),
    )


def _http_address(server: Connection, language: Language) -> Address:
    if server.access.protocol == "grpc" or server.url.startswith(("grpc://", "grpcs://")):
        asked = f"--url {server.url}" if server.url else "--protocol grpc"
        raise UsageError(f"{asked}: --{language} prints a request over HTTP; give --url http://HOST:PORT, usually 8000")
    address = replace(server, access=replace(server.access, protocol="http")).address()
    state = running_server(Repository(server.repository))
    return state.address("http") if state and state.is_at(address.host_port) and not address.tls else address
