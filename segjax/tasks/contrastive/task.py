"""Contrastive training: images and texts that belong together get similar vectors (CLIP)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.examples.captioned import CaptionedExample
from segjax.evaluation.retrieval import draw_sets, score_retrieval
from segjax.losses.contrastive import info_nce
from segjax.models.clip.clip import ClipModel, normalize_vectors
from segjax.models.clip.family import build_clip
from segjax.models.clip.flops import count_clip_multiply_adds
from segjax.models.flops import TRAINING
from segjax.tasks.contrastive.config import ContrastiveSettings, miniature
from segjax.tasks.record_task import RecordTask
from segjax.text.tokenizers import load_tokenizer
from segjax.training.sharding import place_batch, to_host

NO_OBJECTS = {"boxes": np.zeros((0, 4))}  # crops are drawn without outlines


class Contrastive(RecordTask):
    """Task that trains a CLIP on objects with phrases. Its settings are `ContrastiveSettings`."""

    settings = ContrastiveSettings
    miniature = staticmethod(miniature)
    build = staticmethod(build_clip)
    shown_metrics = ("loss", "correct", "scale", "image_to_text@1")
    no_object = (
        "no object has phrases. config.data.scenes.kind='captions' makes some, and records of a "
        "folder need the field `phrases` (see segjax.data.records)"
    )
    model: ClipModel

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.same_texts, self.implied_texts = config.same_texts, config.implied_texts
        self.largest_scale = config.largest_scale
        self._embed = jax.jit(self._embed_batch)

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Computes the symmetric InfoNCE loss of the pairs of a batch.

        With microbatches, the negatives are those of one microbatch.

        Args:
          variables: {"params", "constants"}.
          batch: `CaptionedExample`s: image uint8 [B, N, S, S, 3], ids int32 [B, N, context], valid
            bool [B, N] and weight [B].
          key: not used.
          train: not used.

        Returns:
          (sum over pairs, number of pairs, {"correct": number of pairs with the largest cosine,
          "scale": sum of the factor of cosines}).
        """
        del key, train
        images, texts, weight = self._encode_pairs(variables, batch)
        scale = jnp.exp(variables["params"]["logit_scale"])
        scale = jnp.minimum(scale, self.largest_scale)
        losses, correct = info_nce(images, texts, scale, weight, self._find_true(batch))
        count = jnp.sum(weight)
        metrics = {"correct": jnp.sum(correct * weight), "scale": scale * count}
        return jnp.sum(losses * weight), count, metrics

    def _find_true(self, batch: Mapping[str, jax.Array]) -> jax.Array | None:
        """Returns bool [N, N], whether text j is known to be true of image i. None: unknown."""
        ids, said = (batch[key].reshape(-1, batch[key].shape[-1]) for key in ("ids", "said"))
        true = None
        if self.same_texts:
            true = (ids[:, None] == ids[None]).all(-1)
        if self.implied_texts:
            # Each word of text j occurs in the phrases of image i. 0 is padding.
            occurs = (ids[None, :, :, None] == said[:, None, None, :]).any(-1) | (ids == 0)[None]
            true = occurs.all(-1) if true is None else true | occurs.all(-1)
        return true

    def _encode_pairs(
        self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns vectors of images and texts [B * N, E], and weights [B * N]."""
        images = batch["image"].reshape(-1, *batch["image"].shape[2:])
        ids = batch["ids"].reshape(-1, batch["ids"].shape[-1])
        weight = (batch["weight"][:, None] * batch["valid"]).reshape(-1)
        encode = lambda x, method: normalize_vectors(self.model.apply(variables, x, method=method))
        return encode(images, "encode_image"), encode(ids, "encode_text"), weight

    def _embed_batch(self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict:
        images, texts, weight = self._encode_pairs(variables, batch)
        return {"images": images, "texts": texts, "weight": weight, "ids": batch["ids"]}

    def flops(self) -> tuple[float, str]:
        """Returns the FLOPs of one image with its objects in training, and their dtype."""
        pairs = self.data["per_image"]
        multiply_adds = pairs * sum(count_clip_multiply_adds(self.model))
        return 2.0 * TRAINING * multiply_adds, jnp.dtype(self.model.dtype).name

    def build_example(self, *, train: bool) -> CaptionedExample:
        """Returns the function from a record to an example.

        Raises:
          ValueError: a tokenizer whose ids the model does not have.
        """
        vocabulary = load_tokenizer(self.model.tokenizer).vocabulary
        if vocabulary > self.model.vocabulary:
            raise ValueError(
                f"the tokenizer {self.model.tokenizer!r} has {vocabulary} ids, the model "
                f"{self.model.vocabulary}; set config.model.vocabulary={vocabulary}"
            )
        return CaptionedExample(
            self.model.canvas,
            self.model.tokenizer,
            self.model.context,
            train=train,
            count=self.data["per_image"],
            expand=tuple(self.data["expand"]),
            hide=self.data["hide"],
            longest=self.data["longest"],
            color=tuple(255 * value for value in self.model.mean),
        )

    def draw_batch(
        self, batch: Mapping[str, np.ndarray], *, count: int = 9, title: str = ""
    ) -> np.ndarray | None:
        """Draws the first crops of a batch, with their phrases."""
        images = batch["image"][batch["valid"]][:count]
        tokenizer = load_tokenizer(self.model.tokenizer)
        captions = [tokenizer.decode(ids) for ids in batch["ids"][batch["valid"]][:count]]
        if not len(images):
            return None
        return viz.draw_annotation_sheet(
            list(images), [NO_OBJECTS] * len(images), captions, title=title
        )

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Measures retrieval among `config.eval.choices` captions of the evaluation split.

        Args:
          variables: to be evaluated.
          mesh: to evaluate on.

        Returns:
          `score_retrieval`, and {"retrieval": uint8 [H, W, 3]}, crops with the caption that was
          chosen.

        Raises:
          CheckpointError: variables of another model than the config's.
          ValueError: too few different captions for one set.
        """
        found: dict[str, list] = {name: [] for name in ("images", "texts", "ids", "shown")}
        for batch in self.evaluation_batches(variables, mesh):
            rows = to_host(self._embed(variables, place_batch(batch, mesh)))
            real = rows["weight"] > 0
            found["images"].append(rows["images"][real])
            found["texts"].append(rows["texts"][real])
            found["ids"].append(rows["ids"].reshape(-1, rows["ids"].shape[-1])[real])
            if jax.process_count() == 1:
                found["shown"].append(batch["image"].reshape(-1, *batch["image"].shape[2:])[real])
        images, texts, ids = (np.concatenate(found[key]) for key in ("images", "texts", "ids"))
        captions = [row.tobytes() for row in ids]
        sets = draw_sets(captions, self.eval["choices"])
        if not sets:
            raise ValueError(
                f"{len(set(captions))} different captions are too few for one set of "
                f"{self.eval['choices']}; set config.eval.choices lower, or measure more images"
            )
        metrics = score_retrieval(images, texts, sets) | {"pairs": float(len(images))}
        if not self.eval["pictures"] or not found["shown"]:
            return metrics, {}
        members = sets[0]
        shown = np.concatenate(found["shown"])[members]
        chosen = (images[members] @ texts[members].T).argmax(axis=1)
        sheet = self._draw_sheet(shown, ids[members], chosen)
        return metrics, {"retrieval": sheet}

    def _draw_sheet(self, images: np.ndarray, ids: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
        """Draws crops with the caption that was chosen for each."""
        tokenizer = load_tokenizer(self.model.tokenizer)
        count = min(self.eval["pictures"], len(images))
        captions = []
        for i in range(count):
            mark = "" if chosen[i] == i else "wrong: "
            captions.append(mark + tokenizer.decode(ids[chosen[i]]))
        return viz.draw_annotation_sheet(list(images[:count]), [NO_OBJECTS] * count, captions)
