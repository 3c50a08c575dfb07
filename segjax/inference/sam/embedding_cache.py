"""Cache of image embeddings on disk, so that an image is encoded only once.

A file's name is a hash of everything that its content depends on: the image's pixels, the encoder's
weights and attributes, and `FORMAT`. Entries are never invalidated: another image or another model
gets another file.
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
from segjax.inference.sam.jitted import encode_images, resize_to_canvas
from segjax.models.sam.sam import Sam
from segjax.weights.tree import flatten

FORMAT = 1  # raise it when preprocessing or the encoder changes the embeddings
_TRUNK = ("width", "depth", "heads", "window", "global_blocks", "rel_pos")
ENCODER_ATTRIBUTES = ("canvas", "patch", *_TRUNK, "prompt_width")

logger = logging.getLogger(__name__)


class EmbeddingCache:
    """Image embeddings of one model in a folder. Several models may share the folder.

    Args:
      folder: Folder of the files, created if missing. An embedding of ViT-B at 1024 pixels takes
        4 MiB. Files may be deleted at any time.
      model: The SAM.
      variables: Its variables.
    """

    def __init__(
        self, folder: str | pathlib.Path, model: Sam, variables: Mapping[str, Any]
    ) -> None:
        self.folder, self.model, self.variables = pathlib.Path(folder), model, variables

    @functools.cached_property
    def encoder_hash(self) -> str:
        """Returns the SHA-256 hash of the encoder's weights and attributes."""
        attributes = {name: getattr(self.model, name) for name in ENCODER_ATTRIBUTES}
        digest = hashlib.sha256(
            f"{FORMAT} {attributes} {jnp.dtype(self.model.dtype).name}".encode()
        )
        for name, array in sorted(flatten(self.variables["params"]["image_encoder"]).items()):
            array = np.asarray(array)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            # As bytes, because bfloat16 arrays have no buffer.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return digest.hexdigest()

    def get_path(self, image: np.ndarray) -> pathlib.Path:
        """Returns the path of an image's embedding, which need not exist.

        Args:
          image: uint8 [H, W, 3].
        """
        digest = hashlib.sha256(f"{image.shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
        return self.folder / f"{digest.hexdigest()[:32]}-{self.encoder_hash[:16]}.npy"

    def embed(self, images: Sequence[np.ndarray], *, per_batch: int = 1) -> list[jax.Array]:
        """Reads image embeddings, or computes and writes those that are missing.

        A file that is unreadable or has the wrong shape is computed again, with a warning. If a
        file cannot be written, a warning says so and the embedding is still returned.

        Args:
          images: Each uint8 [H, W, 3], RGB.
          per_batch: Maximum number of images that are encoded in one call.

        Returns:
          One embedding [1, h, w, D] per image.
        """
        # Read what is there, then encode the rest together.
        embeddings = [self._read(image) for image in images]
        missing = [index for index, features in enumerate(embeddings) if features is None]
        contents = resize_to_canvas([images[index] for index in missing], self.model.canvas)
        computed = encode_images(self.model, self.variables, contents, per_batch=per_batch)
        for index, features in zip(missing, computed, strict=True):
            self._write(images[index], features)
            embeddings[index] = features
        return embeddings

    def _read(self, image: np.ndarray) -> jax.Array | None:
        """Returns the stored embedding of an image, or None if there is no valid one."""
        path = self.get_path(image)
        if not path.exists():
            return None
        # A file may be damaged, or be left from an older version.
        side = self.model.canvas // self.model.patch
        try:
            features = np.load(path, allow_pickle=False)
            if features.shape != (1, side, side, self.model.prompt_width):
                raise ValueError(f"shape {features.shape}")
            return jnp.asarray(features).astype(self.model.dtype)
        except (OSError, ValueError, EOFError) as error:
            logger.warning("cannot read embedding %s (%s); computing it again", path, error)
            return None

    def _write(self, image: np.ndarray, features: jax.Array) -> None:
        """Writes the embedding of an image. Logs a warning if that fails."""
        path = self.get_path(image)
        # In memory first: np.save to a file does not report that the disk is full.
        content = io.BytesIO()
        np.save(content, np.asarray(features.astype(jnp.float32)))  # NumPy's format has no bfloat16
        try:
            write_atomic(path, content.getvalue())
        except OSError as error:
            logger.warning(
                "cannot write embedding %s (%s); the image will be encoded again next time",
                path,
                error,
            )
