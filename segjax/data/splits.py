"""Opening the records of an experiment: prepared folder, TFDS dataset or synthetic scenes."""

from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.mixture import SYNTHETIC, MixedRecords, is_mixture, parse_mixture
from segjax.data.sources.tfds import TFDS, list_tfds_splits, open_tfds
from segjax.data.storage import open_source, read_info
from segjax.data.synthetic.kinds import get_scene_class
from segjax.data.synthetic.scenes import SyntheticScenes


def open_split(data: Mapping[str, Any], role: str):
    """Opens the records of an experiment for training or for evaluation.

    Args:
      data: `config.data` as a dict. Its `source` is a folder written by `segjax prepare`,
        "tfds:NAME" for an image dataset that TFDS has prepared in `tfds_dir`, "synthetic", or a
        list of these with weights, see `segjax.data.mixture`.
        For the first two, `train_split` and `eval_split` name the splits. For "synthetic",
        `scenes` holds `train_count`, `eval_count`, `size`, `difficulty`, `seed` and `kind`
        ("shapes" or "figures"). Evaluation scenes use photographs that training never shows.
      role: "train" or "eval".

    Returns:
      Random-access source of records, see `segjax.data.records`. `MixedRecords` for a list.

    Raises:
      ValueError: unknown role or split, or see `open_tfds` and `parse_mixture`.
      FileNotFoundError: the data is not prepared.
    """
    if role not in ("train", "eval"):
        raise ValueError(f"role {role!r} is unknown; a split is opened to 'train' or to 'eval'")
    entries = parse_mixture(data)
    if len(entries) > 1:
        parts = [open_split(entry.replace_in(data), role) for entry in entries]
        return MixedRecords(parts, entries)
    data = entries[0].replace_in(data)
    source = data["source"]
    if source == SYNTHETIC:
        _check_synthetic_split(data, role)
    if source.startswith(TFDS):
        return open_tfds(source.removeprefix(TFDS), data[f"{role}_split"], data.get("tfds_dir", ""))
    if source != SYNTHETIC:
        return open_source(source, data[f"{role}_split"])
    # Evaluation scenes use the held-out photographs, whatever the count.
    scenes = data["scenes"]
    split = "train" if role == "train" else "heldout"
    return _get_scene_class(data)(
        split,
        scenes[f"{role}_count"],
        size=scenes["size"],
        seed=scenes["seed"],
        difficulty=scenes["difficulty"],
    )


def _check_synthetic_split(data: Mapping[str, Any], role: str) -> None:
    """Raises ValueError for a split that synthetic scenes do not have."""
    expected = {"train": ("train",), "eval": ("val", "heldout")}[role]
    name = data.get(f"{role}_split", expected[0])
    if name not in expected:
        raise ValueError(
            f"config.data.{role}_split is {name!r}, but config.data.source is 'synthetic', whose "
            f"{role} split is {expected[0]!r}; set it, or name the data that has {name!r}"
        )


def describe_split(data: Mapping[str, Any], role: str) -> str:
    """Describes the records of "train" or "eval" in a few words, see `open_split`.

    Example: "train: 18 images, 304 objects of 3 classes (data/mine)".
    """
    if is_mixture(data):
        return _describe_mixture(data, role)
    data = parse_mixture(data)[0].replace_in(data)
    images = f"{len(open_split(data, role)):,}"
    if data["source"] == SYNTHETIC:
        scenes = data["scenes"]
        return f"{role}: {images} synthetic scenes of {scenes['size']} x {scenes['size']} pixels"
    name = data[f"{role}_split"]
    text = f"{role}: {images} images"
    if not data["source"].startswith(TFDS):
        info = read_info(data["source"])
        classes = len(info.categories)
        # A slice of a split has no counts of its own.
        if objects := info.splits.get(name, {}).get("objects"):
            text += f", {objects:,} objects" + (f" of {classes} classes" if classes > 1 else "")
    return f"{text} ({name} of {data['source']})"


