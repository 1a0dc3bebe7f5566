"""What resx changes in the embedded server's program, so that no request ends it, fills its memory or is lost.

Triton 2.51 has no limits of its own and no flags for them:

- it parses JSON recursively, so 850,000 opening brackets overran a thread's stack and ended the server;
- it takes the memory for a tensor by the request's `shape` alone, so one line of JSON ended it or took gigabytes;
- it reads a body that says it is a form, as curl's do unless told otherwise, into twice its length of that stack;
- bodies and headers have no end, and each chunk of a chunked body takes a kilobyte;
- what is packed, over http or gRPC, unpacks to any size; over http it is kept for ever if it is refused afterwards, and
  over gRPC nothing else is answered meanwhile;
- it drops replies, and new connections, where more than 278 wait for one of its HTTP threads, as when many answers come
  from the response cache at once: their clients wait for ever, and so does whoever unloads the model;
- any web page that a browser on this machine shows may send requests, and read answers through a name that leads here.

The program that resx unpacks from the pinned wheel refuses such requests, and waits where it dropped something.
request_limits.s has the instructions; they lie in the zeros behind the program's own code, and `_HOOKS` are the places
that lead there. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

from resx.serving.embedded.patches.binary_edits import Edit, rewrite

REQUEST_BYTES = 64 * 2**20
"""For a body. Whoever has the control key may send more: deployments carry model files."""
HEADER_BYTES = 2**20
"""For the headers of a request, counted with what the server keeps for each."""
JSON_STACK_BYTES = 2**16
"""For the nesting of a JSON text; some 800 levels."""

CODE_AT = 0xAA8C30
CODE = bytes.fromhex(
    "4889f84829e0483d00000100770b415741564155e9016472ffc7473010000000488b06488b08482b480848894f38c348898538fcffff48"
    "8b8508fcffff483b45187705e9037984ffbf03000000488d3584010000e877c760ffe9617984ff488b53784801ea4881fa000000047705"
    "e9142befff488b4368488b7830488d358b010000e8492aefff4885c07405e9f62aefffe9762cefff498d8c248000000048014878488178"
    "7800001000770a498d7c2401e9182fefff4889c3e9652fefff53554883ec084889fb4889f5488b7b30488d3549010000e8f629efff4885"
    "c0742950504889c7488d353f010000ba07000000e8abce60ff5f5f85c075414883c707e86f00000085c07434488b7b30488d3512010000"
    "e8b829efff4885c0740c4889c7e84e00000085c074134889ef4889de488b45004883c4085d5bff6010488b7b28488d3516010000ba6f00"
    "0000e87fdeefff4889df488d35f1000000e8705583ff4889dfbe930100004883c4085d5be96d66efff534889fb488d35b4000000ba0900"
    "0000e818ce60ff85c074344889df488d35a6000000ba09000000e800ce60ff85c0741c4889df488d3598000000ba05000000e8e8cd60ff"
    "85c075184883eb040fb6430985c0740583f83a7507b8010000005bc331c05bc32773686170652720686173206d6f726520656c656d656e"
    "7473207468616e2074686520726571756573742068617320627974657300726573782d636f6e74726f6c2d6b6579004f726967696e0048"
    "6f737400687474703a2f2f003132372e302e302e31006c6f63616c686f7374005b3a3a315d006170706c69636174696f6e2f6a736f6e00"
    "7b226572726f72223a22746869732073657276657220616e73776572732070726f6772616d73206f662074686973206d616368696e653a"
    "20486f737420616e64204f726967696e206d757374206265203132372e302e302e312c206c6f63616c686f7374206f72205b3a3a315d22"
    "7d53554883ec284889fbbd10270000c6042400488954240148897424098b7b044889e6ba1100000031c9e816b360ff4885c07f39e8acce"
    "60ff83380b7528e8e2bf60ff488b4b48483b01750c8b3b4889dae87fa9efffebc5bfe8030000e843d260ffffcd75b7b802000000eb0231"
    "c04883c4285d5bc3"
)
"""request_limits.s, assembled."""
# Where the program leads into the code, what stands there, and to which label it leads.
_HOOKS = (
    (0x1CF044, "4157 4156 4155", "depth"),
    (0x2DE234, "488b06 4989f8", "dispatch"),
    (0x2F0574, "48898538fcffff", "elements"),
    (0x99B79E, "488b4070 4885c0", "body"),
    (0x99BBF9, "498d7c2401", "header"),
    (0x9A3950, "f30f1efa 4883ec28", "defer"),
)
LABELS = {
    "depth": 0xAA8C30,
    "elements": 0xAA8C5F,
    "body": 0xAA8C8E,
    "header": 0xAA8CC6,
    "dispatch": 0xAA8CEE,
    "defer": 0xAA8EFC,
}
# What is changed in place.
_EDITS = (
    # htp__request_parse_body_: a piece of a chunked body is added to those before it, as it is with a Content-Length.
    Edit(0x99B840, bytes.fromhex("4c8b"), bytes.fromhex("ebdc")),
    # htp__request_parse_fini_: no body is a form (jne becomes jmp).
    Edit(0x99CD0B, b"\x75", b"\xeb"),
    # HTTPAPIServer::DecompressBuffer: gzip and deflate are unknown encodings (je becomes nop).
    Edit(0x2E27F6, bytes.fromhex("0f8439010000"), bytes.fromhex("660f1f440000")),
    Edit(0x2E280D, bytes.fromhex("0f841d010000"), bytes.fromhex("660f1f440000")),
    # grpc::ServerBuilder: no encoding but identity is enabled; CompressionFilter: and no message is unpacked.
    Edit(0x34C58F, bytes.fromhex("d800000007"), bytes.fromhex("d800000001")),
    Edit(0x60DB5E, b"\xba\1", b"\xba\0"),
)


def edits() -> list[Edit]:
    """Return every change."""
    hooks = [Edit(at, bytes.fromhex(before), _jump(at, LABELS[label])) for at, before, label in _HOOKS]
    return [*hooks, *_EDITS, Edit(CODE_AT, bytes(len(CODE)), CODE)]


def limit_requests(server: Path) -> None:
    """Write the changes into the unpacked program, which must be the pinned wheel's own, untouched."""
    rewrite(server, edits())


def _jump(at: int, to: int) -> bytes:
    """Return the instruction that goes on at another address; offsets in the file are addresses here."""
    return b"\xe9" + (to - at - 5).to_bytes(4, "little", signed=True)
