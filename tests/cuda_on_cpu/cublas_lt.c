/* What gpugrad/backend/cublas.py calls of cuBLASLt, on host memory: plain loops, column-major as the
 * library is, in double precision. A test tool; no GPU and none of the library's code is involved.
 *
 * A product is not run when it is enqueued but handed to `gg_on_matmul`, which runs it now with
 * gg_run, or keeps it for when the graph that is being captured is launched. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, F64 = 1, F16 = 2 };
enum { COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_BF16 = 75, COMPUTE_TF32 = 77 };

enum { PLAIN = 0, BIAS = 4, SUMS = 512 };

typedef struct {
    int compute, scale, pointer_mode, transposed[2], epilogue;
    void *vector;
} Operation;

typedef struct {
    int type;
    uint64_t rows, cols;
    int64_t step;
} Layout;

typedef struct {
    uint64_t workspace_bytes;
    uint32_t reductions, alignment[4];
} Preference;

typedef struct {
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
} Found;

typedef struct {
    Operation operation;
    Layout a, b, c;
    double scalars[2]; /* where they were on the host */
    const void *alpha, *beta, *from_a, *from_b;
    void *to, *workspace;
    size_t workspace_bytes;
} Matmul;

void (*gg_on_matmul)(Matmul *) = 0;

size_t cublasLtGetVersion(void) { return 130000; }

int cublasLtCreate(void **handle) {
    *handle = malloc(1);
    return OK;
}

int cublasLtMatmulDescCreate(void **operation, int compute, int scale) {
    const int rounded = scale == F32 && (compute == COMPUTE_TF32 || compute == COMPUTE_BF16);
    if (compute != (scale == F64 ? COMPUTE_64F : COMPUTE_32F) && !rounded)
        return INVALID;
    Operation *made = *operation = calloc(1, sizeof *made);
    made->compute = compute;
    made->scale = scale;
    return OK;
}

int cublasLtMatmulDescSetAttribute(void *operation, int name, const void *value, size_t bytes) {
    Operation *op = operation;
    int32_t word;
    if (name == 8 && bytes == sizeof op->vector) {
        memcpy(&op->vector, value, bytes);
        return OK;
    }
    if (bytes != sizeof word)
        return INVALID;
    memcpy(&word, value, sizeof word);
    switch (name) {
        case 2: op->pointer_mode = word; return OK;
        case 3: op->transposed[0] = word; return OK;
        case 4: op->transposed[1] = word; return OK;
        case 7: op->epilogue = word; return word == BIAS || word == SUMS ? OK : INVALID;
        default: return INVALID;
    }
}

int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t cols, int64_t step) {
    if (!rows || !cols || step < (int64_t)rows || type < F32 || type > F16)
        return INVALID;
    Layout *made = *layout = malloc(sizeof *made);
    *made = (Layout){type, rows, cols, step};
    return OK;
}

int cublasLtMatmulPreferenceCreate(void **preference) {
    *preference = calloc(1, sizeof(Preference));
    return OK;
}

int cublasLtMatmulPreferenceDestroy(void *preference) {
    free(preference);
    return OK;
}

int cublasLtMatmulPreferenceSetAttribute(void *preference, int name, const void *value,
                                         size_t bytes) {
    Preference *p = preference;
    if (name == 1 && bytes == 8)
        memcpy(&p->workspace_bytes, value, 8);
    else if (name == 3 && bytes == 4)
        memcpy(&p->reductions, value, 4);
    else if (name >= 5 && name <= 8 && bytes == 4)
        memcpy(&p->alignment[name - 5], value, 4);
    else
        return INVALID;
    return OK;
}

static uint64_t rows_of(const Layout *x, int transposed) { return transposed ? x->cols : x->rows; }

static uint64_t cols_of(const Layout *x, int transposed) { return transposed ? x->rows : x->cols; }

