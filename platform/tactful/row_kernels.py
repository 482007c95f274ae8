"""The compiled forms of what is written to become machine code: of rows, cells, ids, features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba import types

from tactful import cell_code, feature_code, id_code, row_code
from tactful.machine_code import Kernel, array, compiled, for_c


@dataclass(frozen=True)
class RowKernels:
    """Called as the functions of the same names of the modules ending in ``_code``.

    But for `search` and `products_of_rows`, which are functions of C, called by other machine code.
    """

    sums: Kernel
    neighbour_sums: Kernel
    beside: Kernel
    around: Kernel
    best: Kernel
    largest: Kernel
    merge: Kernel
    look_up: Kernel
    look_up_places: Kernel
    of_items: Kernel
    of_person: Kernel
    of_visit: Kernel
    of_everybody: Kernel
    nearest: Kernel
    products: Kernel
    search: Any
    products_of_rows: Any
    rows_of: Kernel
    texts_of: Kernel


def row_kernels(cache: Path | None) -> RowKernels:
    """Load the kernels, which takes a while, or compile them, which takes several seconds.

    Args:
        cache: directory that keeps the machine code where numba has no place of its own: packages
            may lie in a directory that nobody may write to, and their user may have no home.
    """

    def made(function: Kernel, *signature: Any) -> Kernel:
        return compiled(function, signature, None, cache)

    rows, items, floats = (array(kind) for kind in (types.int64, types.int32, types.float32))
    tuples: Any = types.UniTuple
    numbers, doubles = array(types.int8), array(types.float64)
    neighbours = array(types.int32, 2), array(types.float32, 2)
    found = array(types.float32, written=True)
    table = array(types.float32, 2, written=True)
    return RowKernels(
        sums=made(row_code.sums, rows, doubles),
        neighbour_sums=made(row_code.neighbour_sums, *neighbours, rows, floats),
        beside=made(row_code.beside, rows, items, items, items, types.int64, types.int64),
        around=made(
            row_code.around,
            *(*neighbours, *neighbours, rows, items, rows, items, items),
            *(rows, types.int64, floats, floats, types.float64, array(types.boolean), rows),
        ),
        best=made(row_code.best.py_func, floats),
        largest=made(row_code.largest, rows, floats, types.int64),
        merge=made(row_code.merge, rows, rows, numbers, types.int64),
        look_up=made(row_code.look_up, rows, rows, floats, rows, floats, rows, table),
        look_up_places=made(row_code.look_up_places, rows, rows, floats, found),
        of_items=made(
            row_code.of_items,
            *(rows, floats, items, array(types.float32, 2)),
            *(types.int64, types.float32, rows, table),
        ),
        of_person=made(
            feature_code.of_person,
            *(rows, rows, doubles, tuples(types.int64, 4), types.float64, types.float64),
            *(types.int64, tuples(types.float64, 5), rows, table),
        ),
        of_visit=made(feature_code.of_visit, rows, types.int64, floats, items, found),
        of_everybody=made(
            feature_code.of_everybody, array(types.float64, 2), doubles, rows, rows, table
        ),
        nearest=made(
            cell_code.nearest,
            *(floats, types.int64, types.int64, types.int64),
            *(rows, rows, rows, array(types.uint8)),
        ),
        products=made(
            cell_code.products, array(types.float32, 2), array(types.float32, 2), rows, table
        ),
        search=for_c(cell_code.search, None, cache),
        products_of_rows=for_c(cell_code.products_of_rows, None, cache),
        rows_of=made(
            id_code.rows_of,
            *(array(types.uint8), array(types.uint64), array(types.uint8), rows),
            *(array(types.uint64), items, types.int64),
        ),
        texts_of=made(id_code.texts_of, rows, array(types.uint8), rows, types.int64),
    )
