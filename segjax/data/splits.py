"""Which records an experiment reads: a prepared folder, a data set of TFDS, or scenes made on the spot."""

from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.sources.tfds import TFDS, open_tfds, tfds_splits
from segjax.data.storage import open_source, read_info
from segjax.data.synthetic.figures import get_scene_class
from segjax.data.synthetic.scenes import SyntheticScenes

SYNTHETIC = "synthetic"


def open_split(data: Mapping[str, Any], role: str):
    """The source of records for a role.

    Args:
      data: `source`: a folder written by `segjax prepare`, "tfds:NAME" for an image data set of TFDS (prepared in
        `tfds_dir`), or "synthetic". With the first two, `train_split` and `eval_split` name its splits. With
        "synthetic", `scenes` holds `train_count`, `eval_count`, `size`, `difficulty`, `seed` and `kind` ("shapes" or
        "figures"); the scenes for evaluation are made of photographs that the training scenes never show.
      role: "train" or "eval".

    Raises:
      ValueError: unknown role, or an unknown split; open_source's and open_tfds's errors for data that is not whole.
    """
    if role not in ("train", "eval"):
        raise ValueError(f"role {role!r} is unknown; a split is opened to 'train' or to 'eval'")
    source = data["source"]
    if source.startswith(TFDS):
        return open_tfds(source.removeprefix(TFDS), data[f"{role}_split"], data.get("tfds_dir", ""))
    if source != SYNTHETIC:
        return open_source(source, data[f"{role}_split"])
    scenes = data["scenes"]
    split = "train" if role == "train" else "heldout"
    return _scenes(data)(
        split,
        scenes[f"{role}_count"],
        size=scenes["size"],
        seed=scenes["seed"],
        difficulty=scenes["difficulty"],
    )


def list_splits(source: str, tfds_dir: str = "") -> list[str]:
    """Names of the splits of a prepared folder or of "tfds:NAME"; raises as `open_split`."""
    if source.startswith(TFDS):
        return tfds_splits(source.removeprefix(TFDS), tfds_dir)
    return list(read_info(source).splits)


def list_categories(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes 0..K-1 of a source, as `open_split` opens it."""
    return describe_categories(data)["categories"]


def describe_categories(data: Mapping[str, Any]) -> dict[str, tuple]:
    """What is known of a source's classes and keypoints: the options of `segjax.evaluation.coco_format.build_coco_ground_truth`."""
    info = _scenes(data) if data["source"] == SYNTHETIC else open_split(data, "eval").info
    return {
        name: getattr(info, name)
        for name in ("categories", "category_ids", "keypoint_names", "frequencies")
    }


def get_keypoint_sigmas(data: Mapping[str, Any]) -> tuple[float, ...] | None:
    """How far off annotators are, for OKS: of each keypoint of synthetic figures; None, COCO's, for other sources."""
    return _scenes(data).keypoint_sigmas if data["source"] == SYNTHETIC else None


def _scenes(data: Mapping[str, Any]) -> type[SyntheticScenes]:
    return get_scene_class(data.get("scenes", {}).get("kind", "shapes"))


class FirstRecords:
    """The first `count` records of a source."""

    def __init__(self, source: Sequence, count: int):
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.source[index]


class SpreadRecords(FirstRecords):
    """`count` records of a source, evenly spread over it: sources are often sorted by class."""

    def __getitem__(self, index: int) -> Any:
        return self.source[index * len(self.source) // self.count]
