// The number of the first largest value of each row, with LEAST of the first smallest; a NaN is
// beyond every other value.
//
// NumPy twin: np.argmax(x, axis=1), np.argmin
//
// Layout   x (rows, cols), rows x_row apart, columns neighbours; out a number a row, out_step apart.
//          WIDTH > 1 needs the start of every row aligned to WIDTH elements. cols is at least 1.
// Grid     (any), block as rows.cuh says.
// Bytes    x once, and 8 a row.

template <bool LEAST, typename T>
struct Best {
    T value;
    index_t at;  // -1: none so far

    __device__ __forceinline__ Best beside(int distance) const {
        return {__shfl_xor_sync(WHOLE_WARP, value, distance),
                __shfl_xor_sync(WHOLE_WARP, at, distance)};
    }
};

// Decided by values and numbers alone, so in whichever order the threads of a row come together.
template <bool LEAST, typename T>
__device__ __forceinline__ void take(Best<LEAST, T>& best, const Best<LEAST, T>& other) {
    const bool nan = best.value != best.value, other_nan = other.value != other.value;
    bool better = LEAST ? other.value < best.value : other.value > best.value;
    if (nan || other_nan) better = !nan;
    const bool equal = other.value == best.value || (nan && other_nan);
    if (best.at < 0 || (other.at >= 0 && (better || (equal && other.at < best.at)))) best = other;
}

template <int WIDTH, bool LEAST, typename T>
__device__ __forceinline__ void argmax_rows(const T* x, index_t x_row, index_t* out,
                                            index_t out_step, index_t rows, index_t cols) {
    typedef decltype(+T()) Value;  // half precision as float, small integers as int
    const index_t row_step = index_t(gridDim.x) * blockDim.y;
    for (index_t first = index_t(blockIdx.x) * blockDim.y; first < rows; first += row_step) {
        const index_t row = first + threadIdx.y;
        const index_t width = row < rows ? cols : 0;  // idle threads too: over_row() holds barriers
        Best<LEAST, Value> best = {Value(0), -1};
        for_packs<WIDTH>(width, [&](index_t col, int count) {
            const pack<T, WIDTH> values = load_line<WIDTH>(x + row * x_row + col, count);
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) {
                if (k < count) take(best, Best<LEAST, Value>{Value(values.at[k]), col + k});
            }
        });
        best = over_row(best);
        if (threadIdx.x == 0 && row < rows) out[row * out_step] = best.at;
    }
}