static int fits(const Operation *op, const Layout *a, const Layout *b, const Layout *c) {
    const int *t = op->transposed;
    return a->type == c->type && b->type == c->type && (c->type == F64) == (op->scale == F64) &&
           rows_of(a, t[0]) == c->rows && cols_of(b, t[1]) == c->cols &&
           cols_of(a, t[0]) == rows_of(b, t[1]);
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c,
                                   void *d, void *preference, int wanted, void *results,
                                   int *count) {
    Preference *p = preference;
    Layout *in = c, *out = d;
    if (!handle || !fits(operation, a, b, c) || memcmp(in, out, sizeof *in) || wanted < 1)
        return INVALID;
    const Operation *op = operation;
    const uint64_t vector = (uint64_t)op->vector & -(uint64_t)op->vector;
    *count = wanted < 2 ? wanted : 2; /* proposals, which here are all alike */
    for (Found *found = results; found < (Found *)results + *count; found++) {
        memset(found, 0, sizeof *found);
        memcpy(found->algorithm, p->alignment, sizeof p->alignment); /* what it may rely on */
        found->algorithm[2] = vector;
        found->workspace_bytes = p->workspace_bytes < 4096 ? p->workspace_bytes : 4096;
    }
    return OK;
}

static double number(const Layout *x, const void *at, uint64_t row, uint64_t col) {
    const size_t i = row + col * (size_t)x->step;
    if (x->type == F16)
        return ((const _Float16 *)at)[i];
    return x->type == F64 ? ((const double *)at)[i] : ((const float *)at)[i];
}

static double scalar(const Matmul *m, const void *at, int which) {
    if (!m->operation.pointer_mode)
        return m->scalars[which];
    return m->operation.scale == F64 ? *(const double *)at : *(const float *)at;
}

static void store(const Layout *x, void *to, size_t at, double value) {
    if (x->type == F64)
        ((double *)to)[at] = value;
    else if (x->type == F16)
        ((_Float16 *)to)[at] = (_Float16)(float)value;
    else
        ((float *)to)[at] = (float)value;
}

void gg_run(Matmul *m) {
    const int *t = m->operation.transposed;
    const double alpha = scalar(m, m->alpha, 0), beta = scalar(m, m->beta, 1);
    const uint64_t inner = cols_of(&m->a, t[0]);
    if (m->workspace_bytes)
        memset(m->workspace, 0xff, m->workspace_bytes); /* it is the product's to write */
    for (uint64_t j = 0; j < m->c.cols; j++) {
        for (uint64_t i = 0; i < m->c.rows; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < inner; k++)
                sum += number(&m->a, m->from_a, t[0] ? k : i, t[0] ? i : k) *
                       number(&m->b, m->from_b, t[1] ? j : k, t[1] ? k : j);
            const size_t at = i + j * (size_t)m->c.step;
            sum = alpha * sum + (beta ? beta * number(&m->c, m->to, i, j) : 0);
            if (m->operation.epilogue == BIAS)
                sum += number(&m->c, m->operation.vector, i, 0);
            store(&m->c, m->to, at, sum);
        }
        if (m->operation.epilogue == SUMS) {
            double sum = 0;
            for (uint64_t k = 0; k < inner; k++)
                sum += number(&m->b, m->from_b, t[1] ? j : k, t[1] ? k : j);
            store(&m->c, m->operation.vector, j, sum);
        }
    }
}

static int aligned(const void *at, uint32_t bytes) { return (uintptr_t)at % bytes == 0; }

int cublasLtMatmul(void *handle, void *operation, const void *alpha, const void *a, void *layout_a,
                   const void *b, void *layout_b, const void *beta, const void *c, void *layout_c,
                   void *d, void *layout_d, const void *algorithm, void *workspace, size_t bytes,
                   void *stream) {
    const Operation *op = operation;
    uint32_t alignment[4];
    memcpy(alignment, algorithm, sizeof alignment);
    const uint64_t vector = ((const uint64_t *)algorithm)[2];
    if (!handle || c != d || layout_c != layout_d ||
        !fits(op, layout_a, layout_b, layout_c))
        return INVALID;
    if (!aligned(a, alignment[0]) || !aligned(b, alignment[1]) || !aligned(d, alignment[3]) ||
        (bytes && !workspace) || (op->epilogue && !aligned(op->vector, (uint32_t)vector)))
        return NOT_SUPPORTED;
    Matmul *m = malloc(sizeof *m);
    *m = (Matmul){*op, *(Layout *)layout_a, *(Layout *)layout_b, *(Layout *)layout_c, {0, 0},
                  alpha, beta, a, b, d, workspace, bytes};
    if (!op->pointer_mode) {
        m->scalars[0] = op->scale == F64 ? *(const double *)alpha : *(const float *)alpha;
        m->scalars[1] = op->scale == F64 ? *(const double *)beta : *(const float *)beta;
    }
    gg_on_matmul(m);
    return OK;
}
