"""What is spoiled, and by which command it is then read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from benchmarks.fuzz.edits import spoiled_bytes, spoiled_json, spoiled_lines, spoiled_text
from benchmarks.fuzz.isolated import Case
from benchmarks.fuzz.sound import COMMANDS, FORMATS, MODEL, Sound
from hypothesis import strategies as st

Cases = st.SearchStrategy[Case]
_PREDICT = ("predict", MODEL)
_OUT = ("-o", "rows.csv")


def _one_file(
    sound: Sound, name: str, *commands: tuple[str, ...], spoil: Callable[[bytes], st.SearchStrategy[bytes]]
) -> Cases:
    content = (sound.folder / name).read_bytes()
    return st.builds(
        lambda command, spoiled: Case(arguments=command, files={name: spoiled}),
        st.sampled_from(commands),
        spoil(content),
    )


def _json(content: bytes) -> st.SearchStrategy[bytes]:
    return spoiled_json(json.loads(content))


def _lines(content: bytes) -> st.SearchStrategy[bytes]:
    return spoiled_lines(content.decode())


def names(_sound: Sound) -> Cases:
    """Names of models, variants and files on the command line."""
    text = spoiled_text().map(lambda name: name.replace("\0", "").encode("utf-8", "replace").decode())
    commands = st.sampled_from(
        [
            ("info", "{}"), ("verify", "{}"), ("export", "{}"), ("export", "resnet20", "--name", "{}"),
            ("export", "resnet20", "--weights", "{}"), ("export", "resnet20", "--set", "{}"),
            ("export", "--reproduce", "{}"), ("predict", "{}", "images", *_OUT), ("predict", MODEL, "{}", *_OUT),
            ("train", "{}", "-o", "r"), ("train", "resnet20", "--data", "{}", "-o", "r"), ("lesion", "{}"),
            ("paths", "{}"), ("shrink", "{}", "-o", "s", "--drop", "1"), ("query", MODEL, "{}"), ("undeploy", "{}"),
            ("plan", "{}", "--rate", "5", "--slo", "p99=5ms"), ("status", "--url", "{}"),
            ("gc", "--repository", "{}"), ("logs", "--repository", "{}"),
        ]
    )  # fmt: skip
    return st.builds(
        lambda command, name: Case(arguments=tuple(part.replace("{}", name) for part in command), files={}),
        commands,
        text,
    )


def configurations(sound: Sound) -> Cases:
    """A model's config.pbtxt and labels.txt, as another writes them into the repository."""
    commands = (
        ("verify", MODEL),
        ("gc",),
        ("info", MODEL),
        ("predict", MODEL, "images", *_OUT),
        ("deploy", MODEL, "--render", "kubernetes", "-o", "out"),
        ("deploy", MODEL, "--render", "kserve"),
    )
    return st.one_of(
        _one_file(sound, f"model_repository/{MODEL}/config.pbtxt", *commands, spoil=_lines),
        _one_file(sound, f"model_repository/{MODEL}/labels.txt", *commands, spoil=_lines),
    )


def cards(sound: Sound) -> Cases:
    """A published version's card.json."""
    name = f"model_repository/{MODEL}/1/card.json"
    inside = _one_file(
        sound, name, ("verify", MODEL), ("info", MODEL), ("predict", MODEL, "images", *_OUT), ("gc",), spoil=_json
    )
    return st.one_of(inside, _one_file(sound, "card.json", ("export", "--reproduce", "card.json"), spoil=_json))


def specs(sound: Sound) -> Cases:
    """A run's spec, configuration and metrics."""
    commands = (
        ("info", "run"),
        ("paths", "run"),
        ("lesion", "run", "--images", "8"),
        ("export", "run", "--name", "again"),
        ("train", "resnet20", "-o", "run", "--resume", "--epochs", "1"),
    )
    files = [str(path.relative_to(sound.folder)) for path in sorted((sound.folder / "run").rglob("*.json"))]
    lines = [str(path.relative_to(sound.folder)) for path in sorted((sound.folder / "run").rglob("*.jsonl"))]
    return st.one_of(
        *(_one_file(sound, name, *commands, spoil=_json) for name in files),
        *(_one_file(sound, name, *commands, spoil=_lines) for name in lines),
    )


def checkpoints(sound: Sound) -> Cases:
    """Weights, as PyTorch and safetensors store them, and pickles that would run."""
    pickles = st.sampled_from(
        [
            b"cos\nsystem\n(S'touch RAN'\ntR.",
            b'\x80\x04cbuiltins\nexec\n(S\'open("RAN","w")\'\ntR.',
            b"ctrap\nmake\n(tR.",
        ]
    )
    commands = [(name, ("export", "resnet20", "--weights", name)) for name in ("weights.pth", "weights.safetensors")]
    spoiled = [
        _one_file(
            sound, name, command, ("info", name), spoil=lambda content: st.one_of(spoiled_bytes(content), pickles)
        )
        for name, command in commands
    ]
    return st.one_of(*spoiled)


