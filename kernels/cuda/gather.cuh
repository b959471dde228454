// Rows of a matrix by number: out[i, :] = x[t[i], :], numbers from -size counting from the end.
//
// NumPy twin: x[t]
//
// Layout   x (size, cols) and out (rows, cols) of elements that are only moved, rows a step apart;
//          t holds one integer for each row of out. WIDTH > 1 needs the start of every row aligned
//          to WIDTH elements, and cols a multiple of it.
// Grid     (any, any), block (any, any): threads of x take columns, those of y rows.
// Bytes    2 * sizeof(T) an element, and an index a row.
// Numbers  one outside -size..size-1 is never used: its row is zero, and it is recorded in
//          status[0], the lowest below -size, or status[1], the highest from size on. The caller
//          sets both to 0 before; integer minima and maxima have no order.

template <int WIDTH, typename T, typename I>
__device__ __forceinline__ void gather_rows(const T* x, index_t x_row, const I* t, index_t t_step,
                                            T* out, index_t out_row, index_t* status, index_t size,
                                            index_t rows, index_t cols) {
    const index_t first_col = (index_t(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
    const index_t col_step = index_t(gridDim.x) * blockDim.x * WIDTH;
    const index_t first_row = index_t(blockIdx.y) * blockDim.y + threadIdx.y;
    for (index_t row = first_row; row < rows; row += index_t(gridDim.y) * blockDim.y) {
        const I named = t[row * t_step];
        // A number of 64 bits without sign need not fit.
        const bool huge = named > 0 && static_cast<unsigned long long>(named) >> 63;
        const index_t number = huge ? ~(1ull << 63) : static_cast<index_t>(named);
        const index_t source = number < 0 ? number + size : number;
        const bool known = source >= 0 && source < size;
        if (!known && first_col == 0) {
            if (number < 0) atomicMin(status, number);
            if (number >= 0) atomicMax(status + 1, number);
        }
        for (index_t col = first_col; col < cols; col += col_step) {
            pack<T, WIDTH> values = {};
            if (known) values = load<WIDTH>(x + source * x_row + col);
            store<WIDTH>(out + row * out_row + col, values);
        }
    }
}
