"""What resx changes in the embedded server's program, so that no HTTP request ends it or fills its memory.

Triton 2.51 has no limits of its own and no flags for them:

- it parses JSON recursively, so 850,000 opening brackets overran a thread's stack and ended the server;
- it takes the memory for a tensor by the request's `shape` alone, so one line of JSON ended it or took gigabytes;
- it reads a body that says it is a form, as curl's do unless told otherwise, into twice its length of that stack;
- bodies, headers and what a packed body unpacks to have no end, and each chunk of a chunked body takes a kilobyte;
- any web page that a browser on this machine shows may send requests, and read answers through a name that leads here.

The program that resx unpacks from the pinned wheel refuses such requests. request_limits.s has the instructions; they
lie in the zeros behind the program's own code, and `_HOOKS` are the places that lead there. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

REQUEST_BYTES = 64 * 2**20
"""For a body, as sent and as unpacked. Whoever has the control key may send more: deployments carry model files."""
HEADER_BYTES = 2**20
"""For the headers of a request, counted with what the server keeps for each."""
JSON_STACK_BYTES = 2**16
"""For the nesting of a JSON text; some 800 levels."""

CODE_AT = 0xAA8C30
CODE = bytes.fromhex(
    "4889f84829e0483d00000100770b415741564155e9016472ffc7473010000000488b06488b08482b480848894f38c348898538fcffff48"
    "8b8508fcffff483b45187705e9037984ffbf03000000488d359d010000e877c760ffe9617984ff49817e2800000004770aba01000000e9"
    "9c7685ffe9f17785ff488b53784801ea4881fa000000047705e9fb2aefff488b4368488b7830488d358b010000e8302aefff4885c07405"
    "e9dd2aefffe95d2cefff498d8c2480000000480148784881787800001000770a498d7c2401e9ff2eefff4889c3e94c2fefff53554883ec"
    "084889fb4889f5488b7b30488d3549010000e8dd29efff4885c0742950504889c7488d353f010000ba07000000e892ce60ff5f5f85c075"
    "414883c707e86f00000085c07434488b7b30488d3512010000e89f29efff4885c0740c4889c7e84e00000085c074134889ef4889de488b"
    "45004883c4085d5bff6010488b7b28488d3516010000ba6f000000e866deefff4889df488d35f1000000e8575583ff4889dfbe93010000"
    "4883c4085d5be95466efff534889fb488d35b4000000ba09000000e8ffcd60ff85c074344889df488d35a6000000ba09000000e8e7cd60"
    "ff85c0741c4889df488d3598000000ba05000000e8cfcd60ff85c075184883eb040fb6430985c0740583f83a7507b8010000005bc331c0"
    "5bc32773686170652720686173206d6f726520656c656d656e7473207468616e2074686520726571756573742068617320627974657300"
    "726573782d636f6e74726f6c2d6b6579004f726967696e00486f737400687474703a2f2f003132372e302e302e31006c6f63616c686f73"
    "74005b3a3a315d006170706c69636174696f6e2f6a736f6e007b226572726f72223a22746869732073657276657220616e737765727320"
    "70726f6772616d73206f662074686973206d616368696e653a20486f737420616e64204f726967696e206d757374206265203132372e30"
    "2e302e312c206c6f63616c686f7374206f72205b3a3a315d227d"
)
"""request_limits.s, assembled."""
# Where the program leads into the code, what stands there, and to which label it leads.
_HOOKS = (
    (0x1CF044, "4157 4156 4155", "depth"),
    (0x2DE234, "488b06 4989f8", "dispatch"),
    (0x2F0574, "48898538fcffff", "elements"),
    (0x300339, "ba01000000", "unpacked"),
    (0x99B79E, "488b4070 4885c0", "body"),
    (0x99BBF9, "498d7c2401", "header"),
)
LABELS = {
    "depth": 0xAA8C30, "elements": 0xAA8C5F, "unpacked": 0xAA8C8E, "body": 0xAA8CA7, "header": 0xAA8CDF,
    "dispatch": 0xAA8D07,
}  # fmt: skip
# htp__request_parse_body_: a piece of a body without Content-Length is added to the ones before it, as one with it is.
_JOIN_CHUNKS = (0x99B840, bytes.fromhex("4c8b"), bytes.fromhex("ebdc"))
# htp__request_parse_fini_: no body is a form's fields, which are read into as much of the stack as the body is long, twice.
_READ_NO_FORMS = (0x99CD0B, b"\x75", b"\xeb")


def limit_requests(server: Path) -> None:
    """Write the changes into the unpacked program, which must be the pinned wheel's own, untouched."""
    content = bytearray(server.read_bytes())
    hooks = [(at, bytes.fromhex(before), _jump(at, LABELS[label])) for at, before, label in _HOOKS]
    for at, before, after in (*hooks, _JOIN_CHUNKS, _READ_NO_FORMS, (CODE_AT, bytes(len(CODE)), CODE)):
        assert content[at : at + len(before)] == before, f"{server} is of another wheel"
        content[at : at + len(after)] = after
    server.write_bytes(content)


def _jump(at: int, to: int) -> bytes:
    """Return the instruction that goes on at another address; offsets in the file are addresses here."""
    return b"\xe9" + (to - at - 5).to_bytes(4, "little", signed=True)
