"""Where a mask is set, as a list of indices: the plain loop, and one instruction."""

# mypy: disable-error-code="no-untyped-call,no-untyped-def,misc,call-arg,import-untyped"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from mergekit_pcb.kernel.numba_compile import compiled

_WIDTH = 16


def _compact_plain(mask: Any, size: int, indices: Any) -> int:
    count = 0
    for j in range(size):
        # A branch would be guessed wrong too often.
        indices[count] = j
        count += mask[j] < 0
    return count


def _compact_vectors(mask: Any, size: int, indices: Any) -> int:
    mask[size : (size + _WIDTH - 1) // _WIDTH * _WIDTH] = 0
    count = 0
    for start in range(0, size, _WIDTH):
        count = _compact_vector(mask, start, indices, count)
    return count


@intrinsic
def _compact_vector(context, mask, start, indices, count):
    """Append `start + k` for each k < 16 where the mask is negative; the new count.

    With the compress instruction of AVX-512. It is used on registers, and the whole
    vector is stored: some processors take very long to compress into memory.
    """

    def generate(context, builder, signature, arguments):
        _, start, _, count = arguments
        vector = ir.VectorType(ir.IntType(32), _WIDTH)
        bits = ir.VectorType(ir.IntType(1), _WIDTH)
        zeros = ir.Constant(vector, [0] * _WIDTH)

        def place(k, index):
            kind = signature.args[k]
            data = context.make_array(kind)(context, builder, arguments[k]).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        loaded = builder.load(place(0, start), align=4)
        wanted = builder.icmp_signed("<", loaded, zeros)
        first = builder.insert_element(
            zeros, builder.trunc(start, vector.element), ir.Constant(vector.element, 0)
        )
        everywhere = builder.shuffle_vector(first, zeros, zeros)
        lanes = builder.add(everywhere, ir.Constant(vector, list(range(_WIDTH))))
        compress = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector, vector, bits]),
            "llvm.x86.avx512.mask.compress.v16i32",
        )
        builder.store(
            builder.call(compress, [lanes, zeros, wanted]), place(2, count), align=4
        )
        number = builder.ctpop(builder.bitcast(wanted, ir.IntType(_WIDTH)))
        return builder.add(count, builder.zext(number, count.type))

    return types.int64(mask, types.int64, indices, types.int64), generate


# Whether the code is compiled for such a processor.
HAS_COMPRESS = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]

compact = compiled(_compact_vectors if HAS_COMPRESS else _compact_plain)
"""Fill int32 `indices` with the places among the first `size` of an int32 mask where it
is negative, ascending; returns how many. Both have 64 places more, which may change."""
