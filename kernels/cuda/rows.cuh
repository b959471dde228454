// What kernels share that give each row of a matrix to some threads: blocks (lanes, height) of
// BLOCK_THREADS, lanes a power of two up to 32, or all; `lanes` threads share a row.

// What a row comes to, from what each of its threads has. Every thread of the block must call it.
// A Part has beside(distance), the part of the lane so far away, and take(part, other).
template <typename Part>
__device__ __forceinline__ Part over_row(Part part) {
    const int lanes = blockDim.x < WARP_LANES ? blockDim.x : WARP_LANES;
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        take(part, part.beside(distance));
    }
    if (blockDim.x > WARP_LANES) {
        __shared__ Part of_warps[BLOCK_WARPS];
        __syncthreads();  // those of the row before may still be read
        if (threadIdx.x % WARP_LANES == 0) of_warps[threadIdx.x / WARP_LANES] = part;
        __syncthreads();
        part = of_warps[0];
        for (int w = 1; w < BLOCK_WARPS; ++w) {
            take(part, of_warps[w]);
        }
    }
    return part;
}

// Calls visit(col, count) for the packs of a row that fall to this thread.
template <int WIDTH, typename Visit>
__device__ __forceinline__ void for_packs(index_t cols, Visit visit) {
    const index_t step = index_t(blockDim.x) * WIDTH;
    for (index_t col = index_t(threadIdx.x) * WIDTH; col < cols; col += step) {
        visit(col, cols - col < WIDTH ? int(cols - col) : WIDTH);
    }
}
