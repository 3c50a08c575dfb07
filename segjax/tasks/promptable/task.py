"""Promptable segmentation: SAM, its losses and the simulated annotator, bound together for the loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.examples.promptable import PromptableExample
from segjax.data.tiles import Tiles
from segjax.evaluation.interactive import evaluate_interactive
from segjax.evaluation.interactive_scores import InteractiveScores
from segjax.losses.promptable import PromptableLoss
from segjax.models.flops import TRAINING
from segjax.models.sam.build import build_sam
from segjax.models.sam.flops import decoder_multiply_adds, encoder_multiply_adds
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam
from segjax.ops.masks import content_mask
from segjax.prompting.simulation import Rounds, Session, Simulator
from segjax.tasks.init_from import sam_from_mae
from segjax.tasks.promptable.config import PromptableSettings, promptable_config, miniature
from segjax.tasks.record_task import RecordTask
from segjax.training.sharding import place_batch


class Promptable(RecordTask):
    """The task of `config` (see `promptable_config`): all that the loop asks for, and `interactive_scores`."""

    settings = PromptableSettings
    defaults = staticmethod(promptable_config)
    miniature = staticmethod(miniature)
    build = staticmethod(build_sam)
    model: Sam

    def __init__(self, config: ml_collections.ConfigDict):
        """Raises ValueError for tiles of another size than the model's canvas."""
        super().__init__(config)
        self.rounds = Rounds(**config.rounds)
        self.score = PromptableLoss(**config.loss)
        if self.eval["tile"] not in (0, self.model.canvas):
            raise ValueError(
                f"config.eval.tile is {self.eval['tile']}, but the model's canvas is {self.model.canvas}: tiles would "
                f"be resized; set it to {self.model.canvas}, or to 0 to measure whole pictures fitted to the canvas"
            )
        self.mask_size = (self.model.mask_side,) * 2

    def pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Kind "mae": the parameters of the image encoder but its neck, see `sam_from_mae`. Raises ValueError else."""
        if kind != "mae":
            raise ValueError(
                f"a SAM starts from its own checkpoints or from a MAE, 'mae:PATH'; got '{kind}:{path}'"
            )
        return sam_from_mae(path, self.model, expected)

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Plays all rounds on a batch of `PromptableExample`s; sums over prompts, the weight is their number."""
        drop_key, play_key = jax.random.split(key)
        embedding = self.model.apply(
            variables,
            batch["image"],
            batch["size"],
            train=train,
            rngs={"drop_path": drop_key} if train else {},
            method="encode_image",
        )
        simulator = self.simulator(batch)
        first, later = simulator.play(play_key, (variables, embedding), self.mask_size)
        weights = batch["valid"] * batch["weight"][:, None]
        total = lambda values: jnp.sum(weights * values)
        corrections = max(self.rounds.count - 1, 1)
        metrics = {f"first_{name}": total(first[name]) for name in ("focal", "dice", "iou_error")}
        metrics |= {
            f"later_{name}": total(later[name]) / corrections
            for name in ("focal", "dice", "iou_error")
        }
        return total(first["loss"] + later["loss"]), weights.sum(), metrics

    def simulator(self, batch: Mapping[str, jax.Array]) -> Simulator:
        """The annotator of a batch, who knows its truth."""
        truth = batch["masks"] > 0
        stride = self.model.canvas // truth.shape[-1]
        return Simulator(
            rounds=self.rounds,
            decode=self.decode_session,
            score=self.score,
            truth=truth,
            boxes=batch["boxes"],
            content=content_mask(-(-batch["size"] // stride), truth.shape[-2:])[:, None],
            size=batch["size"],
            stride=stride,
        )

    def decode_session(
        self, context: Any, session: Session, fed_back: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The model's answer to the prompts of a simulated session."""
        variables, embedding = context
        slots = session.points.shape[2] if fed_back else 1  # the first round has but one click
        prompts = Prompts(
            points=session.points[:, :, :slots],
            labels=session.labels[:, :, :slots],
            boxes=session.boxes,
            has_box=session.has_box,
            masks=session.low_res if fed_back else None,
        )
        return self.model.apply(variables, embedding, prompts, method="decode")

    def operations(self) -> tuple[float, str]:
        """The encoder, and every round of the decoder for as many prompts as an example has room for.

        The first round has one click or box, later ones as many clicks as have been made; of sampled rounds, those that
        run forward only count as many as there are on average.
        """
        rounds = [
            decoder_multiply_adds(self.model, tokens=2 + number)
            for number in range(self.rounds.count)
        ]
        learnt, later = rounds[0], rounds[1:]
        if self.rounds.sampled and later:
            passes = [
                TRAINING + len(later) - 1 - place for place in range(len(later))
            ]  # of round i, over all draws
            learnt = TRAINING * learnt + sum(
                count * cost for count, cost in zip(passes, later, strict=True)
            ) / len(later)
        else:
            learnt = TRAINING * sum(rounds)
        encoder = TRAINING * encoder_multiply_adds(self.model)
        return 2.0 * (encoder + self.data["max_prompts"] * learnt), jnp.dtype(self.model.dtype).name

    @property
    def percentiles(self) -> tuple[float, float] | None:
        """Between which intensities pictures are stretched."""
        return tuple(self.data["percentiles"]) or None

    def example(self, *, train: bool) -> PromptableExample:
        """What is made of a record; in evaluation with masks at canvas size."""
        tiled = not train and self.eval["tile"]
        return PromptableExample(
            self.model.canvas,
            self.data["max_prompts"] if train else self.eval["max_prompts"],
            self.data["mask_stride"] if train else 1,
            train=train,
            augment=self.data["augment"] | {"scale": self.data["augment"].get("scale") or None},
            min_area=self.data["min_area"],
            max_area_fraction=self.data["max_area_fraction"],
            percentiles=None
            if tiled
            else self.percentiles,  # a tile's whole picture has been stretched
        )

    def source(self, split: str) -> Sequence:
        """The records of a split, in evaluation cut into tiles if config.eval.tile says so."""
        source = super().source(split)
        if split == "train" or not self.eval["tile"]:
            return source
        # The whole picture is stretched, not each tile by itself.
        return Tiles(source, self.eval["tile"], self.eval["overlap"], percentiles=self.percentiles)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The interactive protocol on the evaluation split; pictures show clicks, answers, truth and errors."""
        scores = self.interactive_scores(variables, mesh=mesh)
        sheet = viz.interaction_sheet(scores.pictures) if scores.pictures else None
        return scores.numbers(), {} if sheet is None else {"interaction": sheet}

    def interactive_scores(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> InteractiveScores:
        """IoU after 1 .. N clicks for every object of the evaluation split.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        return evaluate_interactive(
            jax.tree_util.Partial(self._encode, variables),
            jax.tree_util.Partial(self._decode, variables),
            self.measured_batches(variables, mesh),
            num_points=self.eval["num_points"],
            mask_size=self.mask_size,
            pictures=self.eval["pictures"],
            place=lambda batch: place_batch(batch, mesh),
        )

    def _encode(self, variables, images, sizes):
        return self.model.apply(variables, images, sizes, method="encode_image")

    def _decode(self, variables, embedding, points, labels, mask_logits, has_mask):
        prompts = Prompts(points=points, labels=labels, masks=mask_logits, has_mask=has_mask)
        return self.model.apply(variables, embedding, prompts, method="decode")
