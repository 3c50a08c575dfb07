"""CLIP for images and texts: vectors of both, and names for images without training."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.squares import make_square
from segjax.inference.loading import load_with_config
from segjax.inference.numbers import check_finite
from segjax.models.clip.clip import ClipModel
from segjax.text.templates import find_templates, parse_names
from segjax.text.tokenizers import tokenize
from segjax.weights.run_folder import Step

BATCH = 32  # images or texts in one call of a tower. Fewer are padded, so one program serves all.
_encode_images = jax.jit(
    lambda model, variables, images: model.apply(variables, images, method="encode_image"),
    static_argnums=0,
)
_encode_texts = jax.jit(
    lambda model, variables, ids: model.apply(variables, ids, method="encode_text"),
    static_argnums=0,
)


class Clip:
    """CLIP (arXiv 2103.00020) for images of any size and texts.

    Example:
      clip = segjax.Clip.load("clip_vit_b_16", "ViT-B-16.pt")
      vectors = clip.encode_text(["a red cup", "a spoon"])            # float32 [2, 512]
      names, scores = clip.classify(image, ["cup", "spoon"])

    Args:
      model: a CLIP, as `segjax.load` returns it.
      variables: its variables.
      batch: images or texts in one call of a tower.

    Raises:
      ValueError: another kind of model, or variables that are not finite.
    """

    def __init__(
        self, model: ClipModel, variables: Mapping[str, Any], *, batch: int = BATCH
    ) -> None:
        if not isinstance(model, ClipModel):
            raise ValueError(
                f"a Clip needs the model of a CLIP; got {type(model).__name__}, as in "
                "Clip(*segjax.load(...))"
            )
        check_finite(variables, "so every vector would be NaN")
        self.model, self.variables, self.batch = model, variables, batch

    @classmethod
    def load(
        cls,
        model: str | os.PathLike,
        path: str | os.PathLike | None = None,
        *,
        step: Step = None,
        batch: int = BATCH,
        **overrides: Any,
    ) -> "Clip":
        """Loads a CLIP as `segjax.load` does.

        Args:
          model: a name such as "clip_vit_b_16", or, without `path`, a path: a run, OpenAI's .pt, a
            file of open_clip, or a file or folder of transformers' CLIPModel.
          path: see `segjax.load`.
          step: see `segjax.load`.
          batch: see `Clip`.
          overrides: attributes of the model. A file that does not say its activation needs
            activation="quick_gelu" or "gelu".
        """
        network, variables, _ = load_with_config(model, path, step=step, family="clip", **overrides)
        return cls(network, variables, batch=batch)

    @property
    def scale(self) -> float:
        """Factor of cosines before a softmax, exp(logit_scale). 100 in the published models."""
        return float(np.exp(np.asarray(self.variables["params"]["logit_scale"], np.float64)))

    def tokenize(self, texts: str | Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Returns the token ids of texts, int32 [N, context].

        Args:
          texts: one text or several.
          truncate: cut longer texts; the last token is the end.

        Raises:
          ValueError: a text has too many tokens.
          FileNotFoundError: the vocabulary of the published models is not there.
        """
        return tokenize(self.model.tokenizer, texts, self.model.context, truncate=truncate)

    def encode_text(
        self,
        texts: str | Sequence[str] | np.ndarray,
        *,
        normalize: bool = True,
        truncate: bool = False,
    ) -> np.ndarray:
        """Computes the vectors of texts, float32 [N, E].

        Args:
          texts: one text or several, or token ids int [N, context].
          normalize: scale vectors to length 1.
          truncate: as for `tokenize`.
        """
        ids = texts
        if not (isinstance(texts, (np.ndarray, jax.Array)) and texts.dtype.kind in "iu"):
            ids = self.tokenize(texts, truncate=truncate)
        ids = np.asarray(ids)
        context, vocabulary = self.model.context, self.model.vocabulary
        if ids.ndim != 2 or ids.shape[1] != context:
            raise ValueError(f"token ids are {ids.shape}; expected [N, {context}]")
        if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
            raise ValueError(
                f"token ids are {ids.min()} to {ids.max()}; expected 0 to {vocabulary - 1}"
            )
        encode = functools.partial(_encode_texts, self.model, self.variables)
        return self.encode_rows(encode, ((row,) for row in ids.astype(np.int32)), normalize)

    def encode_image(self, images: Any, *, normalize: bool = True) -> np.ndarray:
        """Computes the vectors of images, float32 [N, E].

        Args:
          images: one image uint8 [H, W, 3], or several of any sizes. Gray, 16-bit and other images
            are read as everywhere in segjax, see `segjax.images.decoding.decode_image`.
          normalize: scale vectors to length 1.

        Raises:
          ImageError: not an image; the message says which.
        """
        if isinstance(images, bytes) or (hasattr(images, "ndim") and images.ndim in (2, 3)):
            images = [images]
        options = dict(resize=self.model.resize, interpolation=self.model.interpolation)
        squares = (
            (make_square(image, self.model.canvas, **options, name=f"image {i}"),)
            for i, image in enumerate(images)
        )
        encode = functools.partial(_encode_images, self.model, self.variables)
        return self.encode_rows(encode, squares, normalize)

    def classify(
        self,
        image: Any,
        names: str | Sequence[str],
        *,
        templates: str | Sequence[str] = "photo",
        top: int | None = None,
    ) -> tuple[list[str], np.ndarray]:
        """Finds the most probable names of an image.

        Args:
          image: uint8 [H, W, 3], see `encode_image`.
          names: class names, a list or text with commas.
          templates: see `class_vectors`.
          top: number of names to return. None: all.

        Returns:
          The names, the most probable first, and their probabilities, float32.

        Raises:
          ValueError: no name, an empty one, or one that occurs twice.
        """
        names = parse_names(names)
        vectors = self.class_vectors(names, templates=templates)
        cosines = vectors @ self.encode_image(image)[0]
        scores = softmax(self.scale * cosines)
        order = np.argsort(-scores, kind="stable")[:top]
        return [names[i] for i in order], scores[order]

    def class_vectors(
        self, names: str | Sequence[str], *, templates: str | Sequence[str] = "photo"
    ) -> np.ndarray:
        """Computes one vector per class: the mean of its prompts' vectors, float32 [K, E].

        Args:
          names: class names, a list or text with commas.
          templates: "name", "photo", "seven", a template such as "a photo of a {}.", several, or a
            file of them (see `segjax.text.templates.find_templates`). A CLIP of synthetic captions
            knows the words of its captions alone: use "name".

        Raises:
          ValueError: no name, an empty one, one that occurs twice, or an unknown template.
        """
        names, found = parse_names(names), find_templates(templates)
        prompts = [template.replace("{}", name) for name in names for template in found]
        vectors = self.encode_text(prompts).reshape(len(names), len(found), -1)
        return normalize_rows(vectors.mean(axis=1))

    def encode_rows(
        self, encode: Callable, rows: Iterator[tuple[np.ndarray, ...]], normalize: bool = True
    ) -> np.ndarray:
        """Runs a tower on batches of one size, so that one program serves any number of rows.

        Args:
          encode: called with stacks of `batch` rows, one for each array of a row. Returns
            [batch, E].
          rows: the arrays of each row. They are read batch by batch.
          normalize: scale vectors to length 1.

        Returns:
          float32 [number of rows, E].
        """
        found = []
        while part := list(itertools.islice(rows, self.batch)):
            missing = self.batch - len(part)
            stacks = (np.stack(arrays) for arrays in zip(*part, strict=True))
            padded = [np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in stacks]
            found.append(np.asarray(encode(*map(jnp.asarray, padded)))[: len(part)])
        if not found:
            return np.zeros((0, self.model.embedding), np.float32)
        vectors = np.concatenate(found)
        return normalize_rows(vectors) if normalize else vectors


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors [..., E] to length 1. Zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis, float32."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
