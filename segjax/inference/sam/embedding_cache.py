"""Cache of image embeddings on disk, so that an image is encoded only once.

A file's name is a hash of everything that its content depends on: the image's pixels, the encoder's
weights and attributes, and `FORMAT`. Entries are never invalidated: another image or another model
gets another file. A file is NumPy's format followed by the CRC-32 of its name and content. An entry
that does not fit its checksum is computed again.
"""

import functools
import hashlib
import io
import logging
import pathlib
import stat
import zlib
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
        self._reports = {"read": 0, "write": 0}

    @functools.cached_property
    def encoder_hash(self) -> str:
        """Returns the SHA-256 hash of the encoder's weights and attributes."""
        attributes = {name: getattr(self.model, name) for name in ENCODER_ATTRIBUTES}
        if self.model.normalization != "imagenet":  # entries of earlier versions keep their names
            attributes["normalization"] = self.model.normalization
        digest = hashlib.sha256(
            f"{FORMAT} {attributes} {jnp.dtype(self.model.dtype).name}".encode()
        )
        for name, array in sorted(flatten(self.variables["params"]["image_encoder"]).items()):
            array = np.asarray(array)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            # As bytes, because bfloat16 arrays have no buffer.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return digest.hexdigest()

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        side = self.model.canvas // self.model.patch
        return 1, side, side, self.model.prompt_width

    @functools.cached_property
    def _entry_size(self) -> int:
        """Returns the number of bytes of every file."""
        return len(encode_entry("", np.zeros(self._shape, np.float32)))

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

        An entry that is damaged or unreadable is computed again. If a file cannot be written, the
        embedding is still returned. A warning names the first such file. Later ones are counted.

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
        try:
            content = read_entry(path, self._entry_size)
            features = np.load(io.BytesIO(content), allow_pickle=False)
            if features.shape != self._shape:
                raise ValueError(f"its shape is {features.shape}, not {self._shape}")
            return jnp.asarray(features).astype(self.model.dtype)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file of a cache
            self._report("read", path, error)
            return None

    def _write(self, image: np.ndarray, features: jax.Array) -> None:
        """Writes the embedding of an image. Logs a warning if that fails."""
        path = self.get_path(image)
        # NumPy's format has no bfloat16
        content = encode_entry(path.name, np.asarray(features.astype(jnp.float32)))
        try:
            write_atomic(path, content)
        except OSError as error:
            self._report("write", path, error)

    def _report(self, action: str, path: pathlib.Path, error: Exception) -> None:
        """Logs the 1st, 10th, 100th, ... file that cannot be read or written."""
        self._reports[action] += 1
        count = self._reports[action]
        if count != 10 ** (len(str(count)) - 1):
            return
        then = "it is computed again" if action == "read" else "it is computed again next time"
        number = f", number {count} of this kind" if count > 1 else ""
        logger.warning("cannot %s embedding %s (%s)%s; %s", action, path, error, number, then)


def encode_entry(name: str, features: np.ndarray) -> bytes:
    """Returns the content of the file of this name: NumPy's format and a checksum."""
    # In memory first: np.save to a file does not report that the disk is full.
    content = io.BytesIO()
    np.save(content, features)
    return content.getvalue() + _compute_checksum(name, content.getvalue())


def _compute_checksum(name: str, content: bytes) -> bytes:
    # With the name, so that another entry under this name is found out
    return zlib.crc32(content, zlib.crc32(name.encode())).to_bytes(4, "big")


def read_entry(path: pathlib.Path, size: int) -> bytes:
    """Returns the content of a file without its checksum.

    Raises:
      OSError: The file cannot be read.
      ValueError: The file has not `size` bytes, or does not fit its checksum.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size != size:
        raise ValueError(f"it has {status.st_size} bytes instead of {size}")
    content = path.read_bytes()
    if _compute_checksum(path.name, content[:-4]) != content[-4:]:
        raise ValueError("it has changed since it was written")
    return content[:-4]
