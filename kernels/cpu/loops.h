// The loops of one type. isa.h includes this twice, for double and then for float, under a target
// the compiler may vectorise for; what it defines ends in the table FN(kernels).
//
// Loops are written for one value at a time. `to` may be one of the operands, exactly: VECTOR_LOOP
// says so, for a compiler that found out at run time would fall back to single values.

#if TYPE == F4_TYPE
#define T float
#define FN(name) name##_f4
#define M(name) name##f  // libm's
#define VECTOR_FMA VECTOR_FMA_F4
#else
#define T double
#define FN(name) name##_f8
#define M(name) name
#define VECTOR_FMA VECTOR_FMA_F8
#endif
#define NAN_T ((T)__builtin_nanf(""))
#define INF_T ((T)__builtin_inff())
#define FMA(x, y, z) FMA_OF(M(__builtin_fma), x, y, z)
#define BLOCK ((int64_t)(BLOCK_BYTES / sizeof(T)))

#include "functions.h"

// ---- elementwise --------------------------------------------------------------------------------

#define OPERANDS const void *a_, const void *b_, const void *c_, const void *d_
#define READ_OPERANDS                                 \
    const T *a = a_, *b = b_, *c = c_, *d = d_;       \
    (void)b, (void)c, (void)d;
#define LOOP_AS(how, name, expression)                                                       \
    static void FN(loop_##name)(int64_t n, void *to, OPERANDS) {                             \
        READ_OPERANDS                                                                        \
        T *out = to;                                                                         \
        how for (int64_t i = 0; i < n; i++) out[i] = (expression);                           \
    }
#define LOOP(name, expression) LOOP_AS(VECTOR_LOOP, name, expression)
#define LIBM_LOOP(name, expression) LOOP_AS(, name, expression)  // calls do not vectorise
#define SUMMED_LOOP(name, expression)                                                        \
    LOOP(name, expression)                                                                   \
    static void FN(summed_##name)(int64_t n, void *to, OPERANDS, void *sums_) {              \
        READ_OPERANDS                                                                        \
        T *out = to, *sums = sums_;                                                          \
        VECTOR_LOOP for (int64_t i = 0; i < n; i++) {                                        \
            T y = (expression);                                                              \
            out[i] = y;                                                                      \
            sums[i] += y;                                                                    \
        }                                                                                    \
    }
#define X a[i]
#define Y b[i]
#define Z c[i]
#define W d[i]

INLINE T FN(sign)(T x) { return x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x; }

INLINE T FN(larger)(T x, T y) { return x > y || x != x ? x : y; }  // NaN wins, as in np.maximum
INLINE T FN(smaller)(T x, T y) { return x < y || x != x ? x : y; }

INLINE T FN(floor_mod)(T x, T y) {
    T r = M(fmod)(x, y);
    if (y == 0 || r != r) return r;
    if (r == 0) return M(__builtin_copysign)(0, y);
    return (y < 0) == (r < 0) ? r : r + y;
}

