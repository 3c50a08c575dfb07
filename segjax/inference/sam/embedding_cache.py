"""Embeddings on disk, so that a picture is encoded once and not once a session.

A file is named by what it depends on: the picture's pixels, the encoder's weights and attributes, and `FORMAT`. There
is nothing to invalidate: another picture or another model is another file.
"""

import functools
import hashlib
import io
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.files import write_atomic
from segjax.inference.sam.jitted import embed
from segjax.models.sam.sam import Sam
from segjax.weights.tree import flatten

FORMAT = 1  # to be raised when preprocessing or the encoder changes what an embedding is
_TRUNK = ("width", "depth", "heads", "window", "global_blocks", "rel_pos")
ENCODER_ATTRIBUTES = ("canvas", "patch", *_TRUNK, "prompt_width")

logger = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings of one model in a folder, which may hold those of others as well.

    Args:
      folder: made when missing. A ViT-B embedding at 1024 takes 4 MiB; delete files as you like.
      model, variables: of the encoder.
    """

    def __init__(
        self, folder: str | pathlib.Path, model: Sam, variables: Mapping[str, Any]
    ) -> None:
        self.folder, self.model, self.variables = pathlib.Path(folder), model, variables

    @functools.cached_property
    def encoder_hash(self) -> str:
        """Of the encoder's weights and attributes."""
        attributes = {name: getattr(self.model, name) for name in ENCODER_ATTRIBUTES}
        digest = hashlib.sha256(
            f"{FORMAT} {attributes} {jnp.dtype(self.model.dtype).name}".encode()
        )
        for name, array in sorted(flatten(self.variables["params"]["image_encoder"]).items()):
            array = np.asarray(array)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(
                np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            )  # as bytes: bfloat16 is no buffer
        return digest.hexdigest()

    def path_of(self, picture: np.ndarray) -> pathlib.Path:
        """The file of a picture's embedding, whether or not it is there."""
        digest = hashlib.sha256(f"{picture.shape}".encode())
        digest.update(np.ascontiguousarray(picture).data)
        return self.folder / f"{digest.hexdigest()[:32]}-{self.encoder_hash[:16]}.npy"

    def embed(self, pictures: Sequence[np.ndarray], *, per_batch: int = 1) -> list[jax.Array]:
        """The embeddings [1, h, w, D] of pictures uint8 [H, W, 3]: read, or made (see `network.encode`) and written.

        A file that cannot be read, or is not of the model's shape, is made anew, with a warning; so is one that cannot
        be written.
        """
        found = [self._read(picture) for picture in pictures]
        absent = [place for place, features in enumerate(found) if features is None]
        made = embed(
            self.model, self.variables, [pictures[place] for place in absent], per_batch=per_batch
        )
        for place, features in zip(absent, made, strict=True):
            self._write(pictures[place], features)
            found[place] = features
        return found

    def _read(self, picture: np.ndarray) -> jax.Array | None:
        path = self.path_of(picture)
        if not path.exists():
            return None
        side = self.model.canvas // self.model.patch
        try:
            features = np.load(path, allow_pickle=False)
            if features.shape != (1, side, side, self.model.prompt_width):
                raise ValueError(f"shape {features.shape}")
            return jnp.asarray(features).astype(self.model.dtype)
        except (OSError, ValueError, EOFError) as error:
            logger.warning("embedding %s cannot be read (%s) and is made anew", path, error)
            return None

    def _write(self, picture: np.ndarray, features: jax.Array) -> None:
        path = self.path_of(picture)
        # In memory first: NumPy's own writing to files does not notice that the last bytes found no room.
        content = io.BytesIO()
        np.save(content, np.asarray(features.astype(jnp.float32)))  # NumPy's format has no bfloat16
        try:
            write_atomic(path, content.getvalue())
        except OSError as error:
            logger.warning(
                "embedding %s cannot be kept (%s); the picture will be encoded again next time",
                path,
                error,
            )
