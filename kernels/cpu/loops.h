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

// ---- elementwise ---------------------------------------------------------------------------------

#define OPERANDS const void *a_, const void *b_, const void *c_, const void *d_
#define READ_OPERANDS                                 \
    const T *a = a_, *b = b_, *c = c_, *d = d_;       \
    (void)b, (void)c, (void)d;
#define LOOP(name, expression)                                                               \
    static void FN(loop_##name)(int64_t n, void *to, OPERANDS) {                             \
        READ_OPERANDS                                                                        \
        T *out = to;                                                                         \
        VECTOR_LOOP for (int64_t i = 0; i < n; i++) out[i] = (expression);                   \
    }
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
LOOP(log2, M(log2)(X))
LOOP(log10, M(log10)(X))
LOOP(tanh, FN(tanh)(X))
LOOP(sigmoid, FN(sigmoid)(X))
LOOP(sin, M(sin)(X))
LOOP(cos, M(cos)(X))
LOOP(tan, M(tan)(X))
LOOP(asin, M(asin)(X))
LOOP(acos, M(acos)(X))
LOOP(atan, M(atan)(X))
LOOP(sinh, M(sinh)(X))
LOOP(cosh, M(cosh)(X))
LOOP(asinh, M(asinh)(X))
LOOP(acosh, M(acosh)(X))
LOOP(atanh, M(atanh)(X))
LOOP(atan2, M(atan2)(X, Y))
LOOP(hypot, M(hypot)(X, Y))
LOOP(max, FN(larger)(X, Y))
LOOP(min, FN(smaller)(X, Y))
LOOP(floor, M(__builtin_floor)(X))
LOOP(ceil, M(__builtin_ceil)(X))
LOOP(trunc, M(__builtin_trunc)(X))
LOOP(rint, M(__builtin_rint)(X))
LOOP(sign, FN(sign)(X))
LOOP(copysign, M(__builtin_copysign)(X, Y))
LOOP(remainder, FN(floor_mod)(X, Y))
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
SUMMED_LOOP(sub_mul_mul, ((X - Y) * Z) * W)
SUMMED_LOOP(mul_rsub_mul, (Z - X * Y) * W)
SUMMED_LOOP(gt_mul, (X > Y) * Z)

#if TYPE == F4_TYPE
// e^(y ln x) in double where x is positive and finite; the many special cases are libm's.
static void loop_pow_f4(int64_t n, void *to, OPERANDS) {
    enum { STRIP = 64 };
    READ_OPERANDS
    float *out = to, x[STRIP], y[STRIP];  // copies, for `to` may be a or b
    for (int64_t start = 0; start < n; start += STRIP) {
        int count = (int)smaller(STRIP, n - start), odd = 0;
        for (int i = 0; i < count; i++) {
            x[i] = a[start + i], y[i] = b[start + i];
            odd |= !(x[i] > 0 && x[i] < INF_T && y[i] - y[i] == 0);
        }
        VECTOR_LOOP for (int i = 0; i < count; i++) {
            out[start + i] = (float)exp_f8((double)y[i] * log_f8(x[i]));
        }
        for (int i = 0; odd && i < count; i++) {
            if (!(x[i] > 0 && x[i] < INF_T && y[i] - y[i] == 0)) out[start + i] = powf(x[i], y[i]);
        }
    }
}
#else
LOOP(pow, pow(X, Y))
#endif
#undef X
#undef Y
#undef Z
#undef W

// ---- memory --------------------------------------------------------------------------------------

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
#undef CASES

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

// ---- reductions ----------------------------------------------------------------------------------

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
    for (int half = LANES / 2; half; half /= 2) {                             \
        for (int j = 0; j < half; j++) {                                      \
            T x = lane[j], y = lane[j + half];                                \
            lane[j] = (expression);                                           \
        }                                                                     \
    }
    if (kind == SUM) {
        OVER(x + y)
    } else if (kind == MAX) {
        OVER(FN(larger)(x, y))
    } else {
        OVER(FN(smaller)(x, y))
    }
#undef OVER
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

// ---- rows: softmax, cross-entropy ----------------------------------------------------------------
//
// Blocks of whole rows: d = z - max by rows, e^d over the block at once (rows may be short, and
// short loops do not fill vectors), then the sums by rows.

