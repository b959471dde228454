"""Prints fused elementwise code as CUDA text: the struct `Code` that kernels/cuda/chain.cuh runs.

Sizes and steps are arguments of the kernels, so one text serves all shapes of one code: it depends
on how each operand is stepped through and on the constants. Imports launch only.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpugrad.backend.launch import kernel_source

FILES = ("ops.cuh", "reduce.cuh", "chain.cuh")
TYPES = {
    "b1": "bool",
    "i1": "signed char",
    "i2": "short",
    "i4": "int",
    "i8": "long long",
    "u1": "unsigned char",
    "u2": "unsigned short",
    "u4": "unsigned",
    "u8": "unsigned long long",
    "f2": "f16",
    "B2": "bf16",  # bfloat16, which NumPy has no name for
    "f4": "float",
    "f8": "double",
}

# How a place is stepped through: one element; one a row; neighbours; some way between columns. One
# in registers is handed to the code by what runs it.
ONE, ROW, LINE, STRIDED, REGISTERS = range(5)

# A kernel's parameters may take 4096 bytes before CUDA 12.1 and sm_70.
PARAMETER_BYTES = 4096


class Place(NamedTuple):
    """An operand or a store: its dtype and how it is stepped through."""

    code: str
    how: int

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that are arguments."""
        return ((), ("row",), ("row",), ("row", "col"), ())[self.how]

    @property
    def itemsize(self) -> int:
        return int(self.code[1:])


class Total(NamedTuple):
    """A reduction; ``axis`` is what it runs over."""

    kind: str  # sum, max, min
    axis: str  # rows, cols, all
    value: int
    code: str
    accumulate: bool


class Code(NamedTuple):
    """All that a text depends on. Values are numbered: operands, then constants, then lines."""

    dtype: str
    width: int
    operands: tuple[Place, ...]
    constants: tuple[str, ...]  # as `literal` prints them
    lines: tuple[tuple[str, int, int, int], ...]
    stores: tuple[tuple[int, Place], ...]
    totals: tuple[Total, ...] = ()


def literal(value: float, dtype: str) -> str:
    """``value``, rounded to ``dtype``, as C++ of the same bits."""
    if dtype == "i8":
        return f"{int(value)}LL"
    single = dtype == "f4"
    with np.errstate(over="ignore"):
        x = float(np.float32(value)) if single else float(value)
    if np.isfinite(x):
        return x.hex() + "f" * single
    high = (0x7FC00000, 0x7F800000) if single else (0x7FF8 << 48, 0x7FF0 << 48)
    bits = high[0] if np.isnan(x) else high[1]
    name, suffix = ("__int_as_float", "") if single else ("__longlong_as_double", "LL")
    return f"{'-' * (x < 0)}{name}({bits:#x}{suffix})"


@lru_cache(maxsize=4096)
def chain_text(code: Code) -> str:
    """Kernels ``chain`` and, where something is reduced, ``chain_fold``.

    ``chain`` takes, for each operand and then each store, its pointer and `Place.steps`; for each
    total its pointer, its step, where the partial results go, and the scale; then rows and cols.
    ``chain_fold`` takes the same of each total, its count and its splits; blockIdx.y picks one.
    """
    parameters = code_parameters(code)
    text = f"""{kernel_source(*FILES)}{code_struct(code)}
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    chain({", ".join([*parameters, "index_t rows", "index_t cols"])}) {{
    Code code = {{{code_arguments(parameters)}}};
    run_chain(code, rows, cols, blockIdx.x, gridDim.x);
}}
GG_EXPORT(chain)
"""
    return text + fold_text(code, "chain_fold")


def code_parameters(code: Code) -> list[str]:
    """What a kernel that runs the code takes, and the struct holds."""
    places = [(p, f"const {TYPES[p.code]}* in{i}") for i, p in enumerate(code.operands)]
    places += [(p, f"{TYPES[p.code]}* out{i}") for i, (_, p) in enumerate(code.stores)]
    parameters = []
    for place, pointer in places:
        if place.how != REGISTERS:
            name = pointer.rpartition(" ")[2]
            parameters += [pointer, *[f"index_t {name}_{step}" for step in place.steps]]
    for i, total in enumerate(code.totals):
        parameters += _total_parameters(total, i)
    return parameters


def code_arguments(parameters: Sequence[str]) -> str:
    return ", ".join(parameter.rpartition(" ")[2] for parameter in parameters)


