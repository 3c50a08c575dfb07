"""Trains a tiny MAE on scenes drawn over photographs, in minutes on a laptop's CPU.

Its encoder fits sam_tiny.

    segjax train --config=experiments/mae/quickstart.py --workdir=runs/mae
    segjax reconstruct demo --checkpoint runs/mae --out out
    segjax train --config=experiments/sam/quickstart.py --workdir=runs/sam \\
      --config.init_from=mae:runs/mae

    segjax train --config=experiments/mae/quickstart.py:digits --workdir=runs/digits

`digits` trains on the handwritten digits of tools/digit_folders.py instead.

Expected loss on held-out scenes: 0.651 (1.0 is the mean of each patch). Training takes 6 minutes on
2 CPU cores without an accelerator.
"""

import ml_collections

from segjax.tasks.reconstruction.config import reconstruction_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "digits"."""
    config = reconstruction_config()
    config.update(total_steps=1200, batch_size=64, log_every=100)
    config.model = dict(name="mae_tiny")
    # The paper trains with AdamW. Muon learns more in few steps.
    config.optimizer.update(name="muon", base_lr=0.0, peak_lr=6e-3, b2=0.99, warmup_steps=40)
    config.data.cache_mb = 500.0
    config.data.scenes.update(train_count=2000, eval_count=64)
    if variant == "digits":
        config.total_steps = 3000
        # Digits are gray and mostly black: their pixels are predicted unnormalized.
        config.model.update(canvas=28, patch=4, norm_pix=False)
        config.data.source = "data/digits"
        config.data.crop.update(scale=(0.6, 1.0), flip=False)  # a mirrored digit is not a digit
    return as_variant(config, variant, known=("digits",))
