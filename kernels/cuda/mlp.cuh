// Several narrow layers in one pass, the values between them in shared memory:
//
//     forward   y[l] = act(y[l - 1] @ w[l].T + b[l]),  y[-1] = x              (rows, width[l + 1])
//     backward  d[l] = (d[l - 1] @ w[l]) * act'(y[l]), d[-1] = x, layers from the last to the first
//               db[l] = sum over rows of d[l]
//
// with act or act' printed by gpugrad/backend/kernels/mlp.py as last(acc, more) for the last of the
// LAYERS and between(acc, more) for the others; more is b[l] of the column, or y[l].
// After Müller, "Fully fused neural networks", tiny-cuda-nn (2021).
//
// NumPy twin: np.matmul and gpugrad.backend.twin.Program, instruction "chain", layer by layer
//
// Layout   all matrices are row-major and dense; widths are 1..8 * WARPS * TILES. w[l] is (width[l + 1],
//          width[l]) where TURNED, else its transpose. more[l] is a vector where COLUMNS, else a
//          matrix. out[l] takes y[l] or d[l] and may be null. more may be out, as y[l] may be
//          overwritten by d[l]. total[l] takes the sums over rows and may be null.
// Grid     (ceil(rows / ROWS)), block (WARPS * 32). Each warp computes 8 columns, TILES times, of all
//          rows of the block. Where there are several blocks the sums come in as many parts, in
//          partial[l], and end_mlp() folds them.
// FLOP     2 * rows * width[l] * width[l + 1] a layer; EXACT as in gemm.cuh.
// Bytes    x, more and out once; the weights once a block, from L2.
// Order    additions follow ROWS alone: the same bits on every run.

constexpr int WARPS = 8;
constexpr int MOST = 8 * WARPS * TILES;

struct Net {
    const float* w[LAYERS];
    const float* more[LAYERS];
    float* out[LAYERS];
    float* total[LAYERS];
    float* partial[LAYERS];
    int width[LAYERS + 1];
};

// After a layer that another follows, and after the last.
__device__ float between(float acc, float more);
__device__ float last(float acc, float more);

__device__ __forceinline__ Result<SUM, float, float> sums_of(const Net& net, int l) {
    return {net.total[l], 1, net.partial[l], net.width[l + 1], 1, false};
}

template <bool TURNED, bool COLUMNS, bool EXACT>
__device__ __forceinline__ void run_mlp(const Net& net, const float* x, index_t rows) {
    // 4 words more, so that no two lanes of a fragment meet in a bank.
    __shared__ float values[ROWS][MOST + 4];
    const int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const int g = lane / 4, q = lane % 4;
    const index_t first = index_t(blockIdx.x) * ROWS;

    const int inputs = net.width[0], padded = (inputs + 7) / 8 * 8;
    for (int i = threadIdx.x; i < ROWS * padded; i += WARPS * WARP_LANES) {
        const int row = i / padded, col = i % padded;
        const bool there = first + row < rows && col < inputs;
        values[row][col] = there ? x[(first + row) * inputs + col] : 0;
    }
#pragma unroll 1
    for (int l = 0; l < LAYERS; ++l) {
        const int k = net.width[l], n = net.width[l + 1];
        const float* const w = net.w[l];
        float acc[ROWS / 16][TILES][4] = {};
        __syncthreads();  // all that this layer reads is there
        for (int part = q; part < k + q; part += 8) {
            unsigned b[TILES][2];
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                const int col = (warp + j * WARPS) * 8 + g;
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int deep = part + 4 * h;
                    const bool there = col < n && deep < k;
                    const int at = TURNED ? col * k + deep : deep * n + col;
                    b[j][h] = there ? static_cast<unsigned>(__float_as_int(w[at])) : 0;
                }
            }
#pragma unroll
            for (int i = 0; i < ROWS / 16; ++i) {
                unsigned a[4];
#pragma unroll
                for (int h = 0; h < 4; ++h) {
                    const float value = values[i * 16 + g + h % 2 * 8][part + h / 2 * 4];
                    a[h] = static_cast<unsigned>(__float_as_int(value));
                }
#pragma unroll
                for (int j = 0; j < TILES; ++j) {
                    if ((warp + j * WARPS) * 8 < n) Product<float, EXACT>::add(acc[i][j], a, b[j]);
                }
            }
        }
        __syncthreads();  // everyone has read it, and it can be overwritten
        float total[TILES][2] = {};
#pragma unroll
        for (int e = 0; e < ROWS / 16 * TILES * 4; ++e) {
            const int i = e / (TILES * 4), j = e / 4 % TILES, c = e % 4;
            const int row = i * 16 + g + c / 2 * 8;
            const int col = (warp + j * WARPS) * 8 + 2 * q + c % 2;
            const index_t at = (first + row) * n + col;
            const bool there = first + row < rows && col < n;
            float value = 0;  // what the next layer's last part reads beyond its columns
            if (there) {
                const float more = net.more[l][COLUMNS ? col : at];
                value = l + 1 < LAYERS ? between(acc[i][j][c], more) : last(acc[i][j][c], more);
                if (net.out[l]) net.out[l][at] = value;
            }
            values[row][col] = value;
            total[j][c % 2] += value;
        }
        if (!net.total[l]) continue;
        // A warp has all rows of its columns: lanes of one q share two of each tile.
#pragma unroll
        for (int e = 0; e < TILES * 2; ++e) {
            const int col = (warp + e / 2 * WARPS) * 8 + 2 * q + e % 2;
            const float sum = over_lanes<SUM>(total[e / 2][e % 2], 16, 4);
            if (g == 0 && col < n) sums_of(net, l).put(blockIdx.x, gridDim.x, col, sum);
        }
    }
}

// Grid and block as Result::fold() has them, blockIdx.y a layer.
__device__ __forceinline__ void end_mlp(const Net& net, index_t splits) {
    const int l = blockIdx.y;
    if (net.total[l]) sums_of(net, l).fold(splits);
}
