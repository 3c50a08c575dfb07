"""Pretrains ViT-B/16 as a masked autoencoder on ImageNet-1k by the paper's recipe (appendix A.1).

Needs accelerators.

    # train/<class>/, val/<class>/
    segjax prepare images path/to/imagenet --out data/imagenet --short-side 256
    segjax train --config=experiments/mae/imagenet_b.py --workdir=runs/mae-b
    # as long as the released weights
    segjax train --config=experiments/mae/imagenet_b.py:1600ep --workdir=runs/mae-b

800 epochs in batches of 4096 images, a rate of 2.4e-3 after 40 epochs of warm-up, 75 % of the
patches masked. Where the devices cannot hold 4096 images, accumulate gradients: set
config.microbatches.

Data that TFDS has prepared works too: --config.data.source=tfds:imagenet2012
--config.data.eval_split=validation (and --config.data.tfds_dir=DIR). TFDS, and `prepare` without
--short-side, keep the original size of the images, as the paper does. They need twice the CPU cores
for decoding. This recipe has not been run, so no result is claimed.
"""

import ml_collections

from segjax.tasks.reconstruction.config import reconstruction_config
from segjax.tasks.settings import IMAGENET_IMAGES
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "1600ep"."""
    config = reconstruction_config()
    epochs = 1600 if variant == "1600ep" else 800
    config.batch_size = 4096
    config.total_steps = epochs * IMAGENET_IMAGES // config.batch_size
    config.update(log_every=50, eval_every=3000)  # an evaluation every ten epochs
    config.model = dict(name="mae_vit_b", dtype="bfloat16")
    # Scaled by the batch size: 1.5e-4 * 4096 / 256 = 2.4e-3
    config.optimizer.update(name="adamw", base_lr=1.5e-4, b1=0.9, b2=0.95, weight_decay=0.05)
    config.optimizer.warmup_steps = 40 * IMAGENET_IMAGES // config.batch_size
    config.data.update(source="data/imagenet", train_split="train", eval_split="val")
    config.data.update(workers=16, threads=2)
    config.data.crop.frame = 256  # the devices resize the crops
    config.eval.update(batch_size=512, limit=4096)
    config.checkpoint.every = 1000
    return as_variant(config, variant, known=("1600ep",))
