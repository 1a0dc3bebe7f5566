"""The errors of resx, and the exit code of each in the shell.

    ResxError                1   failed while running
    +-- ExportError          1   a model cannot be folded or exported
    +-- ServerError          1   a server answered with an error
    |   +-- ServerBusy       1   a server's queue is full
    +-- UsageError           2   a name, file or option is invalid
    +-- ParityError          3   a model differs from its source
    +-- ObjectiveMissed      3   no measurement meets the objective, or a figure is worse than its baseline
    +-- MissingCapability    4   this machine lacks a GPU, package or server

A message is one line: the value, the rule, the remedy.
"""

import difflib
from collections.abc import Iterable


class ResxError(Exception):
    """Base class of all errors with a message for the user. `exit_code` is the exit code of the command."""

    exit_code = 1


class ExportError(ResxError):
    """A model cannot be folded, or cannot be exported in the requested format or precision."""


class ServerError(ResxError):
    """A server was reached, but refused or failed the request."""


class ServerBusy(ServerError):  # noqa: N818 - a state that passes, not a mistake
    """A server refused a request at once because its queue is full. The same request may succeed later."""


class UsageError(ResxError):
    """A name, file or option is invalid."""

    exit_code = 2


class ParityError(ResxError):
    """A model's answers differ from those of its source by more than the tolerance."""

    exit_code = 3


class ObjectiveMissed(ResxError):  # noqa: N818 - what was measured is right, and not enough
    """No measurement meets an objective (latency, accuracy, rate), or a figure is worse than its baseline."""

    exit_code = 3


class MissingCapability(ResxError):  # noqa: N818 - the field says "missing capability", not "...Error"
    """This machine lacks a GPU, package or server. The message names the remedy."""

    exit_code = 4


_ADVICE = ("`weights_only`", "weights_only=", "allow_pickle=", "add_safe_globals", "trust_remote_code=")


def first_line(error: BaseException, *, with_type: bool = False) -> str:
    """Return the first line of a library's error that says something; its class's name if it says nothing.

    PyTorch and numpy end a refusal of what may run code with the option that takes the file anyway: that advice is
    left out.

    Args:
        error: of a library, the operating system or the user's own code.
        with_type: begin with the class's name, for errors of code whose messages mean little without it.
    """
    name, text = type(error).__name__, str(error)
    if any(word in text for word in _ADVICE):
        text = (
            "the file contains code or objects that may run code; save only the tensors: torch.save(model.state_dict())"
        )
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return (f"{name}: {line}" if with_type else line) if line else name


def reason_of(error: OSError) -> str:
    """Return what the operating system says, to go on a sentence with: `no such file or directory`."""
    return (error.strerror or str(error)).lower()


def nearest(value: str, known: Iterable[str]) -> str:
    """Return `; did you mean a, b?` for the known names closest to `value`, or an empty string."""
    close = difflib.get_close_matches(value, list(known), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
