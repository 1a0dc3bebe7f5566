"""The page of `benchmarks.timm_families`: its networks, and its table, which a run also goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from importlib import metadata

FAMILIES = {
    "ResNet": "resnet10t", "ResNet-D": "resnet26d", "SE-ResNet": "seresnet18", "ECA-ResNet": "ecaresnet26t",
    "ResNet-RS": "resnetrs50", "ResNeXt": "resnext50_32x4d", "Wide ResNet": "wide_resnet50_2",
    "ResNet v2": "resnetv2_18", "BiT": "resnetv2_50x1_bit", "SKNet": "skresnet18",
    "SENet (legacy)": "legacy_seresnet18", "Res2Net": "res2net50_48w_2s", "ResNeSt": "resnest14d",
    "NF-ResNet": "nf_resnet26", "NF-RegNet": "nf_regnet_b0", "NFNet": "nfnet_l0", "CSP-ResNet": "cspresnet50",
    "DarkNet": "darknet17", "CS3DarkNet": "cs3darknet_s", "CSPNeXt": "cspnext_tiny", "DenseNet": "densenet121",
    "RDNet": "rdnet_tiny", "DLA": "dla46x_c", "DPN": "dpn48b", "VGG": "vgg11", "VGG-BN": "vgg11_bn",
    "VoVNet": "ese_vovnet19b_slim_dw", "HRNet": "hrnet_w18_small", "TResNet": "tresnet_m", "SelecSLS": "selecsls42",
    "RegNetX": "regnetx_002", "RegNetY": "regnety_002", "RegNetZ": "regnetz_005", "RegNetV": "regnetv_040",
    "GENet": "gernet_s", "RepVGG": "repvgg_a0", "MobileOne": "mobileone_s0", "ResNet-Q": "resnet51q",
    "GC-ResNeXt": "gcresnext26ts", "BAT-ResNeXt": "bat_resnext26ts", "ResNet (CLIP)": "resnet50_clip_gap",
    "EfficientNet": "efficientnet_b0", "EfficientNet (TF)": "tf_efficientnet_b0",
    "EfficientNet-Lite": "efficientnet_lite0", "EfficientNet v2": "efficientnetv2_rw_t",
    "EfficientNet-Edge": "efficientnet_es", "CondConv": "efficientnet_cc_b0_4e", "MnasNet": "mnasnet_small",
    "FBNet": "fbnetc_100", "Single-Path NAS": "spnasnet_100", "MixNet": "mixnet_s", "TinyNet": "tinynet_e",
    "MobileNet v1": "mobilenetv1_100", "MobileNet v2": "mobilenetv2_035", "MobileNet v3": "mobilenetv3_small_050",
    "MobileNet v4": "mobilenetv4_conv_small_035", "LCNet": "lcnet_035", "LCNet v2": "lcnetv2_small",
    "HardCoRe-NAS": "hardcorenas_a", "GhostNet": "ghostnet_050", "GhostNet v2": "ghostnetv2_100",
    "RepGhost": "repghostnet_050", "ReXNet": "rexnet_100", "StarNet": "starnet_s050", "FasterNet": "fasternet_t0",
    "FastViT": "fastvit_t8", "PP-HGNet": "hgnet_tiny", "PP-HGNet v2": "hgnetv2_b0", "Xception": "legacy_xception",
    "Xception (aligned)": "xception41", "Inception v3": "inception_v3", "Inception v4": "inception_v4",
    "Inception-ResNet": "inception_resnet_v2", "NASNet": "nasnetalarge", "PNASNet": "pnasnet5large",
    "ConvNeXt": "convnext_atto", "ConvNeXt v2": "convnextv2_atto", "InceptionNeXt": "inception_next_atto",
    "ConvMixer": "convmixer_768_32", "PoolFormer": "poolformer_s12", "ConvFormer": "convformer_s18",
    "FocalNet": "focalnet_tiny_srf", "MambaOut": "mambaout_femto", "RepViT": "repvit_m0_9", "CSATv2": "csatv2",
}  # fmt: skip
"""A small one of each. FastViT's smallest has no attention; CSATv2, GC-ResNeXt and BAT-ResNeXt have it beside their
convolutions."""

OTHER_MODULES = {
    "beit", "byoanet", "cait", "coat", "convit", "cpubone", "crossvit", "davit", "deepseek_vit", "deit", "edgenext",
    "efficientformer", "efficientformer_v2", "efficientvim", "efficientvit_mit", "efficientvit_msra", "eva",
    "gcvit", "gemma4_vit", "hiera", "hieradet_sam2", "iformer", "levit", "lowformer", "maxxvit", "mlp_mixer",
    "mobilenetv5", "mobilevit", "mvitv2", "naflexvit", "nest", "nextvit", "pit", "pvt_v2", "qwen3_vit", "sequencer",
    "shvit", "swiftformer", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit", "tnt",
    "twins", "visformer", "vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos",
    "vision_transformer_sam", "vitamin", "volo", "xcit",
}  # fmt: skip
"""timm's modules of transformers, of perceptrons, and of networks that are half attention."""

