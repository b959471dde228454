// Fused elementwise code over a space of (rows, cols), and reductions of what it computes:
//
//     for each row, for each column: values = code(operands); stores; sums, maxima, minima
//
// NumPy twin: gpugrad.backend.twin.Program, instruction "chain"
//
// The code itself is printed by gpugrad/backend/kernels/printer.py from the ops' own declarations,
// as a struct `Code` with its operands' pointers and steps, what is the same everywhere, and
//
//     real, WIDTH, Totals     the type computed in, elements a step, and the reductions so far
//     begin()                 computes what is the same for all elements
//     clear(totals)
//     step(row, col, count, totals)    `count` <= WIDTH neighbouring elements: loads, lines, stores
//     end_row(row, rows, totals)       writes reductions over columns
//     end(rows, cols, totals)          writes reductions over rows and over all
//
// Layout   every operand and store steps by a number of elements between rows and, unless it is 1,
//          one between columns; a step of 0 broadcasts. An operand may be the memory of a store,
//          place by place. WIDTH > 1 needs every place that steps by 1 aligned to WIDTH elements in
//          all rows.
// Grid     any; block (lanes, height), at most BLOCK_THREADS. A thread takes every
//          gridDim.x * lanes-th pack of WIDTH columns of every gridDim.y * height-th row. With
//          reductions lanes is a power of two and lanes * height is BLOCK_THREADS; over columns,
//          lanes <= 32; over rows, lanes <= 32 and gridDim.x * lanes * WIDTH >= cols.
// Bytes    every operand once, every store once; a reduction in `splits` parts writes and reads
//          2 * splits * count reals.
// Order    additions follow the launch geometry alone: the same bits on every run.

// What Code::end_row() and Code::end() do with a reduction: over columns, rows and all.

template <Kind KIND, typename T, typename To>
__device__ __forceinline__ void end_of_row(const Result<KIND, T, To>& result, T (&total)[1],
                                           index_t row) {
    const T whole = over_lanes<KIND>(total[0], blockDim.x / 2, 1);
    if (threadIdx.x == 0 && row < result.count) {
        result.put(blockIdx.x, gridDim.x, row, whole);
    }
    total[0] = nothing<KIND, T>();
}

template <int WIDTH, Kind KIND, typename T, typename To>
__device__ __forceinline__ void end_columns(const Result<KIND, T, To>& result, T (&total)[WIDTH]) {
    const index_t col = (index_t(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
    over_block<KIND>(total, blockDim.x);
    if (threadIdx.y == 0) {
        for (int k = 0; k < WIDTH; ++k) {
            if (col + k < result.count) result.put(blockIdx.y, gridDim.y, col + k, total[k]);
        }
    }
}

template <Kind KIND, typename T, typename To>
__device__ __forceinline__ void end_all(const Result<KIND, T, To>& result, T (&total)[1]) {
    over_block<KIND>(total, 1);
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        const index_t block = index_t(blockIdx.y) * gridDim.x + blockIdx.x;
        result.put(block, index_t(gridDim.x) * gridDim.y, 0, total[0]);
    }
}

// The part of the space that falls to column block `block` of `blocks`.
template <typename Code>
__device__ __forceinline__ void run_chain(Code& code, index_t rows, index_t cols, index_t block,
                                          index_t blocks) {
    const index_t row_step = index_t(gridDim.y) * blockDim.y;
    const index_t col_step = blocks * blockDim.x * Code::WIDTH;
    const index_t first_col = (block * blockDim.x + threadIdx.x) * Code::WIDTH;

    typename Code::Totals totals;
    code.clear(totals);
    if (rows > 0 && cols > 0) code.begin();  // it reads, and of nothing the address may be null
    // All threads of a block go round equally often: end_row() holds shuffles.
    for (index_t top = index_t(blockIdx.y) * blockDim.y; top < rows; top += row_step) {
        const index_t row = top + threadIdx.y;
        if (row < rows) {
            for (index_t col = first_col; col < cols; col += col_step) {
                const index_t left = cols - col;
                code.step(row, col, left < Code::WIDTH ? int(left) : Code::WIDTH, totals);
            }
        }
        code.end_row(row, rows, totals);
    }
    code.end(rows, cols, totals);
}
