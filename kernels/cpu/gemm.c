// Matrix products: through a BLAS somebody else has loaded, or small_gemm.h where that is quicker.
//
//     C = alpha * alpha_at[0] * op(A) op(B) + beta * C        row-major; C is not read if beta = 0
//
// A BLAS call here uses one thread: its own threads and ours on the same cores slow each other down
// a hundredfold. The number is the whole process's, so it is set when the first run enters and put
// back when the last one leaves.
// NumPy twin: alpha * (a @ b) + beta * c

#include <pthread.h>

#include "program.h"

Blas blas;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int running, threads_before;

void blas_enter(void) {
    if (!blas.set_threads) return;
    pthread_mutex_lock(&lock);
    if (running++ == 0) {
        threads_before = blas.get_threads();
        if (threads_before != 1) blas.set_threads(1);
    }
    pthread_mutex_unlock(&lock);
}

void blas_leave(void) {
    if (!blas.set_threads) return;
    pthread_mutex_lock(&lock);
    if (--running == 0 && threads_before != 1) blas.set_threads(threads_before);
    pthread_mutex_unlock(&lock);
}

// In the child of a fork none of the runs goes on.
void blas_forked(void) {
    pthread_mutex_init(&lock, NULL);
    if (running && threads_before != 1) blas.set_threads(threads_before);
    running = 0;
}

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

#define CALL(T, INT, f)                                                                           \
    ((void (*)(int, int, int, INT, INT, INT, T, const void *, INT, const void *, INT, T, void *, \
               INT))f)(ROW_MAJOR, g->ta ? TRANS : NO_TRANS, g->tb ? TRANS : NO_TRANS, (INT)m,     \
                       (INT)n, (INT)k, (T)alpha, a, (INT)lda, b, (INT)ldb, (T)g->beta, c, (INT)ldc)

// Where small_gemm.h was faster than OpenBLAS 0.3.31 on a Zen 3 core: up to 2 x for 32 x 16 x 16,
// 1.1 x for 512 x 64 x 64. B must fit into half of the L1 cache, its panels into the workspace.
static bool is_small(const Gemm *g, int64_t n, int64_t k) {
    return k <= SMALL_GEMM_K && n * k * item_bytes[g->type] <= 32768 && !(g->ta && g->tb);
}

void gemm_prepare(Gemm *g, const Isa *isa, int64_t chunk_rows) {
    g->kernels = isa->of[g->type];
    g->small = is_small(g, g->n, g->rows == 'k' ? chunk_rows : g->k);
}

// Rows m0..m1 and columns n0..n1 of C, of one product of a stack.
void gemm_run(const Gemm *g, const Place *at, int64_t member, int64_t m0, int64_t m1, int64_t n0,
              int64_t n1) {
    int64_t m = m1 - m0, n = n1 - n0, k = g->rows == 'k' ? at->rows : g->k;
    int64_t item = item_bytes[g->type], lda = g->a.row, ldb = g->b.row, ldc = g->c.row;
    double alpha = g->alpha;
    if (m <= 0 || n <= 0) return;
    if (g->has_alpha_at) alpha *= *(const double *)address(&g->alpha_at, at);
    const char *a = address(&g->a, at) + (member * g->a_step + (g->ta ? m0 : m0 * lda)) * item;
    const char *b = address(&g->b, at) + (member * g->b_step + (g->tb ? n0 * ldb : n0)) * item;
    char *c = address(&g->c, at) + (member * g->c_step + m0 * ldc + n0) * item;
    if (g->small) {
        g->kernels->small_gemm(&(SmallGemm){
            .m = m, .n = n, .k = k, .a = a, .b = b, .c = c,
            .a_row = g->ta ? 1 : lda, .a_col = g->ta ? lda : 1,
            .b_row = g->tb ? 1 : ldb, .b_col = g->tb ? ldb : 1,
            .c_row = ldc, .alpha = alpha, .beta = g->beta, .work = at->scratch});
    } else if (g->type == F4 && blas.int_bits == 64) {
        CALL(float, int64_t, blas.of[F4]);
    } else if (g->type == F4) {
        CALL(float, int32_t, blas.of[F4]);
    } else if (blas.int_bits == 64) {
        CALL(double, int64_t, blas.of[F8]);
    } else {
        CALL(double, int32_t, blas.of[F8]);
    }
}