def fold_text(code: Code, name: str) -> str:
    """The kernel that folds the parts of totals, if there are any. blockIdx.y picks one."""
    if not code.totals:
        return ""
    parameters: list[str] = []
    folds = ""
    for i, total in enumerate(code.totals):
        parameters += [*_total_parameters(total, i), f"index_t count{i}", f"index_t splits{i}"]
        folds += f"    if (blockIdx.y == {i} && splits{i} > 1) {{\n"
        folds += f"        {_result(total, i, f'count{i}')}.fold(splits{i});\n    }}\n"
    return f"""
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) {name}({", ".join(parameters)}) {{
{folds}}}
GG_EXPORT({name})
"""


def group_instances(pointers: int) -> int:
    """How many instances of a code with so many operands and stores one launch can take."""
    return (PARAMETER_BYTES - 64) // (8 * pointers + 12) // 2 * 2


@lru_cache(maxsize=1024)
def group_text(code: Code) -> str:
    """Kernel ``chain_group``, which takes one struct `Group` (`group_dtype`) by value."""
    pointers = [(p, f"const {TYPES[p.code]}*", f"in{i}") for i, p in enumerate(code.operands)]
    pointers += [(p, f"{TYPES[p.code]}*", f"out{i}") for i, (_, p) in enumerate(code.stores)]
    members, values = "", []
    for number, (place, kind, name) in enumerate(pointers):
        members += f"    {kind} {name};\n"
        values.append(f"reinterpret_cast<{kind}>(group.at[i][{number}])")
        for step in place.steps:
            members += f"    index_t {name}_{step};\n"
            values.append("0")
    count = group_instances(len(pointers))
    return f"""{kernel_source(*FILES)}{code_struct(code, members)}
// Blocks first[i] up to first[i + 1] work on instance i.
struct Group {{
    unsigned long long at[{count}][{len(pointers)}];
    index_t size[{count}];
    unsigned first[{count} + 2];
}};

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) chain_group(const Group group) {{
    int i = 0;
    for (int end = {count}; end - i > 1;) {{
        const int middle = (i + end) / 2;
        if (group.first[middle] <= blockIdx.x) {{
            i = middle;
        }} else {{
            end = middle;
        }}
    }}
    Code code = {{{", ".join(values)}}};
    const unsigned first = group.first[i];
    run_chain(code, 1, group.size[i], blockIdx.x - first, group.first[i + 1] - first);
}}
GG_EXPORT(chain_group)
"""


def group_dtype(pointers: int) -> np.dtype[np.void]:
    """The struct `Group` of `group_text`."""
    count = group_instances(pointers)
    fields = [("at", "u8", (count, pointers)), ("size", "i8", count), ("first", "u4", count + 2)]
    return np.dtype(fields)


# ---- the struct ----------------------------------------------------------------------------------


def _total_parameters(total: Total, i: int) -> list[str]:
    pointers = [f"{TYPES[total.code]}* total{i}", f"real* partial{i}"]
    return [pointers[0], f"index_t step{i}", pointers[1], f"double scale{i}"]


def _result(total: Total, i: int, count: str) -> str:
    kind = f"Result<{total.kind.upper()}, real, {TYPES[total.code]}>"
    more = "true" if total.accumulate else "false"
    return f"{kind}{{total{i}, step{i}, partial{i}, {count}, real(scale{i}), {more}}}"


