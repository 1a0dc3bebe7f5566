"""Export one small network of each of timm's convolutional families, with random weights, and print what came of each.

    python -m benchmarks.timm_families --fp16
    python -m benchmarks.timm_families --fp16 --only 'regnet*' --serve-every 10

Each is exported in a process of its own. Every N-th is served as well, by the embedded server, and asked about a
photograph. Options that this command does not know go to `resx export`. With --within S no network is begun after S
seconds; those that were left out are counted. Exit code 1 if one is refused or does not answer.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.every_variant import COLUMNS, export
from PIL import Image
from sklearn.datasets import load_sample_image

FAMILIES = {
    "ResNet": "resnet18", "ResNet-D": "resnet26d", "ResNet-T": "resnet14t", "SE-ResNet": "seresnet18",
    "ECA-ResNet": "ecaresnetlight", "ResNet-RS": "resnetrs50", "ResNeXt": "resnext50_32x4d",
    "Wide ResNet": "wide_resnet50_2", "ResNet v2": "resnetv2_18", "BiT": "resnetv2_50x1_bit",
    "SKNet": "skresnet18", "SENet (legacy)": "legacy_seresnet18", "Res2Net": "res2net50_26w_4s",
    "ResNeSt": "resnest14d", "NF-ResNet": "nf_resnet26", "NFNet": "nfnet_l0", "CSPNet": "cspresnet50",
    "DarkNet": "darknet17", "CS3DarkNet": "cs3darknet_s", "CSPNeXt": "cspnext_tiny", "DenseNet": "densenet121",
    "RDNet": "rdnet_tiny", "DLA": "dla46_c", "DPN": "dpn48b", "VGG": "vgg11", "VGG-BN": "vgg11_bn",
    "VoVNet": "ese_vovnet19b_slim_dw", "HRNet": "hrnet_w18_small", "TResNet": "tresnet_m", "SelecSLS": "selecsls42",
    "RegNetX": "regnetx_002", "RegNetY": "regnety_002", "RegNetZ": "regnetz_005", "RegNetV": "regnetv_040",
    "GENet": "gernet_s", "RepVGG": "repvgg_a0", "MobileOne": "mobileone_s0", "ResNet-Q": "resnet51q",
    "GC-ResNet": "gcresnet33ts", "BAT-ResNeXt": "bat_resnext26ts", "EfficientNet": "efficientnet_b0",
    "EfficientNet (TF)": "tf_efficientnet_b0", "EfficientNet-Lite": "efficientnet_lite0",
    "EfficientNet v2": "efficientnetv2_rw_t", "EfficientNet-Edge": "efficientnet_es",
    "CondConv": "efficientnet_cc_b0_4e", "MnasNet": "mnasnet_small", "FBNet": "fbnetc_100",
    "Single-Path NAS": "spnasnet_100", "MixNet": "mixnet_s", "TinyNet": "tinynet_e", "MobileNet v1": "mobilenetv1_100",
    "MobileNet v2": "mobilenetv2_035", "MobileNet v3": "mobilenetv3_small_050",
    "MobileNet v4": "mobilenetv4_conv_small_050", "LCNet": "lcnet_035", "LCNet v2": "lcnetv2_small",
    "HardCoRe-NAS": "hardcorenas_a", "GhostNet": "ghostnet_050", "GhostNet v2": "ghostnetv2_100",
    "RepGhost": "repghostnet_050", "ReXNet": "rexnet_100", "StarNet": "starnet_s050", "FasterNet": "fasternet_t0",
    "PP-HGNet": "hgnet_tiny", "PP-HGNet v2": "hgnetv2_b0", "Xception": "legacy_xception",
    "Xception (aligned)": "xception41", "Inception v3": "inception_v3", "Inception v4": "inception_v4",
    "Inception-ResNet": "inception_resnet_v2", "NASNet": "nasnetalarge", "PNASNet": "pnasnet5large",
    "ConvNeXt": "convnext_atto", "ConvNeXt v2": "convnextv2_atto", "InceptionNeXt": "inception_next_atto",
    "ConvMixer": "convmixer_768_32", "PoolFormer": "poolformer_s12", "ConvFormer": "convformer_s18",
    "FocalNet": "focalnet_tiny_srf", "MambaOut": "mambaout_femto", "RepViT": "repvit_m0_9", "CSATv2": "csatv2",
}  # fmt: skip
"""A small one of each. CSATv2, GC-ResNet and BAT-ResNeXt have attention beside their convolutions."""
_WIDTH = 48


def main() -> int:
    """Export them, one after the other; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="patterns of timm's names, with commas between them")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds after which none is begun")
    parser.add_argument("--serve-every", type=int, default=0, help="serve every N-th; 0: none")
    asked, options = parser.parse_known_args()
    patterns = asked.only.split(",")
    chosen = {
        family: name for family, name in FAMILIES.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }
    print(f"{'family, timm:NAME':<{_WIDTH}} {COLUMNS}")
    begun, tried, failed, served = time.monotonic(), 0, 0, 0
    for number, (family, name) in enumerate(chosen.items(), 1):
        if time.monotonic() - begun > asked.within:
            break
        tried += 1
        with tempfile.TemporaryDirectory(prefix="resx-") as folder:
            code, line = export(f"timm:{name}", options, Path(folder) / "repository")
            if code == 0 and asked.serve_every and number % asked.serve_every == 0:
                served, answer = served + 1, _serve(Path(folder), name)
                line, code = f"{line}  served: {answer or 'no answer'}", 0 if answer else 1
        print(f"{f'{family}, {name}':<{_WIDTH}} {line}", flush=True)
        failed += code != 0
    left = f", {len(chosen) - tried} of {len(chosen)} left out for time" if tried < len(chosen) else ""
    print(f"{tried - failed} of {tried} passed with {' '.join(options) or 'fp32'}, {served} of them served{left}")
    return 1 if failed else 0


def _serve(folder: Path, name: str) -> str:
    """Return the first label that a server of the repository in the folder gives for a photograph; empty: none."""
    photograph = folder / "china.png"
    Image.fromarray(load_sample_image("china.jpg")).save(photograph)
    environment = os.environ | {"RESX_STATE": str(folder / "state")}

    def resx(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "resx", *words, "--repository", str(folder / "repository")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    ports = [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]
    try:
        if resx("serve", "--detach", "-q", *ports).returncode:
            return ""
        answer = resx("query", name, str(photograph), "--top", "1", "--json")
        return str(json.loads(answer.stdout)["images"][0]["top"][0]["label"]) if answer.returncode == 0 else ""
    finally:
        resx("stop", "-q")


if __name__ == "__main__":
    sys.exit(main())
