// Several narrow layers in one pass, the values between them in shared memory:
//
//     forward   y[l] = act(y[l - 1] @ w[l].T + b[l]),  y[-1] = x              (rows, width[l + 1])
//     backward  d[l] = (d[l - 1] @ w[l]) * act'(y[l]), d[-1] = x, layers from the last to the first
//               db[l] = sum over rows of d[l],  dw[l] = d[l - 1].T @ y[l]
//
// with act or act' printed by gpugrad/backend/kernels/mlp.py as Code::last for the last product and
// Code::between for the others. They take what else they need from more[l] and keep what they give
// in out[l]. After Müller, "Fully fused neural networks", tiny-cuda-nn (2021), which leaves dw out.
//
// NumPy twin: np.matmul and gpugrad.backend.twin.Program, instruction "chain", layer by layer
//
// Layout   all matrices are row-major and dense, in T: float, f16 or bf16; widths are 1..MOST. w[l]
//          is (width[l + 1], width[l]) where TURNED, else its transpose. total[l] takes db[l],
//          grad[l] alpha * *scale * dw[l] (scale null: alpha alone), added to what is there or not,
//          and its transpose where FLIPPED. What of out, total and grad is null is not kept; below[l]
//          is y[l], for grad[l]. ENDS: the last layer has no product, only grad. out[l] may be
//          more[l] or below[l], and grad[l] may be w.
// Grid     any, up to one a tile of ROWS rows; block (WARPS * 32). A block takes every gridDim.x-th
//          tile. A warp computes 8 * TILES columns of all, or of half the rows of a tile, and keeps
//          its part of each grad in registers. Sums come in parts, one or two a block, in
//          total_parts and grad_parts, and end_mlp() folds them.
// FLOP     2 * rows * width[l] * width[l + 1] a layer, as many for grad[l]; EXACT as in gemm.cuh.
// Bytes    x, more, below and out once; the weights once a tile, from L1 or L2; the parts, a float
//          each, written and read once.
// Order    additions follow ROWS, WARPS and the grid alone: the same bits on every run.

constexpr int THREADS = WARPS * WARP_LANES;
constexpr int MOST = 8 * TILES * WARPS_ACROSS;
constexpr int WARPS_DOWN = WARPS / WARPS_ACROSS;
constexpr int WARP_ROWS = ROWS / WARPS_DOWN;
constexpr int TILES_DOWN = WARP_ROWS / 16;
static_assert(TILES_DOWN * 16 == WARP_ROWS, "whole mma tiles");
// How the warps share a grad: each takes 16 rows of it, and every GRAD_STEP-th 8 columns.
constexpr int GRAD_STEP = WARPS * 16 / MOST;
constexpr int GRAD_TILES = MOST / 8 / GRAD_STEP;

template <typename T>
struct Net {
    const T* w[LAYERS];
    const void* more[LAYERS][MORE];
    void* out[LAYERS][OUTS];
    int width[LAYERS + 1];
};

template <typename T>
struct Sums {
    T* total[LAYERS];
    float* total_parts[LAYERS];
    const T* below[LAYERS];
    T* grad[LAYERS];
    float* grad_parts[LAYERS];
    const double* scale[LAYERS];
    double alpha[LAYERS];
    int add[LAYERS];

    __device__ __forceinline__ Result<SUM, float, T> of_total(const Net<T>& net, int l) const {
        return {total[l], 1, total_parts[l], net.width[l + 1], 1, false};
    }

    __device__ __forceinline__ Result<SUM, float, T> of_grad(const Net<T>& net, int l) const {
        const double factor = scale[l] ? alpha[l] * *scale[l] : alpha[l];
        const index_t count = index_t(net.width[l]) * net.width[l + 1];
        return {grad[l], 1, grad_parts[l], count, float(factor), add[l] != 0};
    }
};

// A row of a tile in shared memory, with so many words more that no two lanes of a fragment meet in
// a bank: 4 where a fragment has neighbours of a row, 8 where it has floats of a column.
template <typename T, int MORE_WORDS>
using Line = T[MOST + MORE_WORDS * 4 / sizeof(T)];

__device__ __forceinline__ unsigned word_of(const float (&values)[1]) {
    return static_cast<unsigned>(__float_as_int(values[0]));
}

template <typename T>
__device__ __forceinline__ unsigned word_of(const T (&values)[2]) {
    return values[0].bits | unsigned(values[1].bits) << 16;
}

// Word `word` of a column of a tile.
template <typename T, int WIDTH>
__device__ __forceinline__ unsigned word_down(const T (*tile)[WIDTH], int word, int col) {
    constexpr int PER_WORD = 4 / sizeof(T);
    T values[PER_WORD];
    for (int p = 0; p < PER_WORD; ++p) values[p] = tile[word * PER_WORD + p][col];
    return word_of(values);
}

// What a thread moves of a tile: read early, and written to shared memory once there is room.
template <typename T>
struct Share {
    T values[ROWS / WARPS][MOST / WARP_LANES];

