"""Vectors of CLIP for the objects of a training split, so that CLIP never runs in a step.

SAM learns text prompts from vectors of images, which CLIP puts near those of texts (SAM, section
7.5 and appendix D.5). Each object gets several, of crops that differ at random.
"""

import functools
import hashlib
import io
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.examples.place_objects import decode_record_image
from segjax.data.examples.promptable import PromptableExample
from segjax.files import write_atomic, write_json
from segjax.inference.clip.clip import Clip, normalize_rows
from segjax.inference.clip.regions import encode_crops
from segjax.masks import decode_mask
from segjax.weights.tree import flatten

logger = logging.getLogger(__name__)

_VECTORS, _PHRASES, _INDEX = "vectors.npy", "phrases.npy", "index.json"
_SECONDS_BETWEEN_LINES = 20.0


class VectorStore:
    """Vectors of the objects of a split: image id -> float16 [G, K, E]. It can be pickled.

    Args:
      folder: written by `fill_vectors`.

    Attributes:
      description: what the vectors were made from.
      width: E, channels of a vector.
    """

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        content = json.loads((self.folder / _INDEX).read_text())
        self.description, self._rows = content["description"], content["rows"]
        self.width, self._phrase_rows = content["width"], content["phrases"]
        self._vectors: np.ndarray | None = None
        self._phrases: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_vectors": None, "_phrases": None}

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Returns the vectors [G, K, E] of the objects of an image."""
        if self._vectors is None:
            self._vectors = np.load(self.folder / _VECTORS, mmap_mode="r")
        start, count = self._rows[image_id]
        return self._vectors[start : start + count]

    @functools.cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [E] and principal components [E, E] (rows) of all vectors."""
        rows = np.load(self.folder / _VECTORS).astype(np.float32).reshape(-1, self.width)
        rows = rows[np.abs(rows).sum(axis=-1) > 0]
        mean = rows.mean(axis=0) if len(rows) else np.zeros(self.width, np.float32)
        centered = rows - mean
        _, basis = np.linalg.eigh(centered.T @ centered)
        return mean, np.ascontiguousarray(basis.T)

    def get_phrases(self, image_id: str, index: int) -> np.ndarray:
        """Returns the vectors [n, E] of the phrases of an object."""
        if self._phrases is None:
            self._phrases = np.load(self.folder / _PHRASES, mmap_mode="r")
        return self._phrases[self._phrase_rows[image_id][index]]


