"""PerSAM-F: two numbers that mix SAM's three masks, learned from one example (arXiv 2305.03048)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

STEPS, RATE, EPSILON, DECAY = 1000, 1e-3, 1e-4, 0.01  # of AdamW, as published
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss


def learn_mask_weights(logits: np.ndarray, truth: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Learns how to mix the whole, the part and the subpart that one click may mean.

    Example:
      >>> truth = np.arange(8) < 4
      >>> logits = np.where([truth, ~truth, ~truth], 3.0, -3.0)[:, None]
      >>> bool(learn_mask_weights(logits, truth[None]).argmax() == 0)
      True

    Args:
      logits: float [3, H, W], of the three masks at the image's size.
      truth: bool [H, W].
      steps: steps of AdamW with a cosine schedule, on the sum of dice and focal loss.

    Returns:
      float32 [3], which add up to 1. They begin with a third each.
    """
    learned = _optimize(
        jnp.asarray(logits, jnp.float32).reshape(3, -1),
        jnp.asarray(truth, jnp.float32).reshape(-1),
        steps,
    )
    return np.asarray(_complete(learned))


def _complete(pair: jax.Array) -> jax.Array:
    """Returns all three weights of the two that are learned."""
    return jnp.concatenate([1 - pair.sum(keepdims=True), pair])


def compute_loss(logits: jax.Array, truth: jax.Array) -> jax.Array:
    """Computes dice loss (smoothed by 1) plus the mean focal loss of logits [N]."""
    p = jax.nn.sigmoid(logits)
    dice = 1 - (2 * jnp.sum(p * truth) + 1) / (jnp.sum(p) + jnp.sum(truth) + 1)
    right = p * truth + (1 - p) * (1 - truth)
    entropy = -jax.nn.log_sigmoid(jnp.where(truth > 0, logits, -logits))
    alpha = _ALPHA * truth + (1 - _ALPHA) * (1 - truth)
    return dice + jnp.mean(alpha * entropy * (1 - right) ** _GAMMA)


@functools.partial(jax.jit, static_argnums=2)
def _optimize(logits: jax.Array, truth: jax.Array, steps: int) -> jax.Array:
    import optax

    schedule = optax.cosine_decay_schedule(RATE, steps)
    optimizer = optax.adamw(schedule, eps=EPSILON, weight_decay=DECAY)
    loss = lambda pair: compute_loss(_complete(pair) @ logits, truth)

    def step(_, carry):
        pair, state = carry
        updates, state = optimizer.update(jax.grad(loss)(pair), state, pair)
        return optax.apply_updates(pair, updates), state

    pair = jnp.full(2, 1 / 3)
    return jax.lax.fori_loop(0, steps, step, (pair, optimizer.init(pair)))[0]
