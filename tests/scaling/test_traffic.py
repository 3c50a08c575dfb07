"""Exchanges and memory traffic of a small program's text, worked out by hand."""

import pathlib

import pytest

from segjax.scaling.hlo_text import count_bytes
from segjax.scaling.traffic import Amount, Collective, read_traffic

# As the compiler for TPUs writes it, shortened: a loop of 12 iterations gathers weights and
# scatters a gradient (in a fusion called all-reduce-scatter). One sum over all chips follows. S(1)
# is the chip's fast memory.
PROGRAM = (pathlib.Path(__file__).parent / "program.txt").read_text()


def test_exchanges_are_counted_as_often_as_they_run():
    assert read_traffic(PROGRAM, chips=8).collectives == {
        Collective("all-gather", "bf16", 4): Amount(12, 12 * 64 * 32 * 2),
        Collective("reduce-scatter", "f32", 4): Amount(12, 12 * 64 * 32 * 4),
        Collective("all-reduce", "f32", 8): Amount(1, 12 * 16 * 32 * 4),
    }


def test_exchanges_between_slices_are_recognized():
    """With two slices of four chips only the sum over all chips leaves a slice."""
    crossing = {
        collective.kind: collective.crosses
        for collective in read_traffic(PROGRAM, chips=8, slices=2).collectives
    }
    assert crossing == {"all-gather": False, "reduce-scatter": False, "all-reduce": True}


def test_exchanges_of_hosts_between_slices_count():
    """In a sum over two slices each chip hands 5 x 8 x 128 numbers to its host."""
    hosts = 'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
    hosts += '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    sent = "(bf16[5,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[])"
    text = PROGRAM.replace(
        "  ROOT %total",
        f"  %some = {sent} send(%out, %token), channel_id=4, is_host_transfer=true, {hosts}\n"
        "  %done = token[] send-done(%some), channel_id=4, is_host_transfer=true, "
        f"{hosts}\n  ROOT %total",
    )
    collectives = read_traffic(text, chips=8, slices=2).collectives
    between = Collective("all-reduce", "bf16", 2, crosses=True)
    assert collectives[between] == Amount(1, 5 * 8 * 128 * 2)
    assert between.bytes_sent(collectives[between].bytes) == 5 * 8 * 128 * 2


def test_slices_and_updates_move_only_their_own_bytes():
    """Counts one iteration and the final sum.

    An iteration reads a slice of the weights (its result is in fast memory), writes the whole
    weights as float32, reads them and writes the scattered part, reads that and updates as much.
    The sum reads and writes everything once.
    """
    part, whole, everything = 16 * 32, 64 * 32, 12 * 16 * 32
    counter = 4  # the number of the iteration, read by both fusions
    iteration = 2 * part + counter + 4 * whole + 4 * (whole + part) + 4 * (part + part) + counter
    assert read_traffic(PROGRAM, chips=8).memory_bytes == 12 * iteration + 4 * 2 * everything


# A kernel as jax 0.10.2 writes it, shortened. Its attributes span three lines, the last of which
# begins with }}.
KERNEL = """
ENTRY %main (q: bf16[2,256,64], k: bf16[2,256,64]) -> bf16[2,256,64] {
  %q = bf16[2,256,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[2,256,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %both.1 = (f32[256,128]{1,0:T(8,128)}, bf16[2,256,64]{2,1,0:T(8,128)(2,1)}) custom-call(%q, %k, /*index=2*/%q), custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[2,256,64]{2,1,0}, bf16[2,256,64]{2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256, \\"block_kv\\": 256}"
}}, metadata={op_name="jit(f)/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzvUg==","has_communication":false}}
  %out = bf16[2,256,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%both.1), index=1, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256, \\"block_kv\\": 256}"
}}, metadata={op_name="jit(f)/pallas_call"}
  ROOT %copy.1 = bf16[2,256,64]{2,1,0:T(8,128)(2,1)} copy(%out)
}
"""  # noqa: E501


def test_a_kernel_reads_its_operands_and_writes_its_results():
    """Two operands and two results are in the main memory, and one operand in the fast memory."""
    array, scratch = 2 * 256 * 64 * 2, 256 * 128 * 4
    assert read_traffic(KERNEL, chips=1).memory_bytes == 2 * array + array + scratch + 2 * array


