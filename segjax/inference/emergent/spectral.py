"""Second eigenvector of a graph's normalized Laplacian, which cuts the graph in two."""

import functools

import jax
import jax.numpy as jnp

# Up to this number of nodes a dense eigensolver is fast enough.
_DENSE_NODES = 1024
_LANCZOS_STEPS = 96


@functools.partial(jax.jit, static_argnames=("dense",))
def second_eigenvector(
    affinity: jax.Array, active: jax.Array | None = None, *, dense: bool | None = None
) -> tuple[jax.Array, jax.Array]:
    """Solves (D - W) x = value * D x for the second smallest value (normalized cut).

    In the symmetric form, I - D^-1/2 W D^-1/2, the smallest eigenvector is known: it is
    proportional to D^1/2, with value 0. It is moved out of the way, so that the second one is the
    smallest, also where a graph in several parts has the value 0 more than once.

    Example:
      >>> two_parts = jnp.kron(jnp.eye(2), jnp.ones((3, 3)))
      >>> x, value = second_eigenvector(two_parts)
      >>> bool(jnp.all((x[:3] > 0) != (x[3:] > 0))), round(float(value), 5)
      (True, 0.0)

    Args:
      affinity: W, float32 [n, n], symmetric, not negative.
      active: bool [n], nodes that take part. None: all.
      dense: use the dense eigensolver instead of Lanczos' method. None: up to 1024 nodes.

    Returns:
      x: float32 [n], 0 for nodes that do not take part. The sign is arbitrary.
      value: float32 [], the eigenvalue, 0..2.
    """
    nodes = len(affinity)
    active = jnp.ones(nodes, bool) if active is None else active
    weights = jnp.where(active[:, None] & active, affinity, 0).astype(jnp.float32)
    degree = weights.sum(axis=1)
    # Isolated nodes are parts of their own
    degree = jnp.where(active & (degree > 0), degree, 1.0)
    root = jnp.sqrt(degree) * active
    first = root / jnp.maximum(jnp.linalg.norm(root), 1e-12)
    scaled = weights / jnp.sqrt(degree[:, None] * degree)
    if (nodes <= _DENSE_NODES) if dense is None else dense:
        # Nodes that do not take part, and the first eigenvector, get the largest value, 2
        laplacian = jnp.diag(jnp.where(active, 1.0, 2.0)) - scaled + 2 * jnp.outer(first, first)
        values, vectors = jnp.linalg.eigh(laplacian)
        value, vector = values[0], vectors[:, 0]
    else:
        value, vector = _run_lanczos(scaled, first, active)
    return jnp.where(active, vector / jnp.sqrt(degree), 0.0), value


def _run_lanczos(
    scaled: jax.Array, first: jax.Array, active: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Finds the largest eigenvector of I + D^-1/2 W D^-1/2 that is orthogonal to the first.

    Lanczos' method with full orthogonalization, from a ramp over the nodes, so that the result is
    the same in every run. Its error falls with the square root of the gap between eigenvalues, that
    of power iteration with the gap.

    Returns:
      The value of the Laplacian, and the vector [n].
    """
    nodes = len(scaled)
    steps = min(_LANCZOS_STEPS, nodes)
    ramp = jnp.where(active, jnp.linspace(-1.0, 1.0, nodes), 0.0)

    def remove(vector, basis):
        """Makes a vector orthogonal to the first eigenvector and the basis, twice for float32."""
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
            vector = vector - first * (first @ vector)
        return vector

    def step(index, carry):
        basis, vector, diagonal, off = carry
        basis = basis.at[index].set(vector)
        image = jnp.where(active, vector, 0) + scaled @ vector
        diagonal = diagonal.at[index].set(vector @ image)
        image = remove(image, basis)
        length = jnp.linalg.norm(image)
        # The space is exhausted: all further vectors are 0, with the value 0
        vector = jnp.where(length > 1e-5, image / jnp.maximum(length, 1e-30), 0.0)
        off = off.at[index].set(jnp.where(length > 1e-5, length, 0.0))
        return basis, vector, diagonal, off

    basis = jnp.zeros((steps, nodes))
    start = remove(ramp, basis)
    start = start / jnp.maximum(jnp.linalg.norm(start), 1e-12)
    carry = (basis, start, jnp.zeros(steps), jnp.zeros(steps))
    basis, _, diagonal, off = jax.lax.fori_loop(0, steps, step, carry)
    small = jnp.diag(diagonal) + jnp.diag(off[:-1], 1) + jnp.diag(off[:-1], -1)
    values, vectors = jnp.linalg.eigh(small)
    return 2.0 - values[-1], vectors[:, -1] @ basis
