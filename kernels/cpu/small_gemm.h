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

// The sums of a tile of `rows` rows and `vectors` vectors, constants where this is inlined. They
// are variables: an array GCC would write to memory at every step of the loop.
INLINE void FN(tile_sums)(int rows, int vectors, int64_t k, const T *a, int64_t a_row,
                          int64_t a_col, const T *b, int64_t b_row, VECTOR *sums) {
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define DECLARE(i) VECTOR low##i = {0}, high##i = {0};
#define MULTIPLY(i)                                                                               \
    if (rows > i) {                                                                               \
        VECTOR x = a[i * a_row] - (VECTOR){0}; /* minus folds away; plus would not: -0 */         \
        low##i = VECTOR_FMA(x, low, low##i);                                                      \
        if (vectors > 1) high##i = VECTOR_FMA(x, high, high##i);                                  \
    }
#define LEAVE(i)                                                                                  \
    if (rows > i) {                                                                               \
        sums[i * vectors] = low##i;                                                               \
        if (vectors > 1) sums[i * vectors + 1] = high##i;                                         \
    }
    EACH_ROW(DECLARE)
    for (int64_t p = 0; p < k; p++, a += a_col, b += b_row) {
        VECTOR low = *(const VECTOR *)b, high = low;
        if (vectors > 1) high = *(const VECTOR *)(b + LANES);
        EACH_ROW(MULTIPLY)
    }
    EACH_ROW(LEAVE)
#undef EACH_ROW
#undef DECLARE
#undef MULTIPLY
#undef LEAVE
}

// C = alpha * sums + beta * C, the first `cols` columns.
INLINE void FN(write_tile)(int rows, int vectors, const VECTOR *sums, T alpha, T beta, T *c,
                           int64_t c_row, int cols) {
    for (int i = 0; i < rows; i++, c += c_row, sums += vectors) {
        if (cols == vectors * LANES) {
            for (int v = 0; v < vectors; v++) {
                VECTOR *to = (VECTOR *)(c + v * LANES), y = alpha * sums[v];
                if (beta != 0) y += beta * *to;
                *to = y;
            }
        } else {
            for (int j = 0; j < cols; j++) {
                T y = alpha * ((const T *)sums)[j];
                c[j] = beta == 0 ? y : beta * c[j] + y;
            }
        }
    }
}

#define TILE(rows, vectors)                                                                       \
    static ONE_LOOP void FN(tile_##rows##x##vectors)(const SmallGemm *q, int64_t i, int64_t j,    \
                                                     const T *panel, int64_t panel_row,           \
                                                     int cols) {                                  \
        VECTOR sums[rows * vectors];                                                              \
        FN(tile_sums)(rows, vectors, q->k, (const T *)q->a + i * q->a_row, q->a_row, q->a_col,    \
                      panel, panel_row, sums);                                                    \
        FN(write_tile)(rows, vectors, sums, (T)q->alpha, (T)q->beta,                              \
                       (T *)q->c + i * q->c_row + j, q->c_row, cols);                             \
    }
#define MOST_TILES(X) X(1, 1) X(1, 2) X(2, 1) X(2, 2) X(4, 1) X(4, 2)
MOST_TILES(TILE)
#if TILE_ROWS == 12
TILE(12, 1)
TILE(12, 2)
#elif TILE_ROWS == 8
TILE(8, 1)
TILE(8, 2)
#else
TILE(6, 1)
TILE(6, 2)
#endif
#undef TILE
#undef MOST_TILES

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
    const T *b = (const T *)q->b;
    for (int64_t j = 0; j < q->n; j += TILE_COLS) {
        int cols = (int)smaller(TILE_COLS, q->n - j), width = cols > LANES ? TILE_COLS : LANES;
        const T *panel = b + j * q->b_col;
        int64_t panel_row = q->b_row;
        if (cols < width || q->b_col != 1) {
            FN(pack)(q->k, cols, width, panel, q->b_row, q->b_col, (T *)q->work);
            panel = (const T *)q->work, panel_row = width;
        }
#define NAME_(rows, vectors) FN(tile_##rows##x##vectors)
#define NAME(rows, vectors) NAME_(rows, vectors)
#define TILE(rows) (width == LANES ? NAME(rows, 1) : NAME(rows, 2))(q, i, j, panel, panel_row, cols)
        int64_t i = 0;
        for (; i + TILE_ROWS <= q->m; i += TILE_ROWS) TILE(TILE_ROWS);
        for (; i + 4 <= q->m; i += 4) TILE(4);
        for (; i + 2 <= q->m; i += 2) TILE(2);
        for (; i < q->m; i++) TILE(1);
#undef TILE
#undef NAME
#undef NAME_
    }
}
