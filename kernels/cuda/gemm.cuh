// A matrix product with fused elementwise code behind it, and sums over rows of what that computes:
//
//     acc = a @ b        (m, n), of a (m, k) and b (k, n), sums in float
//     values = code(acc, operands); stores; sums, maxima, minima over rows
//
// linear + activation is one: y = act(x @ w.T + bias); so is a gradient with the derivative of the
// activation and the bias gradient: dz = (dy @ w) * act'(y), db = sum over rows of dz.
//
// NumPy twin: np.matmul, then gpugrad.backend.twin.Program, instruction "chain", of the code
//
// Layout   a and b in T: float, f16 or bf16. Rows of a lie a step apart; A_DEEP says that its
//          columns, the k of a row, are neighbours, else the rows of one k are. So b with B_DEEP:
//          the k of a column are neighbours, or the columns of one k. COPY_BYTES is what addresses
//          and steps of both are aligned to: 16, 8 or 4, or 2 where no copy can be asynchronous.
//          The code (chain.cuh) has acc in place of operand 0, and WIDTH 1 or 2.
// Grid     (tiles of ROWS by COLS, those of one row of tiles one after another), block (WARPS * 32).
// Memory   STAGES parts of DEPTH words of 32 bits in depth are on their way from memory, or in use;
//          shared rows are padded so that no two lanes of a fragment meet in a bank.
// FLOP     2 m n k. EXACT (float only) multiplies in three TF32 products each, for errors like those
//          of float; without it inputs are rounded to TF32.
// Bytes    a ceil(n / COLS) times and b ceil(m / ROWS) times, mostly from L2; operands and stores of
//          the code once.
// Order    additions follow the tiles alone: the same bits on every run.

constexpr int DEPTH = 16;
constexpr int WARP_ROWS = ROWS / WARPS_DOWN;
constexpr int WARP_COLS = COLS / WARPS_ACROSS;
constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * WARP_LANES;
constexpr int TILES_DOWN = WARP_ROWS / 16;
constexpr int TILES_ACROSS = WARP_COLS / 8;
static_assert(TILES_DOWN * 16 == WARP_ROWS && TILES_ACROSS * 8 == WARP_COLS, "whole mma tiles");

// A part of a matrix in shared memory: LINES rows or columns, each DEPTH words deep.
template <typename T, int LINES, bool DEEP>
struct Part {
    static constexpr int PER_WORD = 4 / sizeof(T);
    static constexpr int K = DEPTH * PER_WORD;
    static constexpr int OUTER = DEEP ? LINES : K;
    static constexpr int INNER = DEEP ? K : LINES;
    static constexpr int PAD = DEEP || PER_WORD == 2 ? 16 / sizeof(T) : 8;

    alignas(16) T at[OUTER][INNER + PAD];

    // Starts copying the part that begins at `line` and `k`; what is beyond the matrix is zero.
    __device__ __forceinline__ void fill(const T* matrix, index_t step, index_t line, index_t lines,
                                         index_t k, index_t depth) {
        constexpr int CHUNK = COPY_BYTES / sizeof(T);
        constexpr int CHUNKS = INNER / CHUNK;
        const index_t outer = DEEP ? line : k, outers = DEEP ? lines : depth;
        const index_t inner = DEEP ? k : line, inners = DEEP ? depth : lines;
        for (int i = threadIdx.x; i < OUTER * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, col = i % CHUNKS * CHUNK;
            const index_t left = inners - inner - col;
            const int count = outer + row >= outers || left <= 0 ? 0 : left < CHUNK ? int(left) : CHUNK;
            const T* const from = count ? matrix + (outer + row) * step + inner + col : matrix;
            if constexpr (COPY_BYTES >= 4) {
                copy_async<COPY_BYTES>(&at[row][col], from, count * int(sizeof(T)));
            } else {
                at[row][col] = count ? *from : T(0.0f);
            }
        }
    }

    // Word `word` in depth of a line.
    __device__ __forceinline__ unsigned word(int line, int word) const {
        if constexpr (DEEP) {
            return *reinterpret_cast<const unsigned*>(&at[line][word * PER_WORD]);
        } else if constexpr (PER_WORD == 1) {
            return *reinterpret_cast<const unsigned*>(&at[word][line]);
        } else {
            return at[2 * word][line].bits | unsigned(at[2 * word + 1][line].bits) << 16;
        }
    }
};

// One value of each warp for each column.
typedef float TileTotals[WARPS_DOWN][COLS];

__device__ __forceinline__ TileTotals& tile_totals() {
    __shared__ TileTotals of_warps;
    return of_warps;
}

