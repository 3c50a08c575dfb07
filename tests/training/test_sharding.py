import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from segjax.training.sharding import check_batch_size, make_mesh, place_batch, state_shardings


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_mesh_has_both_axes_and_is_auto():
    mesh = make_mesh(fsdp=4)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert dict(make_mesh(data=2, fsdp=-1).shape) == {"data": 2, "fsdp": 4}


@pytest.mark.parametrize("data, fsdp", [(3, 1), (-1, 3), (2, 2), (-1, -1), (0, 8), (16, 1)])
def test_an_invalid_mesh_is_an_error_that_suggests_a_valid_one(data, fsdp):
    with pytest.raises(
        ValueError, match=r"8 devices.*For example mesh.data=(\d), mesh.fsdp=(\d)"
    ) as error:
        make_mesh(data, fsdp)
    words = str(error.value).replace(",", "").split()
    good = {w.split("=")[0]: int(w.split("=")[1]) for w in words[-2:]}
    assert make_mesh(good["mesh.data"], good["mesh.fsdp"]).size == 8


def test_the_largest_divisible_dimension_is_split_above_the_floor():
    mesh = make_mesh(fsdp=4)
    tree = {
        "a": shape(6, 512),
        "b": shape(512, 128),
        "small": shape(8, 8),
        "odd": shape(63, 65),
        "s": shape(),
    }
    specs = jax.tree.map(lambda s: s.spec, state_shardings(tree, mesh, floor=100))
    assert specs == {"a": P(None, "fsdp"), "b": P("fsdp"), "small": P(), "odd": P(), "s": P()}


def test_overrides_match_paths():
    mesh = make_mesh(fsdp=4)
    tree = {"decoder": {"kernel": shape(8, 512)}, "encoder": {"kernel": shape(8, 512)}}
    rules = [("^decoder/", (None, None)), ("kernel$", ["fsdp", None])]
    specs = jax.tree.map(lambda s: s.spec, state_shardings(tree, mesh, floor=1, overrides=rules))
    assert specs["decoder"]["kernel"] == P(None, None) and specs["encoder"]["kernel"] == P(
        "fsdp", None
    )


@pytest.mark.parametrize(
    "axes, message",
    [
        (("tensor", None), "'tensor'"),
        (("fsdp", None), "on 'fsdp'"),
        (("fsdp",), "one per dimension"),
    ],
)
def test_an_invalid_override_is_an_error_that_names_the_parameter(axes, message):
    with pytest.raises(
        ValueError, match=f"(?s)encoder/kernel.*{message}|{message}.*encoder/kernel"
    ):
        state_shardings(
            {"encoder": {"kernel": shape(6, 512)}}, make_mesh(fsdp=4), overrides=[("kernel", axes)]
        )


def test_too_many_unsharded_bytes_are_an_error_that_names_the_largest_arrays():
    tree = {"big": shape(63, 65), "small": shape(3), "split": shape(64, 64)}
    with pytest.raises(
        ValueError, match=r"50% of the state's bytes.*Largest: big \(63, 65\), 0.02 MiB; small"
    ):
        state_shardings(tree, make_mesh(fsdp=4), floor=100, unsharded_tolerance=0.1)
    state_shardings(
        tree, make_mesh(fsdp=1), floor=100, unsharded_tolerance=0.1
    )  # nobody asked for sharding


def test_place_batch_splits_rows_over_all_devices_and_leaves_out_index():
    mesh = make_mesh(data=2, fsdp=4)
    rows = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    placed = place_batch({"image": rows, "index": np.arange(16)}, mesh)
    assert set(placed) == {"image"} and placed["image"].dtype == np.uint8
    assert {s.data.shape for s in placed["image"].addressable_shards} == {(2, 3)}
    assert len({s.index[0].start for s in placed["image"].addressable_shards}) == 8
    np.testing.assert_array_equal(placed["image"], rows)


@pytest.mark.parametrize(
    "size, microbatches, message",
    [
        (
            20,
            2,
            "batch_size 20 does not divide over 8 devices x 2 microbatches; expected a multiple of "
            "16: 16 or 32",
        ),
        (
            20,
            1,
            "batch_size 20 does not divide over 8 devices x 1 microbatch; expected a multiple of "
            "8: 16 or 24",
        ),
        (7, 4, "batch_size 7 .* expected a multiple of 32: 32 is the smallest"),
    ],
)
def test_an_invalid_batch_size_is_an_error_that_names_the_nearest_valid_ones(
    size, microbatches, message
):
    with pytest.raises(ValueError, match=message):
        check_batch_size(size, microbatches, make_mesh())
    sizes = message.rsplit(": ", 1)[1].replace(" is the smallest", "").split(" or ")
    for better in map(int, sizes):
        check_batch_size(better, microbatches, make_mesh())