def code_struct(code: Code, members: str | None = None) -> str:
    """The struct `Code`, whose first members are ``members``, by default `code_parameters`."""
    if members is None:
        members = "".join(f"    {parameter};\n" for parameter in code_parameters(code))
    inputs, constants = len(code.operands), len(code.constants)
    names = [f"v{i}" for i in range(inputs + constants + len(code.lines))]
    names[inputs : inputs + constants] = code.constants
    # Where each value is the same: everywhere, along its row, or nowhere.
    level = [min(place.how, LINE) for place in code.operands] + [ONE] * constants
    used = {value for value, _ in code.stores} | {total.value for total in code.totals}
    for i in reversed(range(len(code.lines))):
        if inputs + constants + i in used:
            used.update(_arguments(code.lines[i]))
    part: tuple[list[str], ...] = ([], [], [])  # statements by level
    loads: list[str] = []
    for i, place in enumerate(code.operands):
        if i not in used:
            continue  # one in registers is an argument already
        at = f"in{i} + row * in{i}_row"
        if place.how == LINE:
            loads.append(f"const auto x{i} = load_line<WIDTH>({at} + col, count);")
        elif place.how == STRIDED:
            at += f" + col * in{i}_col"
            loads.append(f"const auto x{i} = load_some<WIDTH>({at}, in{i}_col, count);")
        read = (f"*in{i}", f"in{i}[row * in{i}_row]", f"x{i}.at[k]")[level[i]]
        part[level[i]].append(f"v{i} = real({read});")
    for i, line in enumerate(code.lines, start=inputs + constants):
        level.append(max(level[a] for a in _arguments(line)))
        if i in used:
            arguments = ", ".join(names[a] for a in _arguments(line))
            part[level[i]].append(f"v{i} = op_{line[0]}({arguments});")
    same = [statement.partition(" ")[0] for statement in part[ONE]]

    each, after = [f"const real {s}" for s in part[LINE]], []
    for i, (value, place) in enumerate(code.stores):
        cast = TYPES[place.code]
        loads.append(f"pack<{cast}, WIDTH> y{i};")
        each.append(f"y{i}.at[k] = static_cast<{cast}>({names[value]});")
        to = f"out{i} + row * out{i}_row"
        if place.how == STRIDED:
            after.append(f"store_some({to} + col * out{i}_col, out{i}_col, y{i}, count);")
        else:
            after.append(f"store_line({to} + col, y{i}, count);")
    registers = [i for i, place in enumerate(code.operands) if place.how == REGISTERS]
    given = "".join(f", const pack<real, WIDTH>& x{i}" for i in registers)
    clear, end_row, end = [], [], []
    for i, total in enumerate(code.totals):
        kind, k = total.kind.upper(), "k" if total.axis == "rows" else "0"
        clear.append(f"for (real& x : totals.t{i}) x = nothing<{kind}, real>();")
        place_k = f"totals.t{i}[{k}]"
        each.append(f"if (k < count) {place_k} = joined<{kind}>({place_k}, {names[total.value]});")
        if registers:
            of = f"[](auto& t, int k) {{ return t[k / WIDTH].t{i}[k % WIDTH]; }}"
            result = _result(total, i, "cols")
            end.append(f"end_tile({result}, first_col, split, splits, totals, {of});")
        elif total.axis == "cols":
            end_row.append(f"end_of_row({_result(total, i, 'rows')}, totals.t{i}, row);")
        elif total.axis == "rows":
            end.append(f"end_columns({_result(total, i, 'cols')}, totals.t{i});")
        else:
            end.append(f"end_all({_result(total, i, '1')}, totals.t{i});")
    sizes = [("WIDTH" if total.axis == "rows" else "1") for total in code.totals]
    fields = "".join(f"        real t{i}[{size}];\n" for i, size in enumerate(sizes))
    method = "    __device__ __forceinline__ void"
    if registers:
        taken = "index_t first_col, index_t split, index_t splits, index_t cols, All& totals"
        ends = f"    template <typename All>\n{method} end({taken}) const {{{_block(end)}}}\n"
    else:
        taken = "index_t rows, index_t cols, Totals& totals"
        ends = f"{method} end_row(index_t row, index_t rows, Totals& totals) const {{"
        ends += f"{_block(end_row)}}}\n\n{method} end({taken}) const {{{_block(end)}}}\n"
    of_row = [f"const real {s}" for s in part[ROW]]
    return f"""#line 1 "code.cu"
typedef {TYPES[code.dtype]} real;

struct Code {{
    static constexpr int WIDTH = {code.width};
{members}{"".join(f"    real {name};{chr(10)}" for name in same)}
    struct Totals {{
{fields}    }};

{method} begin() {{{_block(part[ONE])}}}

{method} clear(Totals& totals) const {{{_block(clear)}}}

{method} step(index_t row, index_t col, int count, Totals& totals{given}) const {{
        {_lines([*of_row, *loads], 8)}
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {{
            {_lines(each, 12)}
        }}
        {_lines(after, 8)}
    }}

{ends}}};
"""


def _arguments(line: tuple[str, int, int, int]) -> list[int]:
    return [a for a in line[1:] if a >= 0]


def _lines(statements: Sequence[str], indent: int) -> str:
    return ("\n" + " " * indent).join(statements)


def _block(statements: Sequence[str]) -> str:
    return f"\n        {_lines(statements, 8)}\n    " if statements else ""
