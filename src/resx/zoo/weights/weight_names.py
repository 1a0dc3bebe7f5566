"""Which tensors of a file are a network's weights: found by the network's own names, whatever stands before them.

Envelopes (`{"state_dict": ...}`), wrappers (`module.`, `_orig_mod.`) and parents (`backbone.`) all put something
before a name. A network is therefore wherever its names end the file's names under one prefix. A file may hold it
several times; then the moving average (EMA) is taken, as timm does, or the user says which.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resx.errors import UsageError
from resx.zoo.weights.checkpoint_files import Stored
from resx.zoo.weights.file_kinds import show_name

# The published DenseNet files still say `denselayer1.norm.1.weight` for `denselayer1.norm1.weight`.
_OLD_DENSENET_KEY = re.compile(
    r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var|num_batches_tracked))"
)
_EMA = re.compile(r"(?<![a-zA-Z])ema(?![a-z])|(?<![A-Z])E(?:MA|ma)(?![a-z])")
_OPTIMIZER_KEY = re.compile(r"(?:.*\.)?state\.\d+\.(\w+)")
# What a training module holds beside its network's layers.
_NO_LAYERS = {"criterion", "loss", "losses", "metric", "metrics", "acc", "accuracy"}
_COUNTERS = ("num_batches_tracked", "n_averaged")
TOP = "."
"""What `--weights-entry` calls a network whose names have nothing before them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The part of a file that a network's weights are taken from."""

    prefix: str
    """What stands before every name in the file, envelope and all; with its last dot, or empty."""
    envelope: str
    """The keys of the mappings around the names."""
    keys: Mapping[str, str]
    """The file's name for each of the network's own."""
    num_fitting: int
    """Needed tensors that have the right shape too."""
    unknown: tuple[str, ...] = ()
    """Names under the prefix that the network does not have."""
    left_out: tuple[str, ...] = ()
    """Names in the same envelope that are not the network's: beside the prefix, or of losses and metrics."""
    renamed_head: str = ""
    """What the file calls the last layer, where that is another name."""
    entry: str = ""
    """What `--weights-entry` calls this part; empty where there is nothing to tell apart."""
    others: tuple[str, ...] = ()
    """Entries that fit as well and were not taken, as this one is an EMA."""
    incomplete: tuple[str, ...] = ()
    """Entries of an EMA that were not taken, as this one has more of the network."""


def present_name(name: str) -> str:
    """Return a name as torchvision has it now."""
    old = _OLD_DENSENET_KEY.fullmatch(name)
    return old[1] + old[2] if old else name


def is_needed(name: str) -> bool:
    """Say whether a network needs a tensor; counters of training steps change nothing in evaluation."""
    return not name.endswith(_COUNTERS)


def is_ema(prefix: str) -> bool:
    """Say whether an entry or a prefix is named for an exponential moving average."""
    return _EMA.search(prefix) is not None


def head_of(own: Mapping[str, Tensor]) -> str:
    """Return the name of the last layer that has a matrix of weights, or an empty string."""
    matrices = [name for name, tensor in own.items() if tensor.ndim >= 2 and name.endswith(".weight")]
    return matrices[-1].removesuffix(".weight") if matrices else ""


