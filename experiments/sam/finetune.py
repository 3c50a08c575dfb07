"""Fine-tunes a SAM on your own masks.

    segjax prepare coco FOLDER --out data/mine --option held_out=0.2
    segjax train --config=sam/finetune:tiny --workdir=runs/mine
    segjax eval --checkpoint runs/mine --out runs/mine
    segjax everything photo.jpg --checkpoint runs/mine --out out

Variants, by what they train:

* "decoder" (the default): prompt encoder and mask decoder of ViT-B, 4.1 of 93.7 million parameters.
  The encoder runs only once for each image and its mirror image, before the training.
* "lora": the decoder, and adapters of rank 4 in all blocks of the encoder, 0.15 million more.
* "late": the last four blocks of the encoder and everything after it. Its optimizer is larger than
  that of "lora", its backward pass stops at the first of these blocks.
* "full": everything, for hundreds of images.
* "tiny": everything, from the demo model that comes with segjax, in minutes on a CPU.
* "medsam": MedSAM's recipe (Ma et al. 2024): encoder and decoder, from box prompts that are up to
  20 pixels too large on each side, on images scaled to 0..1. MedSAM resizes images to a square and
  trains on one object of each, by Dice and cross-entropy at full resolution. This one keeps the
  aspect ratio, and trains on up to 8 objects by SAM's loss on the mask grid, with the IoU head.
* "samed": SAMed's adapters (Zhang and Liu 2023), with its learning rate, warm-up and weight decay.
  SAMed predicts classes without prompts, by Dice and cross-entropy, and its rate falls by a
  polynomial. This one keeps SAM's prompts and loss, and the rate falls by a cosine.

All but "tiny" start from the published sam_vit_b, which is downloaded once. Start from other
weights by --config.init_from, on another canvas by --config.model.canvas=512.
"""

import ml_collections

from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.variants import as_variant

_VARIANTS = ("decoder", "lora", "late", "full", "tiny", "medsam", "samed")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or one of its variants."""
    recipes = {"tiny": tiny, "medsam": medsam, "samed": samed}
    if variant in recipes:
        return recipes[variant]()
    config = vit_b()
    trainable = {"late": "late:4", "": "decoder"}
    if variant in ("", *_VARIANTS):
        config.trainable = trainable.get(variant, variant)
    if config.trainable == "decoder":
        # The encoder runs once for each image and its mirror image
        config.data.embeddings.folder = "workdir"
    # Fewer trained parameters bear a higher rate
    config.optimizer.peak_lr = {"full": 1e-5, "late": 3e-5}.get(variant, 1e-4)
    return as_variant(config, variant, known=_VARIANTS)


def vit_b() -> ml_collections.ConfigDict:
    """Returns the settings that the variants of ViT-B share."""
    config = promptable_config()
    config.update(total_steps=1000, batch_size=1, log_every=10, init_from="sam_vit_b")
    config.model.name = "sam_vit_b"
    # Recompute the encoder's blocks, and the decoder for two objects at a time, to save memory.
    config.model.update(remat="full", prompts_at_once=2)
    config.optimizer.update(warmup_steps=50, weight_decay=0.01, clip_norm=1.0)
    # One random later round instead of all: an eighth of the decoder's time
    config.rounds.update(count=8, sampled=True, correction_weight=1 / 7)
    config.data.update(source="data/mine", train_split="train", eval_split="val")
    config.data.update(max_prompts=8, cache_mb=500.0)
    config.data.augment = dict(flip=True)
    config.eval.update(batch_size=1, max_prompts=16, num_points=5)
    return config


def tiny() -> ml_collections.ConfigDict:
    """Returns the demo model on a small folder, for a CPU."""
    config = vit_b()
    config.update(total_steps=400, batch_size=4, init_from="sam_tiny_demo")
    config.model = dict(name="sam_tiny", canvas=256)
    config.optimizer.update(name="muon", peak_lr=1e-3, b1=0.9, b2=0.99, weight_decay=0.05)
    config.rounds.update(count=6, empty_random=False, empty_last=False, correction_weight=1 / 5)
    config.loss.update(focal_normalise="area", focal_weight=4.0, iou_weight=3.0)
    config.data.update(max_prompts=6, min_area=40.0)
    config.data.augment = dict(scale=(0.8, 1.6), flip=True, brightness=0.2, contrast=0.2)
    config.eval.update(batch_size=4, max_prompts=32)
    return config


def medsam() -> ml_collections.ConfigDict:
    """Returns MedSAM's recipe as far as it maps to this task."""
    config = vit_b()
    config.trainable = ["^image_encoder/", "^mask_decoder/"]
    config.model.normalization = "minmax"
    config.optimizer.update(peak_lr=1e-4, weight_decay=0.01, warmup_steps=0, schedule="constant")
    # One box for each object, enlarged by up to 20 pixels on each side
    config.rounds.update(count=1, empty_random=False, empty_last=False, sampled=False)
    config.rounds.update(box_rate=1.0, box_noise="outward", box_noise_cap=20.0, box_multimask=False)
    config.rounds.correction_weight = 1.0
    return config


def samed() -> ml_collections.ConfigDict:
    """Returns SAMed's adapters and optimizer: rank 4, q and v, not scaled, at 512 pixels."""
    config = vit_b()
    config.trainable = "lora"
    config.lora.update(rank=4, alpha=0.0, targets=("q", "v"), blocks="all")
    config.model.canvas = 512
    config.batch_size = 12
    config.optimizer.update(peak_lr=5e-3, weight_decay=0.1, warmup_steps=250)
    return config