    __device__ __forceinline__ void fetch(const T* matrix, index_t first, index_t rows, int cols) {
        each([&](int row, int col, T& value) {
            const bool there = first + row < rows && col < cols;
            value = there ? matrix[(first + row) * cols + col] : T(0.0f);
        });
    }

    template <int WIDTH>
    __device__ __forceinline__ void land(T (*tile)[WIDTH]) {
        each([&](int row, int col, T& value) { tile[row][col] = value; });
    }

    template <typename Do>
    __device__ __forceinline__ void each(Do what) {
#pragma unroll
        for (int e = 0; e < ROWS / WARPS * (MOST / WARP_LANES); ++e) {
            const int i = e / (MOST / WARP_LANES), j = e % (MOST / WARP_LANES);
            what(threadIdx.x / WARP_LANES + i * WARPS, threadIdx.x % WARP_LANES + j * WARP_LANES,
                 values[i][j]);
        }
    }
};

// acc += values @ w, of the columns and rows of this warp.
template <typename T, bool TURNED, bool EXACT, int WIDTH>
__device__ __forceinline__ void add_product(float (&acc)[TILES_DOWN][TILES][4],
                                            const T (*values)[WIDTH], const T* w, int k, int n) {
    constexpr int PER_WORD = 4 / sizeof(T);
    const int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const int g = lane / 4, q = lane % 4;
    const int top = warp / WARPS_ACROSS * WARP_ROWS, left = warp % WARPS_ACROSS * 8;
#pragma unroll 1
    for (int word = q; (word - q) * PER_WORD < k; word += 8) {
        unsigned b[TILES][2];
#pragma unroll
        for (int e = 0; e < TILES * 2; ++e) {
            const int col = left + e / 2 * WARPS_ACROSS * 8 + g;
            T parts[PER_WORD];
            for (int p = 0; p < PER_WORD; ++p) {
                const int deep = (word + e % 2 * 4) * PER_WORD + p;
                const bool there = col < n && deep < k;
                parts[p] = there ? w[TURNED ? col * k + deep : deep * n + col] : T(0.0f);
            }
            b[e / 2][e % 2] = word_of(parts);
        }
#pragma unroll
        for (int i = 0; i < TILES_DOWN; ++i) {
            unsigned a[4];
#pragma unroll
            for (int h = 0; h < 4; ++h) {
                const T* const from = values[top + i * 16 + g + h % 2 * 8];
                const int at = (word + h / 2 * 4) * PER_WORD;
                a[h] = *reinterpret_cast<const unsigned*>(from + at);
            }
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                if (left + j * WARPS_ACROSS * 8 < n) Product<T, EXACT>::add(acc[i][j], a, b[j]);
            }
        }
    }
}

// acc += values.T @ below, this warp's part of it.
template <typename T, bool EXACT, int WIDTH, int WIDTH_BELOW>
__device__ __forceinline__ void add_grad(float (&acc)[GRAD_TILES][4],
                                         const T (*values)[WIDTH],
                                         const T (*below)[WIDTH_BELOW], int k, int n) {
    constexpr int DEPTH = ROWS * sizeof(T) / 4;
    const int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const int g = lane / 4, q = lane % 4;
    const int top = warp / GRAD_STEP * 16, left = warp % GRAD_STEP * 8;
    if (top >= k) return;
#pragma unroll(GRAD_TILES > 4 ? 1 : 2)
    for (int word = q; word < DEPTH; word += 8) {
        unsigned a[4];
#pragma unroll
        for (int h = 0; h < 4; ++h) {
            a[h] = word_down(values, word + h / 2 * 4, top + g + h % 2 * 8);
        }
#pragma unroll
        for (int j = 0; j < GRAD_TILES; ++j) {
            const int col = left + j * GRAD_STEP * 8;
            if (col >= n) continue;
            unsigned b[2];
#pragma unroll
            for (int h = 0; h < 2; ++h) b[h] = word_down(below, word + h * 4, col + g);
            Product<T, EXACT>::add(acc[j], a, b);
        }
    }
}

// Writes this thread's part of all totals and grads. Where a block is alone a grad may take the
// place of weights at once: all have been read before the last barrier.
template <typename T, bool GRADS, bool FLIPPED, int KEPT>
__device__ __forceinline__ void end_sums(const Net<T>& net, const Sums<T>& sums,
                                         const float (&total)[LAYERS][TILES][2],
                                         const float (&grad)[KEPT][GRAD_TILES][4]) {
    const int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const int g = lane / 4, q = lane % 4;
#pragma unroll
    for (int l = 0; l < LAYERS; ++l) {
        const int k = net.width[l], n = net.width[l + 1];
        if (sums.total[l]) {
            const index_t part = index_t(blockIdx.x) * WARPS_DOWN + warp / WARPS_ACROSS;
            // A warp has all its rows of its columns: lanes of one q share two of each tile.
#pragma unroll
            for (int e = 0; e < TILES * 2; ++e) {
                const int tile = warp % WARPS_ACROSS + e / 2 * WARPS_ACROSS;
                const int col = tile * 8 + 2 * q + e % 2;
                const float sum = over_lanes<SUM>(total[l][e / 2][e % 2], 16, 4);
                if (g == 0 && col < n) {
                    sums.of_total(net, l).put(part, index_t(gridDim.x) * WARPS_DOWN, col, sum);
                }
            }
        }
        if constexpr (GRADS) {
            if (!sums.grad[l]) continue;
            const auto result = sums.of_grad(net, l);
#pragma unroll
            for (int e = 0; e < GRAD_TILES * 4; ++e) {
                const int row = warp / GRAD_STEP * 16 + g + e % 4 / 2 * 8;
                const int col = (warp % GRAD_STEP + e / 4 * GRAD_STEP) * 8 + 2 * q + e % 2;
                const index_t at = FLIPPED ? col * k + row : row * n + col;
                const bool there = row < k && col < n;
                if (there) result.put(blockIdx.x, gridDim.x, at, grad[l][e / 4][e % 4]);
            }
        }
    }
}