def onnx_files(sound: Sound) -> Cases:
    """A third party's .onnx: its bytes, its names and its metadata."""
    commands = (("info", "net.onnx"), ("export", "net.onnx", "--name", "third"), ("verify", "net.onnx", "net.onnx"))
    content = (sound.folder / "net.onnx").read_bytes()
    words = (
        "image",
        "logits",
        "weights",
        "pool",
        "net",
        "N",
        "names",
        "{0: 'cat', 1: 'dog'}",
        "0.5,0.5,0.5",
        "resx.mean",
        "MatMul",
    )
    renamed = st.lists(st.tuples(st.sampled_from(words), spoiled_text()), min_size=1, max_size=2).map(
        lambda changes: _renamed(content, dict(changes))
    )
    return st.builds(
        lambda command, spoiled: Case(arguments=command, files={"net.onnx": spoiled}),
        st.sampled_from(commands),
        st.one_of(renamed, renamed, spoiled_bytes(content)),
    )


def _renamed(content: bytes, changes: Mapping[str, str]) -> bytes:
    """Put other words into an ONNX file, wherever the message has them; what no message can hold is shortened."""
    import onnx

    model = onnx.ModelProto.FromString(content)

    def visit(message: object) -> None:
        for field, value in message.ListFields():  # type: ignore[attr-defined]
            repeated = isinstance(value, str | bytes | int | float) is False and not hasattr(value, "ListFields")
            for index, item in enumerate(value) if repeated else ():
                if hasattr(item, "ListFields"):
                    visit(item)
                elif item in changes:
                    value[index] = changes[item].encode("utf-8", "replace").decode()
            if hasattr(value, "ListFields"):
                visit(value)
            elif isinstance(value, str) and value in changes:
                setattr(message, field.name, changes[value].encode("utf-8", "replace").decode())

    visit(model)
    return bytes(model.SerializeToString())


def images(sound: Sound) -> Cases:
    """Pictures of all formats."""
    files = {path.suffix[1:]: path for path in sorted((sound.folder / "images").rglob("*.*"))}
    train = ("train", "resnet20", "--data", "folder:images", "--image-size", "16", "--epochs", "1", "-o", "r")
    commands = st.sampled_from([("predict", MODEL, "seen", *_OUT), (*train, "--batch-size", "2")])
    spoiled = st.one_of(
        *(st.tuples(st.just(files[kind.lower()]), spoiled_bytes(files[kind.lower()].read_bytes())) for kind in FORMATS)
    )
    return st.builds(
        lambda command, one: Case(
            arguments=command, files={f"seen/x{one[0].suffix}": one[1], str(one[0].relative_to(sound.folder)): one[1]}
        ),
        commands,
        spoiled,
    )


def archives(sound: Sound) -> Cases:
    """CIFAR's archive."""
    import gzip

    train = ("train", "resnet20", "--data", "cifar10:cifar.tar.gz", "--epochs", "1", "--batch-size", "2", "-o", "r")
    inner = gzip.decompress((sound.folder / "cifar.tar.gz").read_bytes())
    inside = spoiled_bytes(inner).map(
        lambda content: Case(arguments=train, files={"cifar.tar.gz": gzip.compress(content, 1)})
    )
    return st.one_of(inside, _one_file(sound, "cifar.tar.gz", train, spoil=spoiled_bytes))


def tables(sound: Sound) -> Cases:
    """Parquet files, lists of paths and files of labels."""
    labels = ("export", "net.onnx", "--name", "third", "--labels", "labels.txt")
    return st.one_of(
        _one_file(sound, "table.parquet", (*_PREDICT, "table.parquet", *_OUT), spoil=spoiled_bytes),
        _one_file(sound, "list.txt", (*_PREDICT, "list.txt", *_OUT), spoil=_lines),
        _one_file(sound, "labels.txt", labels, spoil=_lines),
    )


def benchmarks(sound: Sound) -> Cases:
    """A result of `resx bench -o`."""
    plan = ("plan", MODEL, "--rate", "100", "--slo", "p99=50ms", "--bench", "bench.json")
    return _one_file(sound, "bench.json", plan, ("bench", "--against", "bench.json", MODEL), spoil=_json)


def server_answers(sound: Sound) -> Cases:
    """What a server says to every command that asks one."""
    ends = sorted(sound.answers, key=len, reverse=True)
    answers = {end: sound.answers[end] for end in ends}  # the longest end first, as the first that fits answers

    def spoiled(end: str) -> st.SearchStrategy[bytes]:
        head, _, body = answers[end].partition(b"\r\n\r\n")
        whole = spoiled_bytes(answers[end])
        try:
            document = json.loads(body)
        except ValueError:
            return st.one_of(whole, spoiled_bytes(body).map(lambda changed: _answer(changed, head)))
        return st.one_of(whole, *3 * [spoiled_json(document).map(lambda changed: _answer(changed, head))])

    one = st.sampled_from(ends).flatmap(lambda end: st.tuples(st.just(end), spoiled(end)))
    return st.builds(
        lambda command, changes: Case(arguments=command, files={}, answers=answers | dict(changes)),
        st.sampled_from(COMMANDS),
        st.lists(one, min_size=1, max_size=2),
    )


def _answer(body: bytes, head: bytes) -> bytes:
    """Return an http answer whose length is right, so that the body is read."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


TARGETS: Mapping[str, Callable[[Sound], Cases]] = {
    "names": names, "configurations": configurations, "cards": cards, "specs": specs, "checkpoints": checkpoints,
    "onnx": onnx_files, "images": images, "archives": archives, "tables": tables, "benchmarks": benchmarks,
    "server-answers": server_answers,
}  # fmt: skip
NEED_A_SERVER = frozenset({"benchmarks", "server-answers"})
NEED_A_RUN = frozenset({"specs"})
