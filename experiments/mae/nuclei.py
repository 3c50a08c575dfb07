"""A MAE of the trunk of experiments/sam/nuclei.py, trained on the same pictures without their labels.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/sam/nuclei.py --workdir=runs/scratch --config.total_steps=640
    segjax train --config=experiments/mae/nuclei.py --workdir=runs/mae
    segjax train --config=experiments/sam/nuclei.py --workdir=runs/after --config.total_steps=340 \\
      --config.init_from=mae:runs/mae

The same seven minutes of one CPU core with and without it, three seeds; stage1_test: iou@1 .52 from scratch, .47 after
the MAE; iou@5 .61 and .54. It does not pay at this scale: docs/pretraining.md says how that was measured, and why.
"""

import ml_collections

from segjax.tasks.reconstruction.config import as_variant, reconstruction_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = reconstruction_config()
    config.total_steps = 480
    config.batch_size = 16
    config.log_every = 20
    config.model = ml_collections.ConfigDict(
        dict(name="mae_tiny", canvas=128, patch=8, decoder_depth=1)
    )
    # Normalised, the target of a flat grey patch is that the channels' means differ: nothing to learn from.
    config.model.norm_pix = False
    config.optimizer.update(name="muon", base_lr=0.0, peak_lr=1.2e-2, b2=0.99, warmup_steps=40)
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.update(cache_mb=500.0, percentiles=(1.0, 99.0))
    # The SAM sees 128 pixels of a longest side of 205 to 320: of square pictures this share, unstretched.
    config.data.crop.update(scale=(0.16, 0.4), ratio=(1.0, 1.0))
    return as_variant(config, variant)