LOOP(add, X + Y)
LOOP(sub, X - Y)
LOOP(mul, X * Y)
LOOP(div, X / Y)
LOOP(neg, -X)
LOOP(abs, M(__builtin_fabs)(X))
LOOP(sqrt, M(__builtin_sqrt)(X))
LOOP(square, X * X)
LOOP(recip, 1 / X)
LOOP(exp, FN(exp)(X))
LOOP(expm1, FN(expm1)(X))
LOOP(log, FN(log)(X))
LOOP(log1p, FN(log1p)(X))
LIBM_LOOP(log2, M(log2)(X))
LIBM_LOOP(log10, M(log10)(X))
LOOP(tanh, FN(tanh)(X))
LOOP(sigmoid, FN(sigmoid)(X))
LIBM_LOOP(sin, M(sin)(X))
LIBM_LOOP(cos, M(cos)(X))
LIBM_LOOP(tan, M(tan)(X))
LIBM_LOOP(asin, M(asin)(X))
LIBM_LOOP(acos, M(acos)(X))
LIBM_LOOP(atan, M(atan)(X))
LIBM_LOOP(sinh, M(sinh)(X))
LIBM_LOOP(cosh, M(cosh)(X))
LIBM_LOOP(asinh, M(asinh)(X))
LIBM_LOOP(acosh, M(acosh)(X))
LIBM_LOOP(atanh, M(atanh)(X))
LIBM_LOOP(pow, M(pow)(X, Y))
LIBM_LOOP(atan2, M(atan2)(X, Y))
LIBM_LOOP(hypot, M(hypot)(X, Y))
LOOP(max, FN(larger)(X, Y))
LOOP(min, FN(smaller)(X, Y))
LOOP(floor, M(__builtin_floor)(X))
LOOP(ceil, M(__builtin_ceil)(X))
LOOP(trunc, M(__builtin_trunc)(X))
LOOP(rint, M(__builtin_rint)(X))
LOOP(sign, FN(sign)(X))
LOOP(copysign, M(__builtin_copysign)(X, Y))
LIBM_LOOP(remainder, FN(floor_mod)(X, Y))
LOOP(lt, X < Y)
LOOP(le, X <= Y)
LOOP(gt, X > Y)
LOOP(ge, X >= Y)
LOOP(eq, X == Y)
LOOP(ne, X != Y)
LOOP(and, (X != 0) & (Y != 0))
LOOP(or, (X != 0) | (Y != 0))
LOOP(xor, (X != 0) ^ (Y != 0))
LOOP(not, X == 0)
LOOP(where, X != 0 ? Y : Z)
LOOP(isnan, X != X)
LOOP(isinf, M(__builtin_fabs)(X) == INF_T)
LOOP(isfinite, M(__builtin_fabs)(X) < INF_T)
LOOP(mulz, X == 0 && X * Y != X * Y ? 0 : X * Y)

// Rounded after each operation: fusion changes no bit.
LOOP(add_add, (X + Y) + Z)
LOOP(add_sub, (X + Y) - Z)
LOOP(add_rsub, Z - (X + Y))
LOOP(add_mul, (X + Y) * Z)
LOOP(sub_add, (X - Y) + Z)
LOOP(sub_sub, (X - Y) - Z)
LOOP(sub_rsub, Z - (X - Y))
LOOP(sub_mul, (X - Y) * Z)
LOOP(mul_add, (X * Y) + Z)
LOOP(mul_sub, (X * Y) - Z)
LOOP(mul_rsub, Z - (X * Y))
LOOP(mul_mul, (X * Y) * Z)
LOOP(add_sigmoid, FN(sigmoid)(X + Y))
LOOP(add_tanh, FN(tanh)(X + Y))
LOOP(add_max, FN(larger)(X + Y, Z))
LOOP(sqrt_div, M(__builtin_sqrt)(X) / Y)
LOOP(sqrt_div_add, M(__builtin_sqrt)(X) / Y + Z)
LOOP(div_mul, (X / Y) * Z)
LOOP(div_mul_rsub, W - (X / Y) * Z)
SUMMED_LOOP(sub_mul_mul, ((X - Y) * Z) * W)
SUMMED_LOOP(mul_rsub_mul, (Z - X * Y) * W)
SUMMED_LOOP(gt_mul, (X > Y) * Z)

#undef X
#undef Y
#undef Z
#undef W

// ---- memory -------------------------------------------------------------------------------------

#define CASES(X)                                                                              \
    X(F4, float) X(F8, double) X(I1, int8_t) X(I2, int16_t) X(I4, int32_t) X(I8, int64_t)     \
    X(U1, uint8_t) X(U2, uint16_t) X(U4, uint32_t) X(U8, uint64_t)

static void FN(load)(int dtype, int64_t n, void *to, const void *from, int64_t stride) {
    T *out = to;
    switch (dtype) {
#define CASE(NAME, S)                                                                       \
    case NAME: {                                                                            \
        const S *in = from;                                                                 \
        if (stride == 0) {                                                                  \
            T value = (T)in[0];                                                             \
            for (int64_t i = 0; i < n; i++) out[i] = value;                                 \
        } else if (stride == 1) {                                                           \
            VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] = (T)in[i];                  \
        } else {                                                                            \
            for (int64_t i = 0; i < n; i++) out[i] = (T)in[i * stride];                     \
        }                                                                                   \
        break;                                                                              \
    }
        CASES(CASE)
#undef CASE
        default: {  // B1
            const uint8_t *in = from;
            for (int64_t i = 0; i < n; i++) out[i] = in[i * stride] != 0;
        }
    }
}

