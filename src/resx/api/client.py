"""A client for a served model: image files in, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from resx.api.places import address_at, repository_at
from resx.repository.versions import DEFAULT, Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.image_queries import Guess, classify_files, load_images

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from resx.serving.client.address import Protocol


class Client:
    """A connection to a Triton server. Use it in one thread, and close it, or use it in a `with` block.

    Every method may raise `MissingCapability` if no server answers, and `ServerError` if the server reports an error
    or its answer does not fit the request.
    """

    def __init__(
        self,
        url: str = "",
        *,
        repository: Repository | Path | str = DEFAULT,
        protocol: Protocol | None = None,
        timeout_s: float = 60.0,
        retries: int = 0,
    ) -> None:
        """Prepare a connection. Nothing is sent before the first call.

        Args:
            url: `host:port`, or `grpc://`, `grpcs://`, `http://` or `https://` and `host:port`. Default: the server
                that serves the repository, or 127.0.0.1:8001. TLS files, headers and keys come from the environment,
                as with the commands.
            repository: whose own server is meant.
            protocol: `grpc` or `http`. None: the URL's, or grpc.
            timeout_s: seconds for one complete answer.
            retries: how often a request is repeated after the connection was lost.

        Raises:
            UsageError: the URL is malformed.
        """
        address = address_at(url, repository_at(repository), protocol)
        self.url = str(address)
        self._triton = TritonClient(address, timeout_s=timeout_s, retries=retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._triton.close()

    def is_live(self) -> bool:
        """Return whether the server answers."""
        return self._triton.is_live()

    def models(self) -> dict[str, list[int]]:
        """Return the versions that are loaded, by model."""
        return self._triton.model_versions()

    def query(
        self, name: str, images: Sequence[str | Path], *, top: int = 5, version: int | None = None
    ) -> list[list[Guess]]:
        """Ask what is on image files, as `resx query` does.

        Args:
            name: a model that is loaded.
            images: PNG, JPEG or WebP files.
            top: so many classes for each image.
            version: None: the newest that is loaded.

        Returns:
            For each image its `top` highest classes, the most likely first: `label`, `index`, and `value`, a
            probability over all classes (or a score, where the outputs do not exclude each other).

        Raises:
            UsageError: the model is not loaded or takes no images, or a file is no image.
        """
        paths = [Path(image) for image in images]
        return classify_files(self._triton, name, load_images(paths), top=top, version=version, names=paths)

    def infer(self, name: str, inputs: npt.NDArray[Any], *, version: int | None = None) -> npt.NDArray[np.float32]:
        """Return the model's outputs [N, ...] for a batch as it takes it: images [N, 3, H, W], UINT8 or float32.

        Raises:
            UsageError: the model is not loaded.
        """
        interface = self._triton.interface(name, version)
        return self._triton.infer(name, interface, inputs, version).logits
