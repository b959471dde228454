// Backward of y = sigmoid(z), z = x @ w + b, in one pass over memory:
//
//     dz = dy * y * (1 - y)        (m, n)
//     db = sum over rows of dz     (n,)
//
// NumPy twin: gpugrad.backend.numpy.sigmoid_bwd
//
// Layout   dy, y, dz are row-major (m, n), m, n >= 1; dz overlaps neither dy nor y. partial is
//          row-major (row_blocks, n) in the accumulator's type: double for double, else float.
// Stage 1  sigmoid_bwd_<type>_x<width>: grid (column_blocks, row_blocks), block (lanes, 256/lanes),
//          lanes a power of two up to 32. A block owns lanes * width neighbouring columns and, of
//          the bands of 256/lanes rows, every row_blocks-th. It writes its part of dz, and of row
//          blockIdx.y of partial. width > 1 needs n divisible by width, and dy, y, dz aligned to
//          16 bytes.
// Stage 2  column_sum_<type>: grid (ceil(n/lanes)), block (lanes, 256/lanes). Sums the rows of
//          partial into db. With one row block, float and double let stage 1 write db as its
//          partial, and skip this.
// Bytes    3 * sizeof(T) per element: dy and y are read once, dz is written once; and over the
//          whole matrix 2 * row_blocks * n accumulators.
// Order    additions follow the launch geometry alone and nothing is atomic: one shape and dtype
//          give the same bits on every run.

constexpr int BLOCK_THREADS = 256;
constexpr int BLOCK_WARPS = BLOCK_THREADS / WARP_LANES;

// Adds `sum` over the threads of the block that share threadIdx.x; the result is valid where
// threadIdx.y == 0. Every thread of the block must call it, once per kernel.
template <int WIDTH, typename A>
__device__ __forceinline__ void block_column_sum(A (&sum)[WIDTH]) {
    __shared__ A warp_sums[WIDTH][BLOCK_WARPS][WARP_LANES];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int warp = thread / WARP_LANES;
    const int lane = thread % WARP_LANES;

    // blockDim.x divides 32, so a warp holds whole rows and lane % blockDim.x is threadIdx.x.
    for (int k = 0; k < WIDTH; ++k) {
        warp_sums[k][warp][lane] = warp_sum(sum[k], blockDim.x);
    }
    __syncthreads();
    if (threadIdx.y == 0) {
        for (int k = 0; k < WIDTH; ++k) {
            sum[k] = 0;
            for (int w = 0; w < BLOCK_WARPS; ++w) {
                sum[k] += warp_sums[k][w][threadIdx.x];
            }
        }
    }
}

template <int WIDTH, typename T, typename A>
__device__ __forceinline__ void sigmoid_bwd(const T* __restrict__ dy, const T* __restrict__ y,
                                            T* __restrict__ dz, A* __restrict__ partial, index_t m,
                                            index_t n) {
    const index_t column = (index_t(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
    const index_t first_row = index_t(blockIdx.y) * blockDim.y + threadIdx.y;
    const index_t row_step = index_t(gridDim.y) * blockDim.y;

    A sum[WIDTH] = {};
    if (column < n) {
#pragma unroll 4
        for (index_t row = first_row; row < m; row += row_step) {
            const index_t offset = row * n + column;
            const pack<T, WIDTH> g = load<WIDTH>(dy + offset);
            const pack<T, WIDTH> s = load<WIDTH>(y + offset);
            pack<T, WIDTH> out;
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) {
                const A value = s.at[k];
                const A d = A(g.at[k]) * value * (A(1) - value);
                out.at[k] = T(d);
                sum[k] += d;  // before rounding to T
            }
            store<WIDTH>(dz + offset, out);
        }
    }
    block_column_sum(sum);  // idle threads too: it holds a barrier
    if (threadIdx.y == 0 && column < n) {
        for (int k = 0; k < WIDTH; ++k) {
            partial[blockIdx.y * n + column + k] = sum[k];
        }
    }
}

template <typename T, typename A>
__device__ __forceinline__ void column_sum(const A* __restrict__ partial, T* __restrict__ db,
                                           index_t rows, index_t n) {
    const index_t column = index_t(blockIdx.x) * blockDim.x + threadIdx.x;

    A sum[1] = {};
    if (column < n) {
#pragma unroll 4
        for (index_t row = threadIdx.y; row < rows; row += blockDim.y) {
            sum[0] += partial[row * n + column];
        }
    }
    block_column_sum(sum);
    if (threadIdx.y == 0 && column < n) {
        db[column] = T(sum[0]);
    }
}

#define SIGMOID_BWD(NAME, T, WIDTH)                                                                \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)                                    \
        NAME(const T* dy, const T* y, T* dz, accumulator_t<T>* partial, index_t m, index_t n) {    \
        sigmoid_bwd<WIDTH>(dy, y, dz, partial, m, n);                                              \
    }                                                                                              \
    GG_EXPORT(NAME)

#define COLUMN_SUM(NAME, T)                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)                                    \
        NAME(const accumulator_t<T>* partial, T* db, index_t rows, index_t n) {                    \
        column_sum(partial, db, rows, n);                                                          \
    }                                                                                              \
    GG_EXPORT(NAME)

SIGMOID_BWD(sigmoid_bwd_f32_x1, float, 1)
SIGMOID_BWD(sigmoid_bwd_f32_x4, float, 4)
SIGMOID_BWD(sigmoid_bwd_f64_x1, double, 1)
SIGMOID_BWD(sigmoid_bwd_f64_x2, double, 2)
SIGMOID_BWD(sigmoid_bwd_f16_x1, f16, 1)
SIGMOID_BWD(sigmoid_bwd_f16_x8, f16, 8)
COLUMN_SUM(column_sum_f32, float)
COLUMN_SUM(column_sum_f64, double)
COLUMN_SUM(column_sum_f16, f16)