static void FN(store)(int dtype, int64_t n, void *to, int64_t stride, const void *from) {
    const T *in = from;
    switch (dtype) {
#define CASE(NAME, S)                                                                       \
    case NAME: {                                                                            \
        S *out = to;                                                                        \
        if (stride == 1) {                                                                  \
            VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] = (S)in[i];                  \
        } else {                                                                            \
            for (int64_t i = 0; i < n; i++) out[i * stride] = (S)in[i];                     \
        }                                                                                   \
        break;                                                                              \
    }
        CASES(CASE)
#undef CASE
        default: {
            uint8_t *out = to;
            for (int64_t i = 0; i < n; i++) out[i * stride] = in[i] != 0;
        }
    }
}

static void FN(load_rows)(int64_t rows, int64_t cols, void *to, const void *from, int64_t row,
                          int64_t col) {
    T *out = to;
    const T *in = from;
    for (int64_t i = 0; i < rows; i++, out += cols, in += row) {
        if (col == 0) {
            T value = in[0];
            for (int64_t j = 0; j < cols; j++) out[j] = value;
        } else if (col == 1) {
            VECTOR_LOOP for (int64_t j = 0; j < cols; j++) out[j] = in[j];
        } else {
            for (int64_t j = 0; j < cols; j++) out[j] = in[j * col];
        }
    }
}

// ---- reductions ---------------------------------------------------------------------------------

// In LANES partial results side by side, so n values are rounded about n / LANES + LANES times.
static double FN(reduce)(int kind, int64_t n, const void *from) {
    enum { LANES = 32 };
    const T *in = from;
    T lane[LANES];
    int64_t i = LANES;
    if (n < LANES) {
        double total = kind == SUM ? 0 : kind == MAX ? -INFINITY : INFINITY;
        for (i = 0; i < n; i++) {
            total = kind == SUM   ? total + in[i]
                    : kind == MAX ? larger_f8(total, in[i])
                                  : smaller_f8(total, in[i]);
        }
        return total;
    }
    for (int j = 0; j < LANES; j++) lane[j] = in[j];
#define HALVE(half, expression)                                               \
    for (int j = 0; j < half; j++) {                                          \
        T x = lane[j], y = lane[j + half];                                    \
        lane[j] = (expression);                                               \
    }
#define OVER(expression)                                                      \
    for (; i + LANES <= n; i += LANES) {                                      \
        for (int j = 0; j < LANES; j++) {                                     \
            T x = lane[j], y = in[i + j];                                     \
            lane[j] = (expression);                                           \
        }                                                                     \
    }                                                                         \
    for (int j = 0; i + j < n; j++) {                                         \
        T x = lane[j], y = in[i + j];                                         \
        lane[j] = (expression);                                               \
    }                                                                         \
    HALVE(16, expression) HALVE(8, expression) HALVE(4, expression)           \
    HALVE(2, expression) HALVE(1, expression)
    if (kind == SUM) {
        OVER(x + y)
    } else if (kind == MAX) {
        OVER(FN(larger)(x, y))
    } else {
        OVER(FN(smaller)(x, y))
    }
#undef OVER
#undef HALVE
    return lane[0];
}

static void FN(finish)(int kind, int64_t n, void *to, const void *from, double scale,
                       bool accumulate) {
    T *out = to, by = (T)scale;
    const T *in = from;
    if (!accumulate) {
        VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] = by * in[i];
    } else if (kind == SUM) {
        VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] += by * in[i];
    } else if (kind == MAX) {
        VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] = FN(larger)(out[i], by * in[i]);
    } else {
        VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] = FN(smaller)(out[i], by * in[i]);
    }
}

// ---- rows: softmax, cross-entropy ---------------------------------------------------------------
//
// Long rows one at a time. Short ones do not fill vectors: STRIP of them lie side by side, turned
// so that neighbouring values are of neighbouring rows. A NaN in a row reaches all of its results.