// d and e^d for `rows` rows; sum of each row's e^d. A NaN in a row reaches all of its results.
static void FN(exp_rows)(int64_t rows, int64_t cols, const T *z, int64_t z_row, T *d, T *e,
                         T *sum) {
    for (int64_t i = 0; i < rows; i++) {
        const T *in = z + i * z_row;
        T *out = d + i * cols, top = in[0];
        if (cols >= 64) {
            top = (T)FN(reduce)(MAX, cols, in);
        } else {
            for (int64_t j = 1; j < cols; j++) top = in[j] > top ? in[j] : top;
        }
        VECTOR_LOOP for (int64_t j = 0; j < cols; j++) out[j] = in[j] - top;
    }
    FN(loop_exp)(rows * cols, e, d, d, d, d);
    for (int64_t i = 0; i < rows; i++) {
        const T *in = e + i * cols;
        if (cols >= 64) {
            sum[i] = (T)FN(reduce)(SUM, cols, in);
        } else {
            T total = in[0];
            for (int64_t j = 1; j < cols; j++) total += in[j];
            sum[i] = total;
        }
    }
}

static int64_t FN(label)(int dtype, const char *t, int64_t at) {
    switch (dtype) {
        case I1: return ((const int8_t *)t)[at];
        case I2: return ((const int16_t *)t)[at];
        case I4: return ((const int32_t *)t)[at];
        case I8: return ((const int64_t *)t)[at];
        case U2: return ((const uint16_t *)t)[at];
        case U4: return ((const uint32_t *)t)[at];
        case U8: return (int64_t)((const uint64_t *)t)[at];
        default: return ((const uint8_t *)t)[at];
    }
}

static int64_t FN(cross_entropy)(const CrossEntropy *q) {
    int64_t cols = q->cols, most = cols < BLOCK ? BLOCK / cols : 1, wide = larger(cols, BLOCK);
    T *d = (T *)q->work, *e = d + wide, *sum = e + wide, *log_sum = sum + BLOCK, by = (T)q->scale;
    for (int64_t i = 0; i < q->rows; i++) {  // before anything is written
        int64_t t = FN(label)(q->t_dtype, q->t, i * q->t_row);
        if (t < 0 || t >= cols) return i;
    }
    for (int64_t first = 0; first < q->rows; first += most) {
        int64_t rows = smaller(most, q->rows - first);
        FN(exp_rows)(rows, cols, (const T *)q->z + first * q->z_row, q->z_row, d, e, sum);
        if (q->loss) {
            T *loss = (T *)q->loss + first * q->loss_row;
            FN(loop_log)(rows, log_sum, sum, sum, sum, sum);
            for (int64_t i = 0; i < rows; i++) {
                int64_t t = FN(label)(q->t_dtype, q->t, (first + i) * q->t_row);
                loss[i * q->loss_row] = log_sum[i] - d[i * cols + t];
            }
        }
        if (q->probability) {
            for (int64_t i = 0; i < rows; i++) {
                T *out = (T *)q->probability + (first + i) * q->probability_row;
                T one = 1 / sum[i];
                VECTOR_LOOP for (int64_t j = 0; j < cols; j++) out[j] = e[i * cols + j] * one;
            }
        }
        if (q->residual) {
            for (int64_t i = 0; i < rows; i++) {
                T *out = (T *)q->residual + (first + i) * q->residual_row;
                T each = by / sum[i];
                VECTOR_LOOP for (int64_t j = 0; j < cols; j++) out[j] = e[i * cols + j] * each;
                out[FN(label)(q->t_dtype, q->t, (first + i) * q->t_row)] -= by;
            }
        }
    }
    return -1;
}

static void FN(softmax)(const Softmax *q) {
    int64_t cols = q->cols, most = cols < BLOCK ? BLOCK / cols : 1, wide = larger(cols, BLOCK);
    T *d = (T *)q->work, *e = d + wide, *sum = e + wide;
    for (int64_t first = 0; first < q->rows; first += most) {
        int64_t rows = smaller(most, q->rows - first);
        FN(exp_rows)(rows, cols, (const T *)q->x + first * q->x_row, q->x_row, d, e, sum);
        if (q->log) FN(loop_log)(rows, sum, sum, sum, sum, sum);
        for (int64_t i = 0; i < rows; i++) {
            T *out = (T *)q->y + (first + i) * q->y_row, s = q->log ? sum[i] : 1 / sum[i];
            const T *in = (q->log ? d : e) + i * cols;
            if (q->log) {
                VECTOR_LOOP for (int64_t j = 0; j < cols; j++) out[j] = in[j] - s;
            } else {
                VECTOR_LOOP for (int64_t j = 0; j < cols; j++) out[j] = in[j] * s;
            }
        }
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
#undef T
#undef FN
#undef M
#undef NAN_T
#undef INF_T
#undef FMA
#undef BLOCK
#undef LOOP
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
