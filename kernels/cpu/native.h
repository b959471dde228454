// What the files of the native CPU core share: operands, instructions, and the table of loops that
// each instruction set brings.
//
// A program is a list of instructions over 2-D operands in memory. Python builds it from tuples
// (module.c), run.c runs it, pool.c lends the threads. isa_*.c compile the same loops for three
// instruction sets; everything else is compiled once.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- operands -----------------------------------------------------------------------------------

enum { F4, F8, B1, I1, I2, I4, I8, U1, U2, U4, U8, DTYPES };  // the first two can be computed in

extern const int item_bytes[DTYPES];

enum { CHUNKED = 1, PRIVATE = 2 };

typedef struct {
    int64_t offset;    // bytes after the base address
    int64_t row, col;  // elements from one row, one column to the next; 0 broadcasts
    int32_t base;
    uint8_t dtype, flags;
} Operand;

// Where in a program a thread stands: what turns an operand into an address.
typedef struct {
    char *const *base;
    int64_t first_row;  // of the chunk, in a "rows" segment
    int64_t rows;       // of the chunk; what CHUNKED instructions take for their own
    int64_t private_bytes;
    int thread;
    char *scratch;  // this thread's
} Place;

static inline char *address(const Operand *o, const Place *at) {
    char *to = at->base[o->base] + o->offset;
    if (o->flags & CHUNKED) to += at->first_row * o->row * item_bytes[o->dtype];
    if (o->flags & PRIVATE) to += at->thread * at->private_bytes;
    return to;
}

// ---- elementwise operations ---------------------------------------------------------------------

// X(name, operands): the opcodes a chain may hold, by the names Python uses.
#define OPCODES(X)                                                                               \
    X(add, 2) X(sub, 2) X(mul, 2) X(div, 2) X(neg, 1) X(abs, 1) X(sqrt, 1) X(square, 1)          \
    X(recip, 1) X(exp, 1) X(expm1, 1) X(log, 1) X(log1p, 1) X(log2, 1) X(log10, 1) X(tanh, 1)    \
    X(sigmoid, 1) X(sin, 1) X(cos, 1) X(tan, 1) X(asin, 1) X(acos, 1) X(atan, 1) X(sinh, 1)      \
    X(cosh, 1) X(asinh, 1) X(acosh, 1) X(atanh, 1) X(pow, 2) X(atan2, 2) X(hypot, 2) X(max, 2)   \
    X(min, 2) X(floor, 1) X(ceil, 1) X(trunc, 1) X(rint, 1) X(sign, 1) X(copysign, 2)            \
    X(remainder, 2) X(lt, 2) X(le, 2) X(gt, 2) X(ge, 2) X(eq, 2) X(ne, 2) X(and, 2) X(or, 2)     \
    X(xor, 2) X(not, 1) X(where, 3) X(isnan, 1) X(isinf, 1) X(isfinite, 1) X(mulz, 2)

// X(name): two or three operations in one pass; chain.c puts them in the place of single ones.
#define FUSED(X)                                                                                 \
    X(add_add) X(add_sub) X(add_rsub) X(add_mul) X(sub_add) X(sub_sub) X(sub_rsub) X(sub_mul)    \
    X(mul_add) X(mul_sub) X(mul_rsub) X(mul_mul) X(add_sigmoid) X(add_tanh) X(add_max)           \
    X(sqrt_div) X(sqrt_div_add) X(div_mul) X(div_mul_rsub) SUMMED(X)

// X(name): the backward of sigmoid, tanh and relu, which may also add up columns as they go.
#define SUMMED(X) X(sub_mul_mul) X(mul_rsub_mul) X(gt_mul)

#define NAME_OPCODE(name, operands) OP_##name,
#define NAME_FUSED(name) OP_##name,
enum { OPCODES(NAME_OPCODE) SINGLE_OPS, FUSED_BEFORE = SINGLE_OPS - 1, FUSED(NAME_FUSED) ALL_OPS };

// to[i] = a[i] . b[i] . c[i] . d[i] for i < n. `to` may be one of them; otherwise nothing overlaps.
typedef void (*Loop)(int64_t n, void *to, const void *a, const void *b, const void *c,
                     const void *d);

// The same, and sums[i] += to[i].
typedef void (*SummedLoop)(int64_t n, void *to, const void *a, const void *b, const void *c,
                           const void *d, void *sums);

enum { SUM, MAX, MIN, KINDS };  // reductions

typedef struct {
    int64_t rows, cols;
    const char *z, *t;
    char *loss, *residual, *probability;  // each may be null
    int64_t z_row, t_row, loss_row, residual_row, probability_row;
    int t_dtype;
    double scale;
    char *work;  // cols values
} CrossEntropy;

typedef struct {
    int64_t rows, cols, x_row, y_row;
    const char *x;
    char *y, *work;
    bool log;
} Softmax;

typedef struct {
    int64_t m, n, k;
    const char *a, *b;
    char *c;
    int64_t a_row, a_col, b_row, b_col, c_row;  // elements; b_row or b_col is 1, c is row-major
    double alpha, beta;
    char *work;  // SMALL_GEMM_WORK values
} SmallGemm;

// The loops of one instruction set for one type, float or double; T is that type.
typedef struct {
    Loop loop[ALL_OPS];
    SummedLoop summed[ALL_OPS];  // null but for SUMMED
    // n values of `dtype`, `stride` elements apart, to T and back.
    void (*load)(int dtype, int64_t n, void *to, const void *from, int64_t stride);
    void (*store)(int dtype, int64_t n, void *to, int64_t stride, const void *from);
    // rows x cols, T on both sides, `to` dense.
    void (*load_rows)(int64_t rows, int64_t cols, void *to, const void *from, int64_t row,
                      int64_t col);
    double (*reduce)(int kind, int64_t n, const void *from);
    // to[i] = scale * from[i], put together with what is there by `kind` when `accumulate`.
    void (*finish)(int kind, int64_t n, void *to, const void *from, double scale, bool accumulate);
    int64_t (*cross_entropy)(const CrossEntropy *);  // the row of a label out of range, or -1
    void (*softmax)(const Softmax *);
    void (*small_gemm)(const SmallGemm *);
} Kernels;

typedef struct {
    const char *name;
    const Kernels *of[2];  // F4, F8
} Isa;

extern const Isa isa_baseline, isa_avx2, isa_avx512;

const Isa *isa_find(const char *name);  // null if unknown or not of this CPU; null name: the best
const Isa *isa_at(int i);               // the i-th this CPU has, best first; null at the end

// Bytes of a block: what a chain computes at a time, held in the L1 cache.
enum { BLOCK_BYTES = 4096, ALIGN = 64 };

enum { SMALL_GEMM_K = 320, SMALL_GEMM_WORK = SMALL_GEMM_K * 32 };

static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
