"""Training on cached image embeddings: a frozen encoder runs once for each image.

The files lie in one folder. A file's name is a hash of the image on its canvas, of the encoder's
weights and of the stored type, so embeddings of other weights or another canvas are never mixed.
"""

import hashlib
import io
import itertools
import logging
import pathlib
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.data.examples.augmentation import list_placements
from segjax.data.examples.promptable import PromptableExample
from segjax.data.fetch import SettingsError
from segjax.files import write_atomic
from segjax.inference.sam.embedding_cache import EmbeddingCache, encode_entry, read_entry
from segjax.models.sam.sam import Sam

logger = logging.getLogger(__name__)

DTYPES = ("float16", "float32")
_SECONDS_BETWEEN_LINES = 20.0


class EmbeddingFolder:
    """Embeddings of one encoder in a folder. It can be pickled.

    Args:
      folder: of the files.
      encoder_hash: see `EmbeddingCache.encoder_hash`.
      shape: (h, w, D) of an embedding.
      dtype: "float16" or "float32", as they are stored.
    """

    def __init__(
        self, folder: pathlib.Path, encoder_hash: str, shape: tuple[int, int, int], dtype: str
    ):
        self.folder, self.encoder_hash = pathlib.Path(folder), encoder_hash
        self.shape, self.dtype = shape, dtype
        self.entry_size = len(encode_entry("", np.zeros(shape, dtype)))

    def get_path(self, image: np.ndarray, size: np.ndarray) -> pathlib.Path:
        """Returns the path of the embedding of an image on its canvas.

        Args:
          image: uint8 [S, S, 3].
          size: int32 [2], height and width of the content.
        """
        digest = hashlib.sha256(f"{tuple(size)} {self.encoder_hash} {self.dtype}".encode())
        digest.update(np.ascontiguousarray(image).data)
        return self.folder / f"{digest.hexdigest()[:40]}.npy"

    def read(self, path: pathlib.Path) -> np.ndarray:
        """Reads an embedding [h, w, D]. Raises OSError or ValueError if there is no intact one."""
        content = read_entry(path, self.entry_size)
        features = np.load(io.BytesIO(content), allow_pickle=False)
        if features.shape != self.shape or features.dtype != self.dtype:
            raise ValueError(f"it holds {features.dtype} {features.shape}")
        return features

    def write(self, path: pathlib.Path, features: np.ndarray) -> None:
        """Writes an embedding completely or not at all. Raises OSError if the disk is full."""
        write_atomic(path, encode_entry(path.name, np.asarray(features, self.dtype)))


class EmbeddedExample:
    """Callable (record, rng) -> example with "embedding" in place of "image". It can be pickled.

    Args:
      example: makes the example with its image.
      embeddings: the folder, which holds the embedding of each image.
    """

    def __init__(self, example: PromptableExample, embeddings: EmbeddingFolder):
        self.example, self.embeddings = example, embeddings

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = self.example(record, rng)
        path = self.embeddings.get_path(example.pop("image"), example["size"])
        try:
            example["embedding"] = self.embeddings.read(path)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the embedding {path} cannot be read ({error}); start the run again, which "
                "computes what is missing"
            ) from error
        return example

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0."""
        example = self.example.placeholder()
        del example["image"]
        shape, dtype = self.embeddings.shape, self.embeddings.dtype
        return example | {"embedding": np.zeros(shape, dtype)}


def make_folder(
    model: Sam, variables: Mapping[str, Any], folder: pathlib.Path, dtype: str
) -> EmbeddingFolder:
    """Makes the description of the embeddings of a model's encoder. Reads and writes nothing.

    Raises:
      ValueError: an unknown dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"config.data.embeddings.dtype is {dtype!r}; expected {' or '.join(DTYPES)}"
        )
    side = model.canvas // model.patch
    shape = (side, side, model.prompt_width)
    encoder_hash = EmbeddingCache(folder, model, variables).encoder_hash
    return EmbeddingFolder(folder, encoder_hash, shape, dtype)


def fill_folder(
    embeddings: EmbeddingFolder,
    model: Sam,
    variables: Mapping[str, Any],
    source: Sequence[Mapping],
    example: PromptableExample,
    *,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Computes the embeddings that are missing, and returns their number.

    It can be interrupted: what is there is not computed again. Records that cannot be decoded are
    left to training, which skips and counts them.

    Args:
      embeddings: where they go.
      model: the SAM.
      variables: its {"params", "constants"}.
      source: training records.
      example: makes the training examples.
      share: (index, count) of this process.

    Raises:
      OSError: the disk is too small, or full. Says how much is needed.
    """
    missing = _list_missing(embeddings, source, example, share)
    needed = len(missing) * embeddings.entry_size
    if not missing:
        return 0
    embeddings.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(embeddings.folder).free
    logger.info(
        "computing %d embeddings, %.1f MB, in %s", len(missing), needed / 1e6, embeddings.folder
    )
    if needed > free:
        raise OSError(
            f"{len(missing)} embeddings need {needed:,} bytes in {embeddings.folder}, which has "
            f"{free:,} bytes free; choose another config.data.embeddings.folder, or fewer "
            "augmentations"
        )
    encode = jax.jit(
        lambda images, sizes: model.apply(variables, images, sizes, method="encode_image")
    )
    began = told = time.monotonic()
    done = 0
    for index, wanted in itertools.groupby(missing, key=lambda item: item[0]):
        images = example.list_images(source[index])
        for _, number, path in wanted:
            image, size = images[number]
            features = encode(jnp.asarray(image[None]), jnp.asarray(size[None]))[0]
            try:
                embeddings.write(path, np.asarray(features.astype(jnp.float32)))
            except OSError as error:
                raise OSError(
                    f"cannot write embedding {path} ({error}); {done} of {len(missing)} are "
                    "written, and a new start of the run goes on from there"
                ) from error
            done += 1
            if (now := time.monotonic()) - told > _SECONDS_BETWEEN_LINES:
                told = now
                left = (now - began) / done * (len(missing) - done)
                logger.info("embeddings %d/%d  %.0f s left", done, len(missing), left)
    return done


def _list_missing(
    embeddings: EmbeddingFolder,
    source: Sequence[Mapping],
    example: PromptableExample,
    share: tuple[int, int],
) -> list[tuple[int, int, pathlib.Path]]:
    """Lists (record, variant, path) of the embeddings that are not there or damaged."""
    missing = []
    for index in range(share[0], len(source), share[1]):
        try:
            images = example.list_images(source[index])
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a record
            logger.warning("record %d has no embedding: %s", index, error)
            continue
        for number, (image, size) in enumerate(images):
            path = embeddings.get_path(image, size)
            try:
                embeddings.read(path)
            except (OSError, ValueError):
                missing.append((index, number, path))
    return missing


def check_settings(example: PromptableExample, trained: Collection[str]) -> None:
    """Raises ValueError if embeddings cannot be cached: a trained encoder, or endless images.

    Args:
      example: makes the training examples.
      trained: paths of the trained parameters.
    """
    inside = sorted(path for path in trained if "image_encoder/" in path)
    if inside:
        raise ValueError(
            f"config.data.embeddings needs a frozen image encoder, but {len(inside)} of its arrays "
            f"are trained, such as {inside[0]}; set config.trainable='decoder', or leave "
            "config.data.embeddings.folder empty"
        )
    try:
        list_placements((1, 1), example.canvas, example.augmentation)
    except ValueError as error:
        raise ValueError(f"config.data.embeddings: {error}") from None
