"""ViT image classifier: MAE's encoder and a linear head, for fine-tuning or a linear probe.

Fine-tuning trains all of it, a linear probe the head alone (MAE, arXiv 2111.06377, appendix A.1).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.family import Family, describe_vit
from segjax.models.layers import Linear
from segjax.models.mae import MaeEncoder, xavier
from segjax.models.sizes import build_from_size
from segjax.models.vit import check_canvas
from segjax.ops.pixels import normalize

POOLS = ("token", "mean")
_FEATURE_EPSILON = 1e-6  # added to the variance of a frozen encoder's features


class Classifier(nn.Module):
    """Image classifier: a ViT encoder and a linear head.

    `build_classifier` builds the sizes.

    Example:
      >>> model = build_classifier("vit_debug")
      >>> variables = init_classifier(model, jax.random.key(0))
      >>> model.apply(variables, jnp.zeros((2, 64, 64, 3), jnp.uint8)).shape
      (2, 5)

    Attributes:
      canvas: side of the square images in pixels.
      patch: side of a patch in pixels. It divides the canvas.
      width: channels of a token.
      depth: blocks of the encoder.
      heads: attention heads.
      classes: number of classes.
      pool: features are the class token after the final norm ("token"), or the mean of the patches'
        tokens with a norm of its own ("mean").
      head_std: standard deviation of the head's initial weights. In the paper 2e-5 for fine-tuning
        and 0.01 for a linear probe.
      frozen: linear probe. The encoder is in "constants": it has no gradient, decay or average.
        Beside it are the mean and the variance of its features, which standardize them (the
        paper's batch norm without affine parameters).
      epsilon: added to the variance in the LayerNorms.
      drop_path: drop path rate of the last block, see `ViT`.
      remat: rematerialization (gradient checkpointing), see `ViT`.
      scan: run equal blocks as one scan, see `ViT`.
      attention: implementation of the attention, see `segjax.models.attention.attention`.
      dtype: of the computation. Parameters, statistics of norms, softmax, features and logits stay
        float32.
    """

    canvas: int
    patch: int
    width: int
    depth: int
    heads: int
    classes: int = 1000
    pool: str = "token"
    head_std: float = 2e-5
    frozen: bool = False
    epsilon: float = 1e-6
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches (h, w)."""
        return (self.canvas // self.patch,) * 2

    def setup(self) -> None:
        """Builds encoder and head.

        Raises:
          ValueError: an unknown pool, or a canvas that the patch does not divide.
        """
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r} is unknown; choose one of {', '.join(POOLS)}")
        check_canvas(self.canvas, self.patch)
        shared = dict(epsilon=self.epsilon, dtype=self.dtype)
        trunk = shared | dict(
            depth=self.depth, heads=self.heads, drop_path=self.drop_path, kernel_init=xavier
        )
        trunk |= dict(remat=self.remat, scan=self.scan, impl=self.attention)
        options = shared | dict(
            trunk=trunk, width=self.width, patch=self.patch, learned_positions=True, pool=self.pool
        )
        # Head
        self.head = Linear(self.classes, kernel_init=nn.initializers.normal(self.head_std))
        if not self.frozen:
            self.encoder = MaeEncoder(**options)
            return

        # A frozen encoder is not a submodule: its arrays are constants.
        encoder = MaeEncoder(**options, parent=None)
        image = jnp.zeros((1, self.canvas, self.canvas, 3))
        arrays = self.variable(
            "constants", "encoder", lambda: encoder.init(self.make_rng("params"), image)["params"]
        )
        # Mean and variance of its features, which the task measures before training
        self.statistics = self.variable(
            "constants",
            "statistics",
            lambda: {"mean": jnp.zeros(self.width), "variance": jnp.ones(self.width)},
        )
        self.encoder = lambda images, train: encoder.apply({"params": arrays.value}, images)

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes pooled features of images, before any standardization.

        Args:
          images: RGB [B, canvas, canvas, 3] with values 0..255, uint8 or float.
          train: True applies drop path.

        Returns:
          float32 [B, width].
        """
        if images.shape[1:] != (self.canvas, self.canvas, 3):
            raise ValueError(
                f"images are {images.shape}; this classifier takes RGB [B, {self.canvas}, "
                f"{self.canvas}, 3]: resize them, or build it with another canvas (a multiple of "
                f"the patch, {self.patch})"
            )
        return self.encoder(normalize(images), train=train).astype(jnp.float32)

    def classify(self, features: jax.Array) -> jax.Array:
        """Maps features [B, width] to logits, float32 [B, classes]."""
        # Standardize the features of a frozen encoder
        if self.frozen:
            mean, variance = (self.statistics.value[name] for name in ("mean", "variance"))
            features = (features - mean) * jax.lax.rsqrt(variance + _FEATURE_EPSILON)
        return self.head(features)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes the logits of images, float32 [B, classes].

        Args:
          images: as for `features`.
          train: True applies drop path, which needs the rng "drop_path".
        """
        return self.classify(self.features(images, train=train))


SIZES = {
    # The encoders of mae_vit_b, mae_vit_l and mae_vit_h.
    "vit_b": dict(canvas=224, patch=16, width=768, depth=12, heads=12),
    "vit_l": dict(canvas=224, patch=16, width=1024, depth=24, heads=16),
    "vit_h": dict(canvas=224, patch=14, width=1280, depth=32, heads=16),
    # The encoders of mae_tiny and mae_debug, for the five shapes of the synthetic scenes.
    "vit_tiny": dict(canvas=128, patch=16, width=128, depth=4, heads=4, classes=5),
    "vit_debug": dict(canvas=64, patch=16, width=32, depth=2, heads=2, classes=5),
}


def build_classifier(name: str, **overrides: Any) -> Classifier:
    """Builds a classifier by name.

    Args:
      name: a key of `SIZES`.
      overrides: attributes of `Classifier` to replace. `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return build_from_size(Classifier, SIZES, name, overrides)


def init_classifier(model: Classifier, key: jax.Array) -> dict[str, Any]:
    """Draws fresh variables {"params", "constants"}. Traceable, see `jax.eval_shape`."""
    return {"constants": {}} | model.init(key, jnp.zeros((1, model.canvas, model.canvas, 3)))


def refuse_canvas(
    variables: Mapping[str, Any], stored: Classifier, model: Classifier
) -> Mapping[str, Any]:
    """Raises ValueError: a classifier's positions were trained together with the rest."""
    del variables, stored, model
    raise ValueError(
        "a classifier stays on the canvas that it was trained for; config.init_from='mae:PATH' "
        "brings a MAE's encoder to a classifier of any canvas"
    )


FAMILY = Family(
    title="ViT",
    module=Classifier,
    sizes=SIZES,
    build=build_classifier,
    init=init_classifier,
    task="classification",
    name_tables=("segjax.weights.tables.vit:VIT",),
    usage="`segjax eval` measures a classifier",
    describe_encoder=describe_vit,
    encoder=lambda model, variables: variables["constants" if model.frozen else "params"][
        "encoder"
    ],
    fit_canvas=refuse_canvas,
    recognize="segjax.inference.recognize:recognize_vit",
)
