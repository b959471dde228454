// Rows added to rows of a matrix by number: out[t[i], :] += values[i, :] for all i, those of one
// number in their order.
//
// NumPy twin: np.add.at(out, t, values)
//
// Layout   out (any, cols) and values (count, cols) are dense. numbers are t in ascending order, and
//          order says which row of values each belongs to: a stable argsort of t.
// Grid     (any), block (any): a thread adds up one column of all rows of one number.
// Bytes    values once, out twice where something is added, 8 or 16 an element for numbers and order.
// Order    additions follow order alone, unlike those of atomics: the same bits on every run.

template <typename T>
__device__ __forceinline__ void scatter_rows(T* out, const index_t* numbers, const index_t* order,
                                             const T* values, index_t count, index_t cols) {
    const index_t step = index_t(gridDim.x) * blockDim.x;
    index_t at = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; at < count * cols; at += step) {
        const index_t first = at / cols, col = at % cols;
        const index_t number = numbers[first];
        if (first > 0 && numbers[first - 1] == number) continue;  // another thread's
        T sum = out[number * cols + col];
        for (index_t j = first; j < count && numbers[j] == number; ++j) {
            sum += values[order[j] * cols + col];
        }
        out[number * cols + col] = sum;
    }
}
