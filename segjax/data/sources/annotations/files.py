"""Finding COCO annotation files, and the split that each one holds."""

import pathlib
from collections.abc import Sequence

from segjax.data.sources.raw import require_folder, split_sort_key, to_split_name

ROBOFLOW = "_annotations.coco.json"
PREFIXES = ("instances_", "person_keypoints_")
# Name of the folder of annotation files inside the raw folder
FOLDER = "annotations"


def open_raw_folder(raw: str | pathlib.Path) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns the raw folder, and the annotation file if the path is that of a file.

    The raw folder of <raw>/annotations/instances.json is <raw>, of every other file its folder.

    Raises:
      FileNotFoundError: there is neither a folder nor a .json file of that name.
    """
    path = pathlib.Path(raw)
    if path.suffix.lower() != ".json" or path.is_dir():
        return require_folder(path, "raw folder"), None
    if not path.is_file():
        raise FileNotFoundError(f"annotation file not found: {path}")
    folder = path.resolve().parent
    return (folder.parent if folder.name == FOLDER else folder), path


def find_annotation_files(raw_dir: pathlib.Path, prefix: str) -> dict[str, pathlib.Path]:
    """Maps the splits of a raw folder to their annotation files, see `segjax.data.sources.coco`.

    Args:
      raw_dir: raw folder.
      prefix: one of `PREFIXES`. Other files count only if none has it.

    Raises:
      FileNotFoundError: there are no annotations.
      ValueError: two files would be the same split.
    """
    folders = [raw_dir, raw_dir / FOLDER]
    paths = sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*.json"))
    named = [(remove_prefix(path.stem), path) for path in paths if path.name.startswith(prefix)]
    if not named:
        named = [(path.parent.name, path) for path in sorted(raw_dir.glob(f"*/{ROBOFLOW}"))]
    if not named:
        # Captions and keypoints lie beside COCO's instance files. Elsewhere, any file may be read.
        others = ("captions_", *(PREFIXES[1:] if prefix == PREFIXES[0] else ()))
        named = [
            (remove_prefix(path.stem), path) for path in paths if not path.name.startswith(others)
        ]
    if not named:
        raise FileNotFoundError(
            f"no annotation JSON in {raw_dir} or {raw_dir / FOLDER}, and no */{ROBOFLOW}; a file "
            "elsewhere is read if you name it in place of the folder"
        )
    return group_by_split(named)


def group_by_split(named: Sequence[tuple[str, pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Maps splits to their annotation files, training first.

    Args:
      named: pairs of a name and its file.

    Raises:
      ValueError: two names become the same split.
    """
    files: dict[str, pathlib.Path] = {}
    for name, path in named:
        if (first := files.setdefault(to_split_name(name), path)) != path:
            raise ValueError(
                f"{first} and {path} would both be the split {to_split_name(name)!r}; rename one"
            )
    return {name: files[name] for name in sorted(files, key=split_sort_key)}


def remove_prefix(name: str) -> str:
    """Removes COCO's prefix of the kind of annotation from the name of a file."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
