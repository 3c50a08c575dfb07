"""Weights by name: addresses and checksums of published files, and those in the package."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

_META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A published file.

    Attributes:
      url: address.
      bytes: size.
      sha256: checksum in hexadecimal, or its first digits if the publisher states only these.
      license: SPDX identifier of the library that publishes it.
      rounding: largest difference between `bytes` and the true size, 0 if the size is exact.
      options: attributes of the model that are known of this file, whatever it says itself.
    """

    url: str
    bytes: int
    sha256: str
    license: str
    rounding: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> str:
        """Size for messages."""
        return f"{'about ' * (self.rounding > 0)}{self.bytes:,} bytes"

    @property
    def name(self) -> str:
        """Name of the file, the last part of its address."""
        return self.url.rsplit("/", 1)[-1]


# Names, addresses and license: README of github.com/facebookresearch/segment-anything. Meta
# publishes no checksums. The six digits in a name begin the file's MD5, not its SHA-256. Sizes and
# SHA-256 are those that several independent projects check, among them 3D Slicer's SegmentAnything
# extensions.
PUBLISHED = {
    "sam_vit_b": PublishedFile(
        _META + "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        "Apache-2.0",
    ),
    "sam_vit_l": PublishedFile(
        _META + "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        "Apache-2.0",
    ),
    "sam_vit_h": PublishedFile(
        _META + "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "Apache-2.0",
    ),
}

_TORCHVISION = "https://download.pytorch.org/models/"


def _torchvision(name: str, mebibytes: float) -> PublishedFile:
    """Returns a file of torchvision, whose name ends with the first 8 digits of its SHA-256."""
    digits = name.removesuffix(".pth").rsplit("-", 1)[1]
    size = round(mebibytes * 2**20)
    return PublishedFile(_TORCHVISION + name, size, digits, "BSD-3-Clause", rounding=2**20 // 1000)


# Addresses and sizes (in MiB, to three decimals): the metadata of the weights in torchvision 0.28,
# models/detection. `torch.hub` verifies the same digits.
PUBLISHED |= {
    name: _torchvision(file, mebibytes)
    for name, file, mebibytes in (
        ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 169.84),
        ("maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 177.219),
        ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 159.743),
        ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 167.104),
        ("keypointrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn_coco-fc266e95.pth", 226.054),
    )
}

_OPENAI = "https://openaipublic.azureedge.net/clip/models/"

# Addresses: github.com/openai/CLIP, clip/clip.py. They contain the SHA-256. Sizes are those of the
# arrays, in MiB; an archive's code adds little.
PUBLISHED |= {
    name: PublishedFile(
        f"{_OPENAI}{digest}/{file}",
        mebibytes << 20,
        digest,
        "MIT",
        rounding=2 << 20,
        options={"activation": "quick_gelu"},
    )
    for name, file, mebibytes, digest in (
        (
            "clip_vit_b_32",
            "ViT-B-32.pt",
            338,
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        ),
        (
            "clip_vit_b_16",
            "ViT-B-16.pt",
            335,
            "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        ),
        (
            "clip_vit_l_14",
            "ViT-L-14.pt",
            890,
            "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        ),
        (
            "clip_vit_l_14_336",
            "ViT-L-14-336px.pt",
            891,
            "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        ),
    )
}

# Weights that segjax is shipped with: name -> SHA-256 of packaged/NAME.safetensors
DEMO = "sam_tiny_demo"
PACKAGED = {DEMO: "6f3c13beb6673a34c4152b88581101fa47ad26dd8d75cabfdcc78e45108fd0c1"}


def find_packaged(name: str) -> pathlib.Path | None:
    """Returns the file of weights that the package holds, by name in any case, or None."""
    if (name := name.lower()) not in PACKAGED:
        return None
    return pathlib.Path(__file__).parent / "packaged" / f"{name}.safetensors"


def find_published(name: str) -> PublishedFile | None:
    """Returns the published file of a model's name, in upper or lower case, or None."""
    return {key.lower(): file for key, file in PUBLISHED.items()}.get(name.lower())


def describe_missing(path: str | os.PathLike) -> str:
    """Returns an error message for weights that do not exist.

    If the file is a published one, the message says how to get it.

    Args:
      path: of the missing file or folder.
    """
    path = pathlib.Path(path)
    message = f"no such file{'' if path.suffix else ' or folder'}: {path}"
    for name, file in PUBLISHED.items():
        if file.name == path.name:
            return (
                f"{message}; segjax.load({name!r}), or --checkpoint {name}, downloads it once "
                f"({file.size})"
            )
    return message
