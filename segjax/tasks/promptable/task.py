"""Promptable segmentation task: SAM, its losses and the simulated annotator."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from segjax import viz
from segjax.data.examples.promptable import PromptableExample
from segjax.data.tiles import Tiles
from segjax.evaluation.interactive import evaluate_interactive
from segjax.evaluation.interactive_scores import InteractiveScores
from segjax.inference.sam.predictor import SamPredictor
from segjax.losses.promptable import PromptableLoss
from segjax.models.flops import TRAINING
from segjax.models.sam.build import build_sam
from segjax.models.sam.flops import count_decoder_multiply_adds, count_encoder_multiply_adds
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam
from segjax.ops.masks import make_content_mask
from segjax.prompting.simulation import Rounds, Session, Simulator
from segjax.tasks.init_from import load_sam_encoder, load_sam_without_text
from segjax.tasks.promptable.config import PromptableSettings, miniature
from segjax.tasks.promptable.data_checks import NO_PROMPT, check_prompts
from segjax.tasks.promptable.embeddings import (
    EmbeddedExample,
    EmbeddingFolder,
    check_settings,
    fill_folder,
    make_folder,
)
from segjax.tasks.promptable.report import write_report
from segjax.tasks.promptable.text_prompts import TextPrompts
from segjax.tasks.promptable.text_vectors import TextExample
from segjax.tasks.record_task import RecordTask
from segjax.training.sharding import place_batch


class Promptable(RecordTask):
    """Trains a SAM on interactive rounds, and evaluates it by the number of clicks.

    Attributes:
      model: The SAM.
      rounds: Settings of the interactive training rounds.
      prompt_loss: Loss of one prediction, see `PromptableLoss`.
      mask_size: (4h, 4w), shape of the masks that the decoder predicts and receives.
    """

    settings = PromptableSettings
    miniature = staticmethod(miniature)
    build = staticmethod(build_sam)
    no_object = NO_PROMPT
    shown_metrics = ("loss", "first_dice", "later_dice", "iou@1", "iou@5", "noc@90", "text_miou")
    model: Sam

    def __init__(self, config: ml_collections.ConfigDict):
        """Makes the model and the loss of a config, see `promptable_config`.

        Raises:
          ValueError: `config.eval.tile` differs from the model's canvas.
        """
        super().__init__(config)
        self.rounds = Rounds(**config.rounds)
        self.prompt_loss = PromptableLoss(**config.loss)
        if self.eval["tile"] not in (0, self.model.canvas):
            raise ValueError(
                f"config.eval.tile is {self.eval['tile']}, but the model's canvas is "
                f"{self.model.canvas}: tiles would be resized; set it to {self.model.canvas}, or "
                "to 0 to evaluate on full images that are resized to the canvas"
            )
        self.mask_size = (self.model.mask_side,) * 2
        self.text = TextPrompts(self.data["text"], self.model.text_width)
        self._embeddings: EmbeddingFolder | None = None

    def load_pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Loads the image encoder without its neck from a MAE, or all of a SAM but text prompts.

        See `load_sam_encoder` and `load_sam_without_text`.

        Args:
          kind: "mae" or "sam".
          path: Checkpoint of it.
          expected: All variables of the SAM, as shapes.

        Raises:
          ValueError: Another kind.
        """
        if kind == "sam":
            return load_sam_without_text(path, self.model)
        if kind != "mae":
            raise ValueError(
                "a SAM starts from its own checkpoints, from a MAE, 'mae:PATH', or from a SAM "
                f"without text prompts, 'sam:PATH'; got '{kind}:{path}'"
            )
        return load_sam_encoder(path, self.model, expected)

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Plays all interactive rounds on a batch and sums the losses of its prompts.

        The rounds are in `segjax.prompting.simulation`, the losses in `segjax.losses.promptable`.

        Args:
          variables: {"params", "constants"} of the SAM.
          batch: A batch of `PromptableExample`s.
          key: Typed PRNG key of the prompts and of drop path.
          train: Whether drop path is active.

        Returns:
          (sum of losses over prompts, number of prompts, sums of metrics), float32 scalars. The
          metrics are "first_focal", "later_dice" and so on. Those of later rounds are means over
          rounds.
        """
        # Image embedding, computed once for all rounds, or once for the whole run
        drop_key, play_key = jax.random.split(key)
        if "embedding" in batch:
            embedding = batch["embedding"].astype(self.model.dtype)
        else:
            embedding = self.model.apply(
                variables,
                batch["image"],
                batch["size"],
                train=train,
                rngs={"drop_path": drop_key} if train else {},
                method="encode_image",
            )

        # Interactive rounds
        simulator = self.make_simulator(batch)
        first, later = simulator.play(play_key, (variables, embedding), self.mask_size)

        # Sums over real prompts of real images
        weights = batch["valid"] * batch["weight"][:, None]
        total = lambda values: jnp.sum(weights * values)
        corrections = max(self.rounds.count - 1, 1)
        metrics = {f"first_{name}": total(first[name]) for name in ("focal", "dice", "iou_error")}
        metrics |= {
            f"later_{name}": total(later[name]) / corrections
            for name in ("focal", "dice", "iou_error")
        }
        return total(first["loss"] + later["loss"]), weights.sum(), metrics

    def make_simulator(self, batch: Mapping[str, jax.Array]) -> Simulator:
        """Returns the simulated annotator of a batch, who knows its ground truth."""
        # The loss grid may be coarser than the canvas
        ground_truth = batch["masks"] > 0
        stride = self.model.canvas // ground_truth.shape[-1]
        content = make_content_mask(-(-batch["size"] // stride), ground_truth.shape[-2:])
        return Simulator(
            rounds=self.rounds,
            decode=self.decode_session,
            loss_fn=self.prompt_loss,
            ground_truth=ground_truth,
            boxes=batch["boxes"],
            content=content[:, None],
            size=batch["size"],
            stride=stride,
            texts=batch.get("texts"),
            has_text=batch.get("has_text"),
        )

    def decode_session(
        self, context: Any, session: Session, feed_back: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Predicts masks and IoUs for the prompts of a simulated session.

        Args:
          context: (variables, image embedding [B, h, w, D]).
          session: The prompts of B x P sessions.
          feed_back: Whether the mask of the previous round is a prompt. False in the first round.

        Returns:
          Logits [B, P, 4, 4h, 4w] and IoU predictions [B, P, 4].
        """
        variables, embedding = context
        slots = session.points.shape[2] if feed_back else 1  # the first round has one click
        prompts = Prompts(
            points=session.points[:, :, :slots],
            labels=session.labels[:, :, :slots],
            boxes=session.boxes,
            has_box=session.has_box,
            masks=session.low_res if feed_back else None,
            texts=session.texts,
            has_text=session.has_text,
        )
        return self.model.apply(variables, embedding, prompts, method="decode")

    def flops(self) -> tuple[float, str]:
        """Returns the flops of one image: the encoder, and all rounds of the mask decoder.

        The decoder runs for as many prompts as an example has room for. The first round has one
        click or box, round i has i clicks more. With sampled rounds, those that run forward only
        count by their mean number.
        """
        rounds = [
            count_decoder_multiply_adds(self.model, tokens=2 + number)
            for number in range(self.rounds.count)
        ]
        first, later = rounds[0], rounds[1:]
        if self.rounds.sampled and later:
            # Passes of later round i, summed over all values of the sampled round
            passes = [TRAINING + len(later) - 1 - index for index in range(len(later))]
            decoder = TRAINING * first + sum(
                count * cost for count, cost in zip(passes, later, strict=True)
            ) / len(later)
        else:
            decoder = TRAINING * sum(rounds)
        encoder = TRAINING * count_encoder_multiply_adds(self.model)
        if self.data["embeddings"]["folder"]:
            encoder = 0
        multiply_adds = encoder + self.data["max_prompts"] * decoder
        return 2.0 * multiply_adds, jnp.dtype(self.model.dtype).name

    @property
    def percentiles(self) -> tuple[float, float] | None:
        """Percentiles (low, high) that image intensities are stretched between, or None."""
        return tuple(self.data["percentiles"]) or None

    def build_example(self, *, train: bool) -> PromptableExample:
        """Returns the transform from record to example. For evaluation, masks have canvas size."""
        tiled = not train and self.eval["tile"]
        return PromptableExample(
            self.model.canvas,
            self.data["max_prompts"] if train else self.eval["max_prompts"],
            self.data["mask_stride"] if train else 1,
            train=train,
            augment=self.data["augment"] | {"scale": self.data["augment"].get("scale") or None},
            min_area=self.data["min_area"],
            max_area_fraction=self.data["max_area_fraction"],
            min_area_fraction=0.0 if train else self.eval["min_area_fraction"],
            # `source` has stretched the full image of a tile
            percentiles=None if tiled else self.percentiles,
            indices=train and self.text.used,
        )

    def prepare_training(
        self, variables: Mapping[str, Any], *, trained: Collection[str], workdir: pathlib.Path
    ) -> None:
        """Computes what is missing of image embeddings and of CLIP's vectors, if the config asks.

        Raises:
          ValueError: the image encoder is trained, or an augmentation changes each image.
          OSError: the disk is too small.
        """
        if self.text.used:
            self.text.prepare(self.data, super().open_source("train"), workdir)
        settings = self.data["embeddings"]
        if not settings["folder"]:
            return
        example = self.build_example(train=True)
        check_settings(example, trained)
        folder = pathlib.Path(settings["folder"])
        folder = workdir / "embeddings" if settings["folder"] == "workdir" else folder
        self._embeddings = make_folder(self.model, variables, folder, settings["dtype"])
        share = jax.process_index(), jax.process_count()
        fill_folder(
            self._embeddings, self.model, variables, self.open_source("train"), example, share=share
        )
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("embeddings are written")

    def build_split_example(self, split: str) -> PromptableExample | EmbeddedExample | TextExample:
        """Returns the transform of a split.

        Training may read embeddings instead of images, and vectors of CLIP.
        """
        example = super().build_split_example(split)
        if split != "train":
            return example
        if self.text.used:
            example = self.text.add_vectors(example)
        return example if self._embeddings is None else EmbeddedExample(example, self._embeddings)

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a training batch, see `Task.batch_shapes`."""
        shapes = super().batch_shapes(batch_size)
        if self.text.used:
            del shapes["object"]
            count, width = self.data["max_prompts"], self.model.text_width
            shapes["texts"] = jax.ShapeDtypeStruct((batch_size, count, width), np.float32)
            shapes["has_text"] = jax.ShapeDtypeStruct((batch_size, count), bool)
        if self.data["embeddings"]["folder"]:
            side = self.model.canvas // self.model.patch
            shape = (batch_size, side, side, self.model.prompt_width)
            del shapes["image"]
            shapes["embedding"] = jax.ShapeDtypeStruct(shape, self.data["embeddings"]["dtype"])
        return shapes

    def open_source(self, split: str) -> Sequence:
        """Returns the records of a split, for evaluation perhaps cut into tiles.

        Raises:
          NoUsableObjectError: No object of the training split can be a prompt.
        """
        source = super().open_source(split)
        if split == "train":
            check_prompts(source, self.build_example(train=True), self.data)
            return source
        if not self.eval["tile"]:
            return source
        # Intensities are stretched over the full image, not over each tile.
        return Tiles(source, self.eval["tile"], self.eval["overlap"], percentiles=self.percentiles)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Runs the interactive protocol on the evaluation split.

        Returns:
          Metrics ("iou@1" and so on), and a sheet of clicks, predictions, ground truth and errors.
        """
        scores = self.interactive_scores(variables, mesh=mesh)
        sheet = viz.draw_interaction_sheet(scores.rounds) if scores.rounds else None
        metrics = scores.summarize()
        if self.text.used:
            predictor = SamPredictor(self.model, variables, percentiles=self.percentiles)
            metrics |= self.text.evaluate(predictor, super().open_source("eval"))
        return metrics, {} if sheet is None else {"interaction": sheet}

    def interactive_scores(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> InteractiveScores:
        """Computes the IoU after 1 .. N clicks for every object of the evaluation split.

        Args:
          variables: {"params", "constants"} of the SAM.
          mesh: Mesh to evaluate on.

        Raises:
          CheckpointError: The variables belong to another model. Flax would ignore extra ones.
        """
        return evaluate_interactive(
            jax.tree_util.Partial(self._encode, variables),
            jax.tree_util.Partial(self._decode, variables),
            self.evaluation_batches(variables, mesh),
            num_points=self.eval["num_points"],
            mask_size=self.mask_size,
            num_recorded=self.eval["pictures"],
            place=lambda batch: place_batch(batch, mesh),
        )

    def write_evaluation(
        self,
        measured: Mapping[str, Mapping[str, Any]],
        out: pathlib.Path | None,
        *,
        title: str,
        mesh: jax.sharding.Mesh,
    ) -> str:
        """Evaluates variables for `segjax eval`, see `Task.write_evaluation`.

        Writes interactive.json, curve.png and pictures.png.
        """
        scores = {
            name: self.interactive_scores(variables, mesh=mesh)
            for name, variables in measured.items()
        }
        return write_report(scores, out, title=title)

    def _encode(self, variables, images, sizes):
        return self.model.apply(variables, images, sizes, method="encode_image")

    def _decode(self, variables, embedding, points, labels, mask_logits, has_mask):
        prompts = Prompts(points=points, labels=labels, masks=mask_logits, has_mask=has_mask)
        return self.model.apply(variables, embedding, prompts, method="decode")
