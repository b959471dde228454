// The transpose of a matrix in memory, through shared memory:
//
//     to[row * to_row + col] = from[row + col * from_col]        (rows, cols)
//
// NumPy twin: gpugrad.backend.twin.Program, instruction "copy"
//
// Layout   T is any type of the elements' size: nothing is computed. from and to do not overlap.
// Grid     (tiles), block (TILE, TILE_ROWS). Tile number blockIdx.x has its column of tiles first.
// Bytes    2 * sizeof(T) per element, in whole lines on both sides.

constexpr int TILE = 32;
constexpr int TILE_ROWS = 8;

template <typename T>
__device__ __forceinline__ void transpose_tile(const T* __restrict__ from, index_t from_col,
                                               T* __restrict__ to, index_t to_row, index_t rows,
                                               index_t cols) {
    __shared__ T tile[TILE][TILE + 1];  // one more, so that a column lies in different banks
    const index_t tiles_across = (cols + TILE - 1) / TILE;
    const index_t first_row = blockIdx.x / tiles_across * TILE;
    const index_t first_col = blockIdx.x % tiles_across * TILE;

    for (int c = threadIdx.y; c < TILE; c += TILE_ROWS) {
        const index_t row = first_row + threadIdx.x, col = first_col + c;
        if (row < rows && col < cols) tile[c][threadIdx.x] = from[row + col * from_col];
    }
    __syncthreads();
    for (int r = threadIdx.y; r < TILE; r += TILE_ROWS) {
        const index_t row = first_row + r, col = first_col + threadIdx.x;
        if (row < rows && col < cols) to[row * to_row + col] = tile[threadIdx.x][r];
    }
}