enum { FN(STRIP) = 32, FN(SHORT) = 32 };
#define STRIP FN(STRIP)

typedef struct {
    T z[FN(SHORT) * STRIP], e[FN(SHORT) * STRIP], top[STRIP], sum[STRIP], log_sum[STRIP];
} FN(Strip);

// z, e = exp(z - top) and its sum, of up to STRIP rows; lanes without a row hold zeros.
static void FN(exp_strip)(FN(Strip) *s, int64_t rows, int64_t cols, const T *z, int64_t z_row) {
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) s->z[j * STRIP + i] = z[i * z_row + j];
        for (int64_t i = rows; i < STRIP; i++) s->z[j * STRIP + i] = 0;
    }
    for (int i = 0; i < STRIP; i++) s->top[i] = s->z[i], s->sum[i] = 0;
    for (int64_t j = 1; j < cols; j++) {
        for (int i = 0; i < STRIP; i++) s->top[i] = FN(most)(s->top[i], s->z[j * STRIP + i]);
    }
    for (int64_t j = 0; j < cols; j++) {
        VECTOR_LOOP for (int i = 0; i < STRIP; i++) {
            T e = FN(exp_of_minus_abs)(s->z[j * STRIP + i] - s->top[i]);
            s->e[j * STRIP + i] = e;
            s->sum[i] += e;
        }
    }
    VECTOR_LOOP for (int i = 0; i < STRIP; i++) s->log_sum[i] = FN(log)(s->sum[i]);
}

// to = e * by, turned back.
static void FN(unturn)(const FN(Strip) *s, int64_t rows, int64_t cols, const T *by, T *to,
                       int64_t to_row) {
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) to[i * to_row + j] = s->e[j * STRIP + i] * by[i];
    }
}

// The same of one long row; returns the sum.
static T FN(exp_row)(int64_t cols, const T *z, T *e, T *top_) {
    T top = (T)FN(reduce)(MAX, cols, z);
    VECTOR_LOOP for (int64_t j = 0; j < cols; j++) e[j] = FN(exp_of_minus_abs)(z[j] - top);
    *top_ = top;
    return (T)FN(reduce)(SUM, cols, e);
}

static void FN(scale)(int64_t n, const T *from, T by, T *to) {
    VECTOR_LOOP for (int64_t i = 0; i < n; i++) to[i] = from[i] * by;
}

// The labels of `rows` rows from `first` on; how many came before one that is out of range.
static int64_t FN(labels)(const CrossEntropy *q, int64_t first, int64_t rows, int64_t *label) {
    switch (q->t_dtype) {
#define CASE(NAME, S)                                                                       \
    case NAME: {                                                                            \
        const S *t = (const S *)q->t + first * q->t_row;                                    \
        for (int64_t i = 0; i < rows; i++) label[i] = (int64_t)t[i * q->t_row];             \
        break;                                                                              \
    }
        CASES(CASE)
#undef CASE
    }
    for (int64_t i = 0; i < rows; i++) {
        if (label[i] < 0 || label[i] >= q->cols) return i;
    }
    return rows;
}
#undef CASES