// Reduces over the rows of the tile what pick(totals[j], k) gives: column k of this thread's pair in
// mma tile j. Every thread must call it.
template <Kind KIND, typename To, typename All, typename Pick>
__device__ __forceinline__ void end_tile(const Result<KIND, float, To>& result, index_t first_col,
                                         index_t split, index_t splits, All& totals, Pick pick) {
    TileTotals& of_warps = tile_totals();
    const int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    const int down = warp / WARPS_ACROSS, across = warp % WARPS_ACROSS;

    __syncthreads();  // the array may still be read from a call before
#pragma unroll
    for (int j = 0; j < TILES_ACROSS; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const float value = over_lanes<KIND>(pick(totals[j], k), 16, 4);
            if (lane < 4) of_warps[down][across * WARP_COLS + j * 8 + 2 * lane + k] = value;
        }
    }
    __syncthreads();
    for (int col = threadIdx.x; col < COLS; col += THREADS) {
        float value = of_warps[0][col];
        for (int w = 1; w < WARPS_DOWN; ++w) value = joined<KIND>(value, of_warps[w][col]);
        if (first_col + col < result.count) result.put(split, splits, first_col + col, value);
    }
}

template <typename T, bool A_DEEP, bool B_DEEP, bool EXACT, typename Code>
__device__ __forceinline__ void run_gemm(Code& code, const T* __restrict__ a, index_t a_step,
                                         const T* __restrict__ b, index_t b_step, index_t m,
                                         index_t n, index_t k) {
    typedef Part<T, ROWS, A_DEEP> PartA;
    typedef Part<T, COLS, B_DEEP> PartB;
    __shared__ PartA part_a[STAGES];
    __shared__ PartB part_b[STAGES];
    const int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    const int g = lane / 4, q = lane % 4;
    const int warp_row = warp / WARPS_ACROSS * WARP_ROWS;
    const int warp_col = warp % WARPS_ACROSS * WARP_COLS;
    const index_t across = (n + COLS - 1) / COLS;
    const index_t first_row = blockIdx.x / across * ROWS;
    const index_t first_col = blockIdx.x % across * COLS;
    const int steps = int((k + PartA::K - 1) / PartA::K);

    const auto fill = [&](int step) {
        if (step < steps) {
            const index_t from = index_t(step) * PartA::K;
            part_a[step % STAGES].fill(a, a_step, first_row, m, from, k);
            part_b[step % STAGES].fill(b, b_step, first_col, n, from, k);
        }
        commit_copies();  // an empty group too: wait_copies counts them
    };

    float acc[TILES_DOWN][TILES_ACROSS][4] = {};
    for (int step = 0; step < STAGES - 1; ++step) fill(step);
    for (int step = 0; step < steps; ++step) {
        wait_copies<STAGES - 2>();
        __syncthreads();  // everyone's copies are there, and everyone is done with the part before
        fill(step + STAGES - 1);
        const PartA& here_a = part_a[step % STAGES];
        const PartB& here_b = part_b[step % STAGES];
        // Three products at a time leave no registers for two parts at once.
#pragma unroll(EXACT ? 1 : DEPTH / 8)
        for (int part = 0; part < DEPTH; part += 8) {
            const int word = part + q;
            unsigned x[TILES_DOWN][4], y[TILES_ACROSS][2];
#pragma unroll
            for (int i = 0; i < TILES_DOWN; ++i) {
                const int row = warp_row + i * 16 + g;
                x[i][0] = here_a.word(row, word);
                x[i][1] = here_a.word(row + 8, word);
                x[i][2] = here_a.word(row, word + 4);
                x[i][3] = here_a.word(row + 8, word + 4);
            }
#pragma unroll
            for (int j = 0; j < TILES_ACROSS; ++j) {
                const int col = warp_col + j * 8 + g;
                y[j][0] = here_b.word(col, word);
                y[j][1] = here_b.word(col, word + 4);
            }
#pragma unroll
            for (int i = 0; i < TILES_DOWN; ++i) {
#pragma unroll
                for (int j = 0; j < TILES_ACROSS; ++j) Product<T, EXACT>::add(acc[i][j], x[i], y[j]);
            }
        }
    }

    constexpr int WIDTH = Code::WIDTH;
    typename Code::Totals totals[TILES_ACROSS][2 / WIDTH];
#pragma unroll
    for (int j = 0; j < TILES_ACROSS; ++j) {
#pragma unroll
        for (int p = 0; p < 2 / WIDTH; ++p) code.clear(totals[j][p]);
    }
    code.begin();
#pragma unroll
    for (int i = 0; i < 2 * TILES_DOWN; ++i) {
        const index_t row = first_row + warp_row + i * 8 + g;
#pragma unroll
        for (int j = 0; j < TILES_ACROSS; ++j) {
#pragma unroll
            for (int p = 0; p < 2 / WIDTH; ++p) {
                const index_t col = first_col + warp_col + j * 8 + 2 * q + p * WIDTH;
                pack<float, WIDTH> values;
#pragma unroll
                for (int c = 0; c < WIDTH; ++c) {
                    values.at[c] = acc[i / 2][j][i % 2 * 2 + p * WIDTH + c];
                }
                const int count = n - col < WIDTH ? int(n - col) : WIDTH;  // or none
                if (row < m) code.step(row, col, count, totals[j][p], values);
            }
        }
    }
    code.end(first_col, blockIdx.x / across, gridDim.x / across, n, totals);
}