def find_fit(own: Mapping[str, Tensor], file: Mapping[str, Stored], *, source: str, entry: str = "") -> Fit:
    """Find the network whose state dict is `own` in a file.

    Where nothing in the file resembles it, the fit is the file's largest part, for a report of what differs.

    Args:
        own: the network's tensors by their names.
        file: the file's tensors by their whole names, see `read_checkpoint`.
        source: the file's name, for messages.
        entry: the part to take; empty leaves it to the rule.

    Raises:
        UsageError: several parts fit and none is an EMA, there is no such entry, or there are no weights at all.
    """
    fits = _fits(own, file)
    if not fits:
        return _largest_part(own, file, source)
    labels = {fit.prefix: _label(fit, fits) for fit in fits}
    asked = _named(fits, entry) if entry else fits
    if not asked:
        known = ", ".join(filter(None, labels.values()))
        what = f"{known}; give one of them, or" if known else "one network and no entries;"
        raise UsageError(f"--weights-entry {entry}: {source} holds {what} leave the option out")
    rank = max(map(_rank, asked))
    best = [fit for fit in asked if _rank(fit) == rank]
    for fit in best:
        _require_plain(own, fit, file, source)
    averages = [fit for fit in best if is_ema(fit.prefix)]
    chosen, *rivals = _distinct(averages or best, file)
    if rivals:
        names = ", ".join(labels[fit.prefix] for fit in (chosen, *rivals))
        raise UsageError(
            f"{source}: holds {1 + len(rivals)} networks that fit, {names}; choose one: --weights-entry NAME"
        )
    others = tuple(labels[fit.prefix] for fit in best if averages and fit not in averages)
    incomplete = tuple(labels[fit.prefix] for fit in asked if is_ema(fit.prefix) and not averages)
    return replace(chosen, entry=labels[chosen.prefix], others=others, incomplete=incomplete)


def main_prefix(file: Mapping[str, Stored]) -> str:
    """Return what stands before the names of a file's largest part, or of its largest EMA."""
    parts: dict[str, list[str]] = defaultdict(list)
    for key, item in file.items():
        parts[item.entry].append(key)
    averages = {entry: keys for entry, keys in parts.items() if is_ema(entry)}
    largest = max((averages or parts).values(), key=len)
    return _common_prefix(largest)


def _fits(own: Mapping[str, Tensor], file: Mapping[str, Stored]) -> list[Fit]:
    """Return every part of the file that has most of the network's names."""
    names = {present_name(name): name for name in own}
    fits = _fits_by_names(names, own, file)
    shared = _common_prefix(names)
    if fits or not shared:
        return fits
    return _fits_by_names({name.removeprefix(shared): whole for name, whole in names.items()}, own, file)


def _fits_by_names(names: Mapping[str, str], own: Mapping[str, Tensor], file: Mapping[str, Stored]) -> list[Fit]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for key in file:
        parts = present_name(key).split(".")
        for start in range(len(parts)):
            name = names.get(".".join(parts[start:]))
            if name is not None:
                found["".join(f"{part}." for part in parts[:start])][name] = key
    num_needed = sum(map(is_needed, own))
    found = {prefix: keys for prefix, keys in found.items() if 2 * sum(map(is_needed, keys)) > num_needed}
    taken = {key for keys in found.values() for key in keys.values()}
    rest = [key for key in file if key not in taken and is_needed(key)]
    return [_fit(prefix, keys, own, file, rest) for prefix, keys in found.items()]


def _fit(
    prefix: str, keys: dict[str, str], own: Mapping[str, Tensor], file: Mapping[str, Stored], rest: list[str]
) -> Fit:
    """Describe the part of a file under a prefix; `rest` are the needed names that no part has."""
    envelopes = {file[key].entry for key in keys.values()}
    beside = [key for key in rest if file[key].entry in envelopes]
    children = {name.partition(".")[0] for name in own}
    under = [key for key in beside if key.startswith(prefix) and not _is_no_layer(key[len(prefix) :], children)]
    head = head_of(own)
    renamed = ""
    if {name for name in own if is_needed(name) and name not in keys} in (
        {f"{head}.weight"},
        {f"{head}.weight", f"{head}.bias"},
    ):
        renamed = _renamed_head(own[f"{head}.weight"], file, under or beside, all_of_them=bool(under))
    if renamed:
        parts = {part: f"{renamed}.{part}" for part in ("weight", "bias") if f"{renamed}.{part}" in file}
        keys = keys | {f"{head}.{part}": key for part, key in parts.items()}
        beside = [key for key in beside if key not in parts.values()]
        under = []
    needed = [name for name in keys if is_needed(name)]
    return Fit(
        prefix=prefix,
        envelope=envelopes.pop() if len(envelopes) == 1 else _common_prefix(f"{entry}." for entry in envelopes)[:-1],
        keys=keys,
        num_fitting=sum(name in own and file[keys[name]].tensor.shape == own[name].shape for name in needed),
        unknown=tuple(under),
        left_out=tuple(key for key in beside if key not in under),
        renamed_head=renamed.removeprefix(prefix),
    )


