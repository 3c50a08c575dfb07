"""Trains a tiny CLIP on captioned synthetic objects, in minutes on a laptop's CPU.

One combination in five of color, texture and shape is held out: training never shows it.

    segjax train --config=experiments/clip/quickstart.py --workdir=runs/clip
    segjax eval --checkpoint runs/clip

`segjax.Clip.load("runs/clip")` encodes images and the phrases of such scenes.

Expected: the right caption among 32 for 0.89 of held-out crops (docs/results/words.md).
"""

import ml_collections

from segjax.tasks.contrastive.config import contrastive_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = contrastive_config()
    config.update(total_steps=2400, batch_size=32, log_every=100)
    config.model = dict(name="clip_tiny")
    config.implied_texts = True
    config.optimizer.update(name="muon", peak_lr=3e-3, weight_decay=0.05, warmup_steps=50)
    config.data.update(cache_mb=500.0, longest=9)
    config.data.scenes.update(train_count=4000, eval_count=256)
    return as_variant(config, variant)
