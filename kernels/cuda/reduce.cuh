// Sums, maxima and minima over a warp, a block and a grid, always in the same order of additions.
//
// A grid's results come in two stages, and nothing is atomic: every block writes a partial result,
// and a second launch folds them. Where one block has all there is to reduce, it writes the result
// itself. NumPy twins: np.sum, np.max, np.min; like theirs, a maximum or minimum with NaN is NaN.

constexpr int BLOCK_THREADS = 256;
constexpr int BLOCK_WARPS = BLOCK_THREADS / WARP_LANES;

enum Kind { SUM, MAX, MIN };

template <typename T>
__device__ __forceinline__ T infinity() {
    return T(__int_as_float(0x7f800000));
}

template <Kind KIND, typename T>
__device__ __forceinline__ T joined(T a, T b) {
    if (KIND == SUM) return a + b;
    if (KIND == MAX) return a > b || a != a ? a : b;
    return a < b || a != a ? a : b;
}

// What joined() leaves the other side as it is with.
template <Kind KIND, typename T>
__device__ __forceinline__ T nothing() {
    if (KIND == SUM) return T(0);
    if constexpr (T(0.5) == T(0)) {  // whole numbers, of 64 bits
        return KIND == MAX ? T(1ull << 63) : T(~(1ull << 63));
    } else {
        return KIND == MAX ? -infinity<T>() : infinity<T>();
    }
}

// Gives each lane the result over the lanes whose numbers differ from its own in bits of `from`
// down to `to`, both powers of two: (16, 1) is the whole warp, (16, 8) the lanes equal modulo 8,
// (4, 1) its group of 8 neighbours. All 32 lanes must call it.
template <Kind KIND, typename T>
__device__ __forceinline__ T over_lanes(T value, int from, int to) {
    for (int distance = from; distance >= to; distance /= 2) {
        value = joined<KIND>(value, __shfl_xor_sync(WHOLE_WARP, value, distance));
    }
    return value;
}

// Reduces each of `value` over the threads of the block whose number (x fastest) is equal modulo
// `stride`, a power of two up to 32; valid in the threads numbered below it. The block must have
// BLOCK_THREADS threads, and every one must call it.
template <Kind KIND, int WIDTH, typename T>
__device__ __forceinline__ void over_block(T (&value)[WIDTH], int stride) {
    __shared__ T of_warps[WIDTH][BLOCK_WARPS][WARP_LANES];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int warp = thread / WARP_LANES;
    const int lane = thread % WARP_LANES;

    __syncthreads();  // the array may still be read from a call before
    for (int k = 0; k < WIDTH; ++k) {
        of_warps[k][warp][lane] = over_lanes<KIND>(value[k], WARP_LANES / 2, stride);
    }
    __syncthreads();
    if (thread < stride) {
        for (int k = 0; k < WIDTH; ++k) {
            value[k] = of_warps[k][0][thread];
            for (int w = 1; w < BLOCK_WARPS; ++w) {
                value[k] = joined<KIND>(value[k], of_warps[k][w][thread]);
            }
        }
    }
}

// Where the `count` results of a reduction go: number j to out[j * step], multiplied by `scale`
// and, with `accumulate`, added to what is there. Each is reduced in `splits` parts; more than one
// go to partial, row-major (splits, count), for fold() to take up.
template <Kind KIND, typename T, typename To>
struct Result {
    To* out;
    index_t step;
    T* partial;
    index_t count;
    T scale;
    bool accumulate;

    __device__ __forceinline__ void put(index_t split, index_t splits, index_t j, T value) const {
        if (splits > 1) {
            partial[split * count + j] = value;
        } else {
            To& to = out[j * step];
            to = To(accumulate ? T(to) + value * scale : value * scale);
        }
    }

    // Grid (ceil(count / blockDim.x)), block (lanes, BLOCK_THREADS / lanes).
    __device__ __forceinline__ void fold(index_t splits) const {
        const index_t j = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
        T value[1] = {nothing<KIND, T>()};
        if (j < count) {
#pragma unroll 4
            for (index_t split = threadIdx.y; split < splits; split += blockDim.y) {
                value[0] = joined<KIND>(value[0], partial[split * count + j]);
            }
        }
        over_block<KIND>(value, blockDim.x);  // idle threads too: it holds barriers
        if (threadIdx.y == 0 && j < count) {
            put(0, 1, j, value[0]);
        }
    }
};