@pytest.mark.parametrize(
    "kind, sent",
    [("all-gather", 75), ("reduce-scatter", 75), ("all-reduce", 150), ("collective-permute", 100)],
)
def test_bytes_sent_around_a_ring_of_four(kind, sent):
    assert Collective(kind, "f32", 4).bytes_sent(100) == sent


@pytest.mark.parametrize(
    "written, groups",
    [
        ("replica_groups={{0,2},{1,3}}", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("source_target_pairs={{0,1},{1,0}}", 2),
        ("", 8),
    ],
)
def test_groups_in_every_notation(written, groups):
    line = f"  ROOT %r = f32[8]{{0}} all-to-all(%x), channel_id=1, {written}\n"
    text = f"ENTRY %main (x: f32[8]) -> f32[8] {{\n  %x = f32[8]{{0}} parameter(0)\n{line}}}\n"
    (collective,) = read_traffic(text, chips=8).collectives
    assert collective.group == groups


def test_bytes_of_types():
    type_ = "(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:T(8)S(1)}, u32[]{:S(2)}, pred[8]{0})"
    assert count_bytes(type_) == 24 + 8 + 4 + 8 and count_bytes(type_, in_memory=True) == 24 + 8


# An iteration of a scan over 24 blocks. A fusion multiplies with the weights of one block, which an
# inner fusion slices out of all. The optimizer then reads the gradient of one block, by a slice at
# a fixed index.
NESTED = """HloModule nested

%slicing (all: f32[24,8,16], place: s32[]) -> bf16[8,16] {
  %all = f32[24,8,16]{2,1,0:T(8,128)} parameter(0)
  %place = s32[]{:T(128)} parameter(1)
  %one = f32[1,8,16]{2,1,0:T(8,128)} dynamic-slice(%all, %place), dynamic_slice_sizes={1,8,16}
  %flat = f32[8,16]{1,0:T(8,128)} bitcast(%one)
  ROOT %half = bf16[8,16]{1,0:T(8,128)(2,1)} convert(%flat)
}

%product (rows: bf16[4,8], whole: f32[24,8,16], turn: s32[]) -> bf16[4,16] {
  %rows = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %whole = f32[24,8,16]{2,1,0:T(8,128)} parameter(1)
  %turn = s32[]{:T(128)} parameter(2)
  %weights = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%whole, %turn), kind=kLoop, calls=%slicing
  ROOT %out = bf16[4,16]{1,0:T(8,128)(2,1)} convolution(%rows, %weights), dim_labels=bf_io->bf
}

%update (gradients: f32[24,8,16], old: f32[8,16]) -> f32[8,16] {
  %gradients = f32[24,8,16]{2,1,0:T(8,128)} parameter(0)
  %old = f32[8,16]{1,0:T(8,128)} parameter(1)
  %third = f32[1,8,16]{2,1,0:T(8,128)} slice(%gradients), slice={[2:3], [0:8], [0:16]}
  %its = f32[8,16]{1,0:T(8,128)} bitcast(%third)
  ROOT %new = f32[8,16]{1,0:T(8,128)} add(%its, %old)
}

ENTRY %main (x: bf16[4,8], w: f32[24,8,16], i: s32[], g: f32[24,8,16], p: f32[8,16]) -> (bf16[4,16], f32[8,16]) {
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %w = f32[24,8,16]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  %g = f32[24,8,16]{2,1,0:T(8,128)} parameter(3)
  %p = f32[8,16]{1,0:T(8,128)} parameter(4)
  %y = bf16[4,16]{1,0:T(8,128)(2,1)} fusion(%x, %w, %i), kind=kOutput, calls=%product
  %q = f32[8,16]{1,0:T(8,128)} fusion(%g, %p), kind=kLoop, calls=%update
  ROOT %both = (bf16[4,16]{1,0:T(8,128)(2,1)}, f32[8,16]{1,0:T(8,128)}) tuple(%y, %q)
}
"""  # noqa: E501


def test_a_slice_inside_of_nested_fusions_reads_no_more_than_itself():
    block = 4 * 8 * 16
    product = (
        2 * 4 * 8 + block + 4 + 2 * 4 * 16
    )  # rows, one block's weights, the iteration's number, the result
    update = block + block + block  # one block's gradient, the old and the new parameters
    assert read_traffic(NESTED, chips=1).memory_bytes == product + update