// SUMS: some total or grad is kept; GRADS: some grad.
template <typename T, typename Code, bool TURNED, bool EXACT, bool SUMS, bool GRADS, bool FLIPPED,
          bool ENDS>
__device__ __forceinline__ void run_mlp(const Net<T>& net, const Sums<T>& sums, const T* x,
                                        index_t rows) {
    constexpr int BELOW = GRADS ? ROWS : 1;
    __shared__ Line<T, 4> values[ROWS];
    __shared__ Line<T, 8> below[BELOW];
    const int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const int g = lane / 4, q = lane % 4;
    const int top = warp / WARPS_ACROSS * WARP_ROWS, left = warp % WARPS_ACROSS * 8;
    float total[SUMS ? LAYERS : 1][TILES][2] = {};
    float grad[GRADS ? LAYERS : 1][GRAD_TILES][4] = {};

    for (index_t first = index_t(blockIdx.x) * ROWS; first < rows;
         first += index_t(gridDim.x) * ROWS) {
        Share<T> share;
        share.fetch(x, first, rows, net.width[0]);
        __syncthreads();  // the tile before has been read to its end
        share.land(values);
        if constexpr (GRADS) {
            if (sums.grad[0]) {
                share.fetch(sums.below[0], first, rows, net.width[1]);
                share.land(below);
            }
        }
#pragma unroll(SUMS ? LAYERS : 1)
        for (int l = 0; l < LAYERS; ++l) {
            const int k = net.width[l], n = net.width[l + 1];
            __syncthreads();  // all that this layer reads is there
            if constexpr (GRADS) {
                if (sums.grad[l]) add_grad<T, EXACT>(grad[l], values, below, k, n);
                if (l + 1 < LAYERS && sums.grad[l + 1]) {
                    share.fetch(sums.below[l + 1], first, rows, net.width[l + 2]);
                }
            }
            if (ENDS && l + 1 == LAYERS) break;
            float acc[TILES_DOWN][TILES][4] = {};
            add_product<T, TURNED, EXACT>(acc, values, net.w[l], k, n);
#pragma unroll
            for (int e = 0; e < TILES_DOWN * TILES * 4; ++e) {
                const int i = e / (TILES * 4), j = e / 4 % TILES, c = e % 4;
                const int row = top + i * 16 + g + c / 2 * 8;
                const int col = left + j * WARPS_ACROSS * 8 + 2 * q + c % 2;
                const index_t at = first * n + (row * n + col);
                const bool there = first + row < rows && col < n;
                float value = 0;  // what the next layer's last part reads beyond its columns
                if (there) {
                    const float under = GRADS ? float(below[GRADS ? row : 0][col]) : 0;
                    value = l + 1 + ENDS < LAYERS
                                ? Code::between(net, l, at, col, under, acc[i][j][c])
                                : Code::last(net, l, at, col, under, acc[i][j][c]);
                }
                acc[i][j][c] = value;
                if constexpr (SUMS) total[l][j][c % 2] += value;
            }
            __syncthreads();  // everyone has read it, and it can be overwritten
#pragma unroll
            for (int e = 0; e < TILES_DOWN * TILES * 4; ++e) {
                const int i = e / (TILES * 4), j = e / 4 % TILES, c = e % 4;
                const int row = top + i * 16 + g + c / 2 * 8;
                const int col = left + j * WARPS_ACROSS * 8 + 2 * q + c % 2;
                values[row][col] = T(acc[i][j][c]);
            }
            if constexpr (GRADS) {
                if (l + 1 < LAYERS && sums.grad[l + 1]) share.land(below);
            }
        }
    }
    if constexpr (SUMS) end_sums<T, GRADS, FLIPPED>(net, sums, total, grad);
}

// Grid and block as Result::fold() has them; blockIdx.y a layer's total, or then its grad.
template <typename T>
__device__ __forceinline__ void end_mlp(const Net<T>& net, const Sums<T>& sums, index_t blocks) {
    const int l = blockIdx.y % LAYERS;
    if (blockIdx.y < LAYERS) {
        if (sums.total[l] && blocks * WARPS_DOWN > 1) {
            sums.of_total(net, l).fold(blocks * WARPS_DOWN);
        }
    } else if (sums.grad[l] && blocks > 1) {
        sums.of_grad(net, l).fold(blocks);
    }
}
