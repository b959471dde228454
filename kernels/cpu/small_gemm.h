// Small products, where a BLAS spends its time on preparing: included by loops.h for each type.
//
//     C = alpha * A B + beta * C          A (m, k), B (k, n), C (m, n); C is not read if beta = 0
//
// Layout   C is row-major. A has any two strides. B has one stride of 1; the other is its row.
// Method   panels of TILE_COLS columns of B, tiles of up to TILE_ROWS rows of C held in registers,
//          one pass over k for each tile. A panel is used as it lies when it is whole and its
//          columns are neighbours, else copied to `work`, zeros beyond the last column.
// NumPy twin: alpha * (a @ b) + beta * c

typedef T FN(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
#define VECTOR FN(vector)
#define LANES ((int)(VECTOR_BYTES / sizeof(T)))
#define TILE_COLS (2 * LANES)

// A tile of `rows` rows and `vectors` vectors; both are constants where it is inlined. Writes the
// first `cols` columns.
INLINE void FN(gemm_tile)(int rows, int vectors, int64_t k, const T *a, int64_t a_row,
                          int64_t a_col, const T *b, int64_t b_row, T alpha, T beta, T *c,
                          int64_t c_row, int cols) {
    VECTOR sum[TILE_ROWS][2] = {{{0}}};
    for (int64_t p = 0; p < k; p++, a += a_col, b += b_row) {
        VECTOR y[2];
        for (int v = 0; v < vectors; v++) y[v] = *(const VECTOR *)(b + v * LANES);
        for (int i = 0; i < rows; i++) {
            VECTOR x = (VECTOR){0} + a[i * a_row];
            for (int v = 0; v < vectors; v++) sum[i][v] = VECTOR_FMA(x, y[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; i++, c += c_row) {
        if (cols == vectors * LANES) {
            for (int v = 0; v < vectors; v++) {
                VECTOR *to = (VECTOR *)(c + v * LANES), y = alpha * sum[i][v];
                if (beta != 0) y += beta * *to;
                *to = y;
            }
        } else {
            VECTOR edge[2] = {{0}};  // a variable index into `sum` would move it out of registers
            for (int v = 0; v < vectors; v++) edge[v] = alpha * sum[i][v];
            const T *y = (const T *)edge;
            for (int j = 0; j < cols; j++) c[j] = beta == 0 ? y[j] : beta * c[j] + y[j];
        }
    }
}

// Columns of B as rows of the panel, `cols` of `width`.
INLINE void FN(pack)(int64_t k, int cols, int width, const T *b, int64_t b_row, int64_t b_col,
                     T *panel) {
    if (b_col == 1) {
        for (int64_t p = 0; p < k; p++) {
            for (int j = 0; j < cols; j++) panel[p * width + j] = b[p * b_row + j];
            for (int j = cols; j < width; j++) panel[p * width + j] = 0;
        }
        return;
    }
    for (int j = 0; j < cols; j++) {
        for (int64_t p = 0; p < k; p++) panel[p * width + j] = b[j * b_col + p];
    }
    for (int j = cols; j < width; j++) {
        for (int64_t p = 0; p < k; p++) panel[p * width + j] = 0;
    }
}

static void FN(small_gemm)(const SmallGemm *q) {
    const T *a = (const T *)q->a, *b = (const T *)q->b;
    T *c = (T *)q->c, alpha = (T)q->alpha, beta = (T)q->beta;
    for (int64_t j = 0; j < q->n; j += TILE_COLS) {
        int cols = (int)smaller(TILE_COLS, q->n - j), width = cols > LANES ? TILE_COLS : LANES;
        const T *panel = b + j * q->b_col;
        int64_t panel_row = q->b_row;
        if (cols < width || q->b_col != 1) {
            FN(pack)(q->k, cols, width, panel, q->b_row, q->b_col, (T *)q->work);
            panel = (const T *)q->work, panel_row = width;
        }
#define TILE(rows)                                                                                \
    (width == LANES ? FN(gemm_tile)(rows, 1, q->k, a + i * q->a_row, q->a_row, q->a_col, panel,   \
                                    panel_row, alpha, beta, c + i * q->c_row + j, q->c_row, cols) \
                    : FN(gemm_tile)(rows, 2, q->k, a + i * q->a_row, q->a_row, q->a_col, panel,   \
                                    panel_row, alpha, beta, c + i * q->c_row + j, q->c_row, cols))
        int64_t i = 0;
        for (; i + TILE_ROWS <= q->m; i += TILE_ROWS) TILE(TILE_ROWS);
        for (; i + 4 <= q->m; i += 4) TILE(4);
        for (; i + 2 <= q->m; i += 2) TILE(2);
        for (; i < q->m; i++) TILE(1);
#undef TILE
    }
}