def _renamed_head(weight: Tensor, file: Mapping[str, Stored], keys: list[str], *, all_of_them: bool) -> str:
    """Return the one layer among the keys that could be the last one; empty if none, several, or more than it."""
    layers = [
        key.removesuffix(".weight")
        for key in keys
        if key.endswith(".weight") and file[key].tensor.shape[1:] == weight.shape[1:]
    ]
    if len(layers) != 1 or (all_of_them and not set(keys) <= {f"{layers[0]}.weight", f"{layers[0]}.bias"}):
        return ""
    return layers[0]


def _is_no_layer(name: str, children: set[str]) -> bool:
    child = name.partition(".")[0]
    return child not in children and not _NO_LAYERS.isdisjoint(child.lower().split("_"))


def _rank(fit: Fit) -> tuple[int, int]:
    return fit.num_fitting, -len(fit.unknown)


def _label(fit: Fit, fits: list[Fit]) -> str:
    """Return the shortest of a part's names that tells it from the others."""
    is_alone = sum(other.envelope == fit.envelope for other in fits) == 1
    return show_name(fit.envelope) if is_alone else show_name(fit.prefix[:-1]) or TOP


def _named(fits: list[Fit], entry: str) -> list[Fit]:
    """Return the parts whose prefix begins with the entry, else those that have it somewhere."""
    if entry == TOP:
        return [fit for fit in fits if not fit.prefix]
    return [fit for fit in fits if fit.prefix.startswith(f"{entry}.")] or [
        fit for fit in fits if f".{entry}." in f".{fit.prefix}"
    ]


def _distinct(fits: list[Fit], file: Mapping[str, Stored]) -> list[Fit]:
    """Return the fits without those that hold the very tensors of an earlier one."""
    kept: list[Fit] = []
    for fit in fits:
        if not any(_are_equal(fit, other, file) for other in kept):
            kept.append(fit)
    return kept


def _are_equal(one: Fit, other: Fit, file: Mapping[str, Stored]) -> bool:
    needed = [{name for name in fit.keys if is_needed(name)} for fit in (one, other)]
    return needed[0] == needed[1] and all(
        a.dtype == b.dtype and torch.equal(a, b)
        for a, b in ((file[one.keys[name]].tensor, file[other.keys[name]].tensor) for name in needed[0])
    )


def _require_plain(own: Mapping[str, Tensor], fit: Fit, file: Mapping[str, Stored], source: str) -> None:
    """Check that a part holds its values as floating-point numbers, one after the other."""
    for name, key in fit.keys.items():
        tensor = file[key].tensor
        if name in own and is_needed(name) and own[name].is_floating_point() and (what := _unusable(tensor)):
            raise UsageError(f"{source}: {show_name(key)} is {what}; give the weights in fp32, fp16 or bf16")


def _unusable(tensor: Tensor) -> str:
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_meta:
        return "without values (on the meta device)"
    if tensor.is_quantized or tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"{str(tensor.dtype).removeprefix('torch.')} (quantized or complex)"
    return "" if tensor.layout == torch.strided else "sparse"


def _largest_part(own: Mapping[str, Tensor], file: Mapping[str, Stored], source: str) -> Fit:
    optimizer = [_OPTIMIZER_KEY.fullmatch(key) for key in file]
    if all(optimizer):
        what = ", ".join(sorted({found[1] for found in optimizer if found})[:3])
        raise UsageError(f"{source}: contains no network weights (optimizer state: {what}); save model.state_dict()")
    prefix = main_prefix(file)
    names = {present_name(key.removeprefix(prefix)): key for key in file if key.startswith(prefix) and is_needed(key)}
    keys = {name: key for name, key in names.items() if name in own}
    unknown = tuple(key for name, key in names.items() if name not in own)
    return Fit(prefix=prefix, envelope="", keys=keys, num_fitting=0, unknown=unknown)


def _common_prefix(names: Iterable[str]) -> str:
    """Return the longest dotted beginning that all names share, with its last dot."""
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)