class TextExample:
    """Callable (record, rng) -> example with vectors of its objects. It can be pickled.

    Fields besides those of `PromptableExample`: ``texts`` float32 [P, E], a random one of the
    vectors of each object, and ``has_text`` bool [P].

    Args:
      example: makes the example, with indices of its objects.
      store: the vectors.
      noise: length of random noise that is added to each vector. The sum is scaled to length 1.
      phrases: probability of the vector of a phrase instead of one of a crop.
      drop: probability that a crop's vector loses a random half of its principal components.
    """

    def __init__(
        self,
        example: PromptableExample,
        store: VectorStore,
        noise: float = 0.0,
        phrases: float = 0.0,
        drop: float = 0.0,
    ):
        self.drop = drop
        self.example, self.store, self.noise, self.phrases = example, store, noise, phrases

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = self.example(record, rng)
        indices = example.pop("object")
        vectors = self.store[record["image_id"]]
        texts = np.zeros((len(indices), self.store.width), np.float32)
        for slot in np.flatnonzero(indices >= 0):
            texts[slot] = self._choose(record["image_id"], indices[slot], vectors, rng)
        has_text = np.abs(texts).sum(axis=-1) > 0
        if self.noise:
            noise = rng.standard_normal(texts.shape) * (self.noise / texts.shape[1] ** 0.5)
            texts = normalize_rows(texts + noise * has_text[:, None])
        return example | {"texts": texts, "has_text": has_text}

    def _choose(
        self, image_id: str, index: int, vectors: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Returns a random vector of an object, float32 [E]."""
        if self.phrases and rng.random() < self.phrases:
            said = self.store.get_phrases(image_id, index)
            if len(said):
                return said[rng.integers(len(said))].astype(np.float32)
        vector = vectors[index][rng.integers(len(vectors[index]))].astype(np.float32)
        if self.drop and rng.random() < self.drop and vector.any():
            mean, basis = self.store.components
            kept = rng.random(len(basis)) < 0.5
            vector = normalize_rows(mean + ((vector - mean) @ basis.T * kept) @ basis)
        return vector

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0."""
        example = self.example.placeholder()
        count = len(example.pop("object"))
        texts = np.zeros((count, self.store.width), np.float32)
        return example | {"texts": texts, "has_text": np.zeros(count, bool)}


def fill_vectors(
    folder: pathlib.Path,
    clip: Clip,
    source: Sequence[Mapping],
    *,
    crops: int,
    expand: tuple[float, float],
    hide: float,
    masked_attention: bool,
    min_side: float,
    phrases: bool,
    name: str,
) -> VectorStore:
    """Computes the vectors of all objects of a split, unless the folder has them.

    Args:
      folder: of the files.
      clip: the CLIP.
      source: records of the split.
      crops: K, number of vectors of an object.
      expand: (low, high) of the factor by which a crop is scaled.
      hide: probability that everything but the object is hidden.
      masked_attention: see `encode_crops`.
      min_side: objects with fewer than min_side^2 pixels get no vector (SAM, appendix D.5: 100).
      phrases: encode the objects' phrases too.
      name: of the source and its split.

    Raises:
      OSError: the disk is full.
    """
    description = dict(
        clip=hash_clip(clip),
        source=name,
        records=len(source),
        crops=crops,
        expand=list(expand),
        hide=hide,
        masked_attention=masked_attention,
        min_side=min_side,
        phrases=phrases,
    )
    if (folder / _INDEX).is_file() and VectorStore(folder).description == description:
        return VectorStore(folder)
    logger.info("computing %d vectors of CLIP for each object of %d images", crops, len(source))
    rows, found, start = {}, [], 0
    numbers: dict[str, int] = {}  # phrase -> row of its vector
    phrase_rows: dict[str, list[list[int]]] = {}
    began = said = time.monotonic()
    for number in range(len(source)):
        record = source[number]
        rng = np.random.default_rng([number, crops])
        vectors = encode_record(clip, record, rng, crops, expand, hide, masked_attention, min_side)
        rows[record["image_id"]] = [start, len(vectors)]
        start += len(vectors)
        found.append(vectors)
        if phrases:
            texts = record["objects"].get("phrases", [""] * len(vectors))
            phrase_rows[record["image_id"]] = [
                [numbers.setdefault(line, len(numbers)) for line in text.split("\n") if line]
                for text in texts
            ]
        if (now := time.monotonic()) - said > _SECONDS_BETWEEN_LINES:
            said = now
            left = (now - began) / (number + 1) * (len(source) - number - 1)
            logger.info("vectors of %d of %d images, %.0f s left", number + 1, len(source), left)
    # The index comes last, so that a folder with one is complete
    (folder / _INDEX).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _VECTORS, _to_bytes(np.concatenate(found)))
    encoded = clip.encode_text(list(numbers)) if numbers else np.zeros((0, clip.model.embedding))
    write_atomic(folder / _PHRASES, _to_bytes(encoded.astype(np.float16)))
    content = {"description": description, "width": clip.model.embedding, "rows": rows}
    content["phrases"] = phrase_rows
    write_json(folder / _INDEX, content)
    return VectorStore(folder)


def hash_clip(clip: Clip) -> str:
    """Returns a hash of a CLIP's image tower."""
    digest = hashlib.sha256(repr(clip.model).encode())
    for path, array in sorted(flatten(clip.variables["params"]["image"]).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:40]


def encode_record(
    clip: Clip,
    record: Mapping,
    rng: np.random.Generator,
    crops: int,
    expand: tuple[float, float],
    hide: float,
    masked_attention: bool,
    min_side: float,
) -> np.ndarray:
    """Computes the vectors of a record's objects.

    Args:
      clip: the CLIP.
      record: with objects.
      rng: of the crops.
      crops: as for `fill_vectors`.
      expand: as for `fill_vectors`.
      hide: as for `fill_vectors`.
      masked_attention: as for `fill_vectors`.
      min_side: as for `fill_vectors`.

    Returns:
      float16 [G, K, E], zeros for objects without a vector.
    """
    objects = record["objects"]
    count = len(objects["rle"])
    vectors = np.zeros((count, crops, clip.model.embedding), np.float16)
    usable = np.flatnonzero(
        ~np.asarray(objects["crowd"], bool) & (np.asarray(objects["area"]) > min_side**2)
    )
    if not len(usable):
        return vectors
    size = (record["height"], record["width"])
    masks = [decode_mask(objects["rle"][index], *size) for index in usable]
    repeated = np.repeat(np.arange(len(usable)), crops)
    encoded = encode_crops(
        clip,
        decode_record_image(record),
        objects["box"][usable][repeated],
        [masks[i] for i in repeated],
        expand=rng.uniform(*expand, len(repeated)),
        hide=rng.random(len(repeated)) < hide,
        masked_attention=masked_attention,
    )
    vectors[usable] = encoded.reshape(len(usable), crops, -1)
    return vectors


def _to_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