COLUMNS = ("Family", "timm:", "Parameters", "Pixels", "fp32", "fp16", "Preprocessing", "Served")
REFUSED, NONE = "refused: ", "-"
_PAGE = """\
# timm's convolutional families

Written by `python -m benchmarks.timm_families -o docs/timm.md`: one small network of each family, with random weights,
exported with `--fp16`. How to use timm's networks: [timm and the Hugging Face Hub](how-to/timm.md).

- `fp32` and `fp16`: the largest difference of the file's logits from PyTorch's, as a share of their scale. The limits
  are 1e-4 and 1e-2, or more where rounding the network's weights and layers alone does more.
- `Preprocessing`: the largest difference from timm's own transform, in gray levels of 0 to 255.
- `Served`: as `fp16`, of the answer of the embedded server to a photograph; one network of ten.

{summary}

Versions: {versions}.

{table}

**Next:** [Use timm and the Hugging Face Hub](how-to/timm.md) has the commands for your own choice.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What came of one network, as the table shows it, column by column."""

    family: str
    name: str
    parameters: str = NONE
    pixels: str
    fp32: str = NONE
    fp16: str = NONE
    preprocessing: str = NONE
    served: str = NONE

    @property
    def is_refused(self) -> bool:
        """Whether a step of it failed."""
        return any(cell.startswith(REFUSED) for cell in astuple(self))


def refused(error: object) -> str:
    """Return an error as a cell: one line without what would end the cell."""
    return REFUSED + " ".join(str(error).split()).replace("|", "/")


def versions() -> str:
    """Return what decides the figures."""
    return ", ".join(f"{package} {metadata.version(package)}" for package in ("timm", "torch", "onnxruntime"))


def read_rows(page: str) -> dict[str, Row]:
    """Return the rows of a page's text by their network."""
    table = [line[2:-2].split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    rows = [Row(**dict(zip(Row.__dataclass_fields__, cells, strict=True))) for cells in table]
    return {row.name: row for row in rows if FAMILIES.get(row.family) == row.name}


def is_of_today(page: str) -> bool:
    """Say whether the versions that made a page are installed."""
    return f"Versions: {versions()}." in page


def write_page(rows: Mapping[str, Row]) -> str:
    """Return the page, the rows in the order of `FAMILIES`."""
    ordered = [rows[name] for name in FAMILIES.values() if name in rows]
    lines = [COLUMNS, *map(astuple, ordered)]
    table = [f"| {' | '.join(line)} |" for line in lines]
    table.insert(1, "|---|---|--:|--:|--:|--:|--:|--:|")
    return _PAGE.format(summary=summarize(ordered), versions=versions(), table="\n".join(table))


def summarize(rows: Iterable[Row]) -> str:
    """Return in a line how many passed."""
    tried = list(rows)
    passed = [row for row in tried if not row.is_refused]
    served = sum(row.served != NONE for row in passed)
    left = len(FAMILIES) - len(tried)
    return (
        f"{len(passed)} of {len(tried)} families passed, {served} of them served"
        f"{f'; {left} were not tried yet' if left else ''}."
    )