def _describe_mixture(data: Mapping[str, Any], role: str) -> str:
    """Describes each source of a mixture, with its share of the training examples."""
    entries = parse_mixture(data)
    total = sum(entry.weight for entry in entries)
    lines = []
    for entry in entries:
        text = describe_split(entry.replace_in(data), role).removeprefix(f"{role}: ")
        share = f"{entry.weight / total:.0%} of the examples: " if role == "train" else ""
        lines.append(f"{share}{text}")
    return f"{role}: " + "; ".join(lines)


def list_splits(source: str, tfds_dir: str = "") -> list[str]:
    """Lists the splits of a prepared folder or of "tfds:NAME". Raises like `open_split`."""
    if source.startswith(TFDS):
        return list_tfds_splits(source.removeprefix(TFDS), tfds_dir)
    return list(read_info(source).splits)


def list_categories(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Lists the names of the categories 0..K-1 of a source, see `open_split`."""
    return describe_categories(data)["categories"]


def describe_categories(data: Mapping[str, Any]) -> dict[str, tuple]:
    """Describes the categories and keypoints of a source, see `open_split`.

    Returns:
      `categories`, `category_ids`, `keypoint_names` and `frequencies`, with the meaning that they
      have in `segjax.data.storage.PreparedInfo`. They are keyword arguments of
      `segjax.evaluation.coco_format.build_coco_ground_truth`.

    Raises:
      ValueError: the sources of a mixture have different categories or keypoints.
    """
    entries = parse_mixture(data)
    if len(entries) > 1:
        return _describe_common_categories(data)
    data = entries[0].replace_in(data)
    if data["source"] == SYNTHETIC:
        info = _get_scene_class(data)
    else:
        info = open_split(data, "eval").info
    names = ("categories", "category_ids", "keypoint_names", "frequencies")
    return {name: getattr(info, name) for name in names}


def list_stuff(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Lists the names of the classes 1..S of stuff of a source, see `open_split`.

    Empty for sources whose records have no map of stuff, and for mixtures of different ones.
    """
    known = set()
    for entry in parse_mixture(data):
        synthetic = entry.source == SYNTHETIC
        known.add(_get_scene_class(entry.replace_in(data)).stuff if synthetic else ())
    return known.pop() if len(known) == 1 else ()


def _describe_common_categories(data: Mapping[str, Any]) -> dict[str, tuple]:
    """Returns the categories that all sources of a mixture have, or raises ValueError."""
    entries = parse_mixture(data)
    first, *others = (describe_categories(entry.replace_in(data)) for entry in entries)
    for entry, other in zip(entries[1:], others, strict=True):
        for name, kind in (("categories", "classes"), ("keypoint_names", "keypoints")):
            if first[name] != other[name]:
                apart = sorted(set(first[name]) ^ set(other[name])) or ["their order"]
                raise ValueError(
                    f"{entries[0].source!r} and {entry.source!r} have different {kind} "
                    f"({len(first[name])} and {len(other[name])}; they differ in "
                    f"{', '.join(apart[:5])}); a model with classes needs the same list in all "
                    "sources of config.data.source"
                )
    return first


def get_keypoint_sigmas(data: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Returns the sigmas of object keypoint similarity (OKS), one per keypoint.

    Synthetic figures have their own. None stands for COCO's.
    """
    synthetic = all(entry.source == SYNTHETIC for entry in parse_mixture(data))
    return _get_scene_class(data).keypoint_sigmas if synthetic else None


def _get_scene_class(data: Mapping[str, Any]) -> type[SyntheticScenes]:
    return get_scene_class(data.get("scenes", {}).get("kind", "shapes"))


class FirstRecords:
    """Source of the first `count` records of another source."""

    def __init__(self, source: Sequence, count: int):
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.source[index]


class SpreadRecords(FirstRecords):
    """Source of `count` records of another source, evenly spread over it.

    Sources are often sorted by class. The first records would then all be of one class.
    """

    def __getitem__(self, index: int) -> Any:
        return self.source[index * len(self.source) // self.count]
