"""Finds and reads the vocabulary of CLIP's tokenizer, which segjax does not ship."""

import gzip
import hashlib
import importlib.util
import os
import pathlib

FILE = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 48894  # the file has more lines, which CLIP does not use
VARIABLE = "SEGJAX_CLIP_VOCABULARY"


def list_places() -> list[pathlib.Path]:
    """Returns the paths at which the vocabulary may lie, the first choice first."""
    places = []
    if given := os.environ.get(VARIABLE):
        places.append(pathlib.Path(given))
    if data := os.environ.get("SEGJAX_DATA"):
        places.append(pathlib.Path(data) / "clip_bpe" / FILE)
    # The shared data beside a clone
    root = pathlib.Path(__file__).resolve().parents[3]
    places.append(root / "shared" / "data" / "clip_bpe" / FILE)
    # open_clip's wheel has the file. Finding a package does not import it.
    for package in ("open_clip", "clip"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            places.append(pathlib.Path(folder) / FILE)
    return places


def find_vocabulary() -> str:
    """Returns the path of the vocabulary.

    Raises:
      FileNotFoundError: it is nowhere. The message says where to get it and where to put it.
    """
    places = list_places()
    for place in places:
        if place.is_file():
            return str(place)
    listed = "\n".join(f"  {place}" for place in places)
    raise FileNotFoundError(
        f"the vocabulary of CLIP's tokenizer, {FILE} (1,356,917 bytes), is not there:\n{listed}\n"
        "It is in github.com/openai/CLIP (folder clip) and in the wheel of open_clip_torch "
        f"(pip install --no-deps open_clip_torch). Name your copy in {VARIABLE}"
    )


def read_merges(path: str | os.PathLike) -> list[tuple[str, str]]:
    """Reads the merges of CLIP's vocabulary.

    Args:
      path: the file as OpenAI publishes it.

    Raises:
      ValueError: another file. Another vocabulary gives other ids, which mean nothing to the model.
    """
    data = pathlib.Path(path).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(
            f"{path} is not CLIP's vocabulary: its SHA-256 is {digest}, expected {SHA256}"
        )
    lines = gzip.decompress(data).decode().split("\n")[1 : MERGES + 1]
    return [tuple(line.split()) for line in lines]
