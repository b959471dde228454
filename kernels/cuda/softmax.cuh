// Softmax of each row of x (rows, cols), its logarithm, and cross-entropy with labels t (rows):
//
//     top = max(x), sum = sum(exp(x - top))
//     softmax      y = exp(x - top) / sum        or, its logarithm, (x - top) - log(sum)
//     loss         log(sum) - (x[t] - top)       (rows)
//     residual     (softmax(x) - one_hot(t)) * scale
//     probability  softmax(x)
//
// NumPy twin: gpugrad.backend.twin.Program, instructions "softmax" and "cross_entropy"
//
// Layout   rows lie a step apart, columns are neighbours. y may be x. WIDTH > 1 needs the start of
//          every row aligned to WIDTH elements. loss, residual and probability may be null.
// Grid     (any), block as rows.cuh says; one pass for top and sum together and one for the rest.
// Bytes    x twice (the second time mostly from cache), every output once.
// Order    additions follow the launch geometry alone: the same bits on every run.
// Labels   one outside 0..cols-1 is never used as an index: its loss is NaN, its residual 0, and it
//          is recorded in status[0], the lowest below 0, or status[1], the highest from cols on.
//          The caller sets both to 0 before; integer minima and maxima have no order.

template <typename T>
struct Peak {
    T top, sum;

    __device__ __forceinline__ Peak beside(int distance) const {
        return {__shfl_xor_sync(WHOLE_WARP, top, distance),
                __shfl_xor_sync(WHOLE_WARP, sum, distance)};
    }
};

// One exponential an element, whichever is larger. The values may be equal infinities.
template <typename T>
__device__ __forceinline__ void take(Peak<T>& peak, T x) {
    const T e = x == peak.top ? T(1) : op_exp(-op_abs(x - peak.top));
    if (x > peak.top) {
        peak.sum = op_mul(peak.sum, e) + 1;
        peak.top = x;
    } else {
        peak.sum += e;  // NaN if x is: top never is
    }
}

template <typename T>
__device__ __forceinline__ void take(Peak<T>& peak, const Peak<T>& other) {
    const T top = peak.top > other.top ? peak.top : other.top;
    const T mine = peak.top == top ? T(1) : op_exp(peak.top - top);
    const T others = other.top == top ? T(1) : op_exp(other.top - top);
    peak.sum = op_mul(peak.sum, mine) + op_mul(other.sum, others);
    peak.top = top;
}

template <int WIDTH, typename T>
__device__ __forceinline__ Peak<T> peak_of(const T* row, index_t cols) {
    Peak<T> peak = {-infinity<T>(), T(0)};
    for_packs<WIDTH>(cols, [&](index_t col, int count) {
        const pack<T, WIDTH> x = load_line<WIDTH>(row + col, count);
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
            if (k < count) take(peak, x.at[k]);
        }
    });
    return peak;
}

// The same of a row whose threads have such peaks. Every thread of the block must call it.
template <typename T>
__device__ __forceinline__ Peak<T> peak_over_row(Peak<T> peak) {
    peak = over_row(peak);
    // NaN where top is infinite, as exp(top - top) is.
    peak.sum += peak.top - peak.top;
    return peak;
}

template <int WIDTH, bool LOG, typename T>
__device__ __forceinline__ void softmax_rows(const T* x, index_t x_row, T* y, index_t y_row,
                                             index_t rows, index_t cols) {
    const index_t row_step = index_t(gridDim.x) * blockDim.y;
    for (index_t first = index_t(blockIdx.x) * blockDim.y; first < rows; first += row_step) {
        const index_t row = first + threadIdx.y;
        const index_t width = row < rows ? cols : 0;  // idle threads too: over_row() holds barriers
        const T* const from = x + row * x_row;
        T* const to = y + row * y_row;
        const Peak<T> peak = peak_over_row(peak_of<WIDTH>(from, width));
        const T log_sum = LOG ? op_log(peak.sum) : T(0);
        for_packs<WIDTH>(width, [&](index_t col, int count) {
            pack<T, WIDTH> values = load_line<WIDTH>(from + col, count);
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) {
                const T shifted = values.at[k] - peak.top;
                values.at[k] = LOG ? shifted - log_sum : op_exp(shifted) / peak.sum;
            }
            store_line(to + col, values, count);
        });
    }
}

template <int WIDTH, typename T, typename Label>
__device__ __forceinline__ void cross_entropy_rows(
    const T* z, index_t z_row, const Label* t, index_t t_step, T* loss, index_t loss_step,
    T* residual, index_t residual_row, T* probability, index_t probability_row, T scale,
    index_t* status, index_t rows, index_t cols) {
    const index_t row_step = index_t(gridDim.x) * blockDim.y;
    for (index_t first = index_t(blockIdx.x) * blockDim.y; first < rows; first += row_step) {
        const index_t row = first + threadIdx.y;
        const index_t width = row < rows ? cols : 0;  // idle threads too: over_row() holds barriers
        const T* const from = z + row * z_row;
        const Peak<T> peak = peak_over_row(peak_of<WIDTH>(from, width));
        if (row >= rows) continue;  // the last time round, and no barrier follows
        const Label named = t[row * t_step];
        // A label of 64 bits without sign need not fit.
        const bool huge = named > 0 && static_cast<unsigned long long>(named) >> 63;
        const index_t label = huge ? ~(1ull << 63) : static_cast<index_t>(named);
        const bool known = label >= 0 && label < cols;
        if (threadIdx.x == 0) {
            if (!known && label < 0) atomicMin(status, label);
            if (!known && label >= 0) atomicMax(status + 1, label);
            if (loss) {
                T& to = loss[row * loss_step];
                to = known ? op_log(peak.sum) - (from[label] - peak.top) : infinity<T>() * 0;
            }
        }
        if (!residual && !probability) continue;
        for_packs<WIDTH>(width, [&](index_t col, int count) {
            pack<T, WIDTH> p = load_line<WIDTH>(from + col, count);
            pack<T, WIDTH> r;
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) {
                p.at[k] = op_exp(p.at[k] - peak.top) / peak.sum;
                r.at[k] = known ? op_mul(p.at[k] - (col + k == label ? 1 : 0), scale) : T(0);
            }
            if (residual) store_line(residual + row * residual_row + col, r, count);
            if (probability) store_line(probability + row * probability_row + col, p, count);
        });
    }
}