static int64_t FN(cross_entropy)(const CrossEntropy *q) {
    const int64_t cols = q->cols, most = cols <= FN(SHORT) ? STRIP : 1;
    const T *z = (const T *)q->z;
    T *loss = (T *)q->loss, *residual = (T *)q->residual, *probability = (T *)q->probability;
    T scale = (T)q->scale, one[STRIP], each[STRIP];
    int64_t label[STRIP];
    FN(Strip) s;
    for (int64_t first = 0; first < q->rows; first += STRIP) {  // before anything is written
        int64_t rows = smaller(STRIP, q->rows - first), good = FN(labels)(q, first, rows, label);
        if (good < rows) return first + good;
    }
    for (int64_t first = 0; first < q->rows; first += most) {
        const int64_t rows = smaller(most, q->rows - first);
        T *e = (T *)q->work;
        if (most > 1) {
            FN(exp_strip)(&s, rows, cols, z + first * q->z_row, q->z_row);
        } else {
            s.sum[0] = FN(exp_row)(cols, z + first * q->z_row, e, s.top);
            s.log_sum[0] = FN(log)(s.sum[0]);
        }
        FN(labels)(q, first, rows, label);
        for (int64_t i = 0; loss && i < rows; i++) {
            T of_label = z[(first + i) * q->z_row + label[i]] - s.top[i];
            loss[(first + i) * q->loss_row] = s.log_sum[i] - of_label;
        }
        for (int64_t i = 0; i < (most > 1 ? STRIP : 1); i++) {
            one[i] = 1 / s.sum[i], each[i] = scale / s.sum[i];
        }
        if (probability) {
            T *to = probability + first * q->probability_row;
            if (most > 1) FN(unturn)(&s, rows, cols, one, to, q->probability_row);
            else FN(scale)(cols, e, one[0], to);
        }
        if (residual) {
            T *to = residual + first * q->residual_row;
            if (most > 1) FN(unturn)(&s, rows, cols, each, to, q->residual_row);
            else FN(scale)(cols, e, each[0], to);
            for (int64_t i = 0; i < rows; i++) {
                to[i * q->residual_row + label[i]] -= scale;
            }
        }
    }
    return -1;
}

static void FN(softmax)(const Softmax *q) {
    const int64_t cols = q->cols, most = cols <= FN(SHORT) ? STRIP : 1;
    FN(Strip) s;
    for (int64_t first = 0; first < q->rows; first += most) {
        const int64_t rows = smaller(most, q->rows - first);
        const T *x = (const T *)q->x + first * q->x_row;
        T *y = (T *)q->y + first * q->y_row, *e = (T *)q->work, one[STRIP];
        if (most > 1) {
            FN(exp_strip)(&s, rows, cols, x, q->x_row);
        } else {
            s.sum[0] = FN(exp_row)(cols, x, e, s.top);
            s.log_sum[0] = FN(log)(s.sum[0]);
        }
        for (int64_t i = 0; q->log && i < rows; i++) {
            const T *from = x + i * q->x_row, top = s.top[i], log_sum = s.log_sum[i];
            T *to = y + i * q->y_row;
            VECTOR_LOOP for (int64_t j = 0; j < cols; j++) to[j] = (from[j] - top) - log_sum;
        }
        if (q->log) continue;
        for (int64_t i = 0; i < (most > 1 ? STRIP : 1); i++) one[i] = 1 / s.sum[i];
        if (most > 1) FN(unturn)(&s, rows, cols, one, y, q->y_row);
        else FN(scale)(cols, e, one[0], y);
    }
}

#include "small_gemm.h"

#define LOOP_ENTRY(name, operands) FN(loop_##name),
#define FUSED_ENTRY(name) FN(loop_##name),
#define SUMMED_ENTRY(name) [OP_##name] = FN(summed_##name),
static const Kernels FN(kernels) = {
    .loop = {OPCODES(LOOP_ENTRY) FUSED(FUSED_ENTRY)},
    .summed = {SUMMED(SUMMED_ENTRY)},
    .load = FN(load),
    .store = FN(store),
    .load_rows = FN(load_rows),
    .reduce = FN(reduce),
    .finish = FN(finish),
    .cross_entropy = FN(cross_entropy),
    .softmax = FN(softmax),
    .small_gemm = FN(small_gemm),
};

#undef TYPE
#undef STRIP
#undef T
#undef FN
#undef M
#undef NAN_T
#undef INF_T
#undef FMA
#undef BLOCK
#undef LOOP_AS
#undef LOOP
#undef LIBM_LOOP
#undef SUMMED_LOOP
#undef OPERANDS
#undef READ_OPERANDS
#undef LOOP_ENTRY
#undef SUMMED_ENTRY
#undef FUSED_ENTRY
#undef VECTOR
#undef VECTOR_FMA
#undef LANES
#undef TILE_COLS
#undef BITS
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUND_MAGIC
#undef LN2_HI
#undef LN2_LO
#undef EXP_LOW
#undef EXP_HIGH
#undef SQRT_HALF_BITS
#undef TINIEST_NORMAL
#undef TANH_IS_1
#undef C
#undef POLYNOMIAL
