"""A tiny MAE learns from scenes drawn over photographs, in minutes on a laptop's CPU; its encoder is sam_tiny's.

    segjax train --config=experiments/mae/quickstart.py --workdir=runs/mae
    segjax reconstruct demo --checkpoint runs/mae --out out
    segjax train --config=experiments/sam/quickstart.py --workdir=runs/sam --config.init_from=mae:runs/mae

    segjax train --config=experiments/mae/quickstart.py:digits --workdir=runs/digits    # of tools/digit_folders.py

Six minutes on 2 cores without an accelerator, beside other work; loss on held-out scenes .651 (1: each patch's mean).
"""

import ml_collections

from segjax.tasks.reconstruction.config import as_variant, reconstruction_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = reconstruction_config()
    config.total_steps = 1200
    config.batch_size = 64
    config.log_every = 100
    config.model = ml_collections.ConfigDict(dict(name="mae_tiny"))
    # Not the paper's: Muon learns more from few steps, see docs/pretraining.md.
    config.optimizer.update(name="muon", base_lr=0.0, peak_lr=6e-3, b2=0.99, warmup_steps=40)
    config.data.update(cache_mb=500.0)
    config.data.scenes.update(train_count=2000, eval_count=64)
    if variant == "digits":
        # Grey and mostly black: pixels as they are, see docs/pretraining.md. Mirrored digits are none.
        config.model.update(canvas=28, patch=4, norm_pix=False)
        config.total_steps = 3000
        config.data.update(source="data/digits")
        config.data.crop.update(scale=(0.6, 1.0), flip=False)
    return as_variant(config, variant, known=("digits",))
