// The opcodes of fused elementwise code (gpugrad/compiler/expr.py), on one float or double each;
// those of WHOLE there on one index_t as well, which wraps around as NumPy's int64 does.
//
// Each means what NumPy's function does: see NUMPY in gpugrad/backend/twin.py, their twin. Results
// are rounded after every operation: products go through __fmul_rn, which nvcc never joins with a
// sum into one FMA, so a fused chain computes what its ops would one by one. A truth is 0 or 1.

#define OP_ARGUMENTS_1(T) T x
#define OP_ARGUMENTS_2(T) T x, T y
#define OP_ARGUMENTS_3(T) T x, T y, T z
#define OP_AS(COUNT, NAME, IN_FLOAT, IN_DOUBLE)                                                    \
    __device__ __forceinline__ float op_##NAME(OP_ARGUMENTS_##COUNT(float)) { return IN_FLOAT; }   \
    __device__ __forceinline__ double op_##NAME(OP_ARGUMENTS_##COUNT(double)) { return IN_DOUBLE; }
#define OP(COUNT, NAME, EXPRESSION) OP_AS(COUNT, NAME, EXPRESSION, EXPRESSION)
#define OP_WHOLE(COUNT, NAME, EXPRESSION)                                                          \
    __device__ __forceinline__ index_t op_##NAME(OP_ARGUMENTS_##COUNT(index_t)) {                  \
        return EXPRESSION;                                                                         \
    }
#define OP_ALL(COUNT, NAME, EXPRESSION)                                                            \
    OP(COUNT, NAME, EXPRESSION)                                                                    \
    OP_WHOLE(COUNT, NAME, EXPRESSION)
#define WRAPPING(EXPRESSION) static_cast<index_t>(EXPRESSION)  // of a sum without sign
#define OP_LIBRARY(NAME, FUNCTION) OP_AS(1, NAME, FUNCTION##f(x), FUNCTION(x))
#define OP_LIBRARY_2(NAME, FUNCTION) OP_AS(2, NAME, FUNCTION##f(x, y), FUNCTION(x, y))

OP(2, add, x + y)
OP(2, sub, x - y)
OP_AS(2, mul, __fmul_rn(x, y), __dmul_rn(x, y))
OP(2, div, x / y)
OP(1, neg, -x)
OP_WHOLE(2, add, WRAPPING(0ull + x + y))
OP_WHOLE(2, sub, WRAPPING(0ull + x - y))
OP_WHOLE(2, mul, WRAPPING(1ull * x * y))
OP_WHOLE(1, neg, WRAPPING(0ull - x))
OP_WHOLE(1, abs, x < 0 ? op_neg(x) : x)
OP_ALL(1, square, op_mul(x, x))
OP(1, recip, 1 / x)
OP_LIBRARY(abs, fabs)
OP_LIBRARY(sqrt, sqrt)
OP_LIBRARY(exp, exp)
OP_LIBRARY(expm1, expm1)
OP_LIBRARY(log, log)
OP_LIBRARY(log1p, log1p)
OP_LIBRARY(log2, log2)
OP_LIBRARY(log10, log10)
OP_LIBRARY(tanh, tanh)
OP_LIBRARY(sin, sin)
OP_LIBRARY(cos, cos)
OP_LIBRARY(tan, tan)
OP_LIBRARY(asin, asin)
OP_LIBRARY(acos, acos)
OP_LIBRARY(atan, atan)
OP_LIBRARY(sinh, sinh)
OP_LIBRARY(cosh, cosh)
OP_LIBRARY(asinh, asinh)
OP_LIBRARY(acosh, acosh)
OP_LIBRARY(atanh, atanh)
OP_LIBRARY(floor, floor)
OP_LIBRARY(ceil, ceil)
OP_LIBRARY(trunc, trunc)
OP_LIBRARY(rint, rint)  // ties to even
OP_LIBRARY_2(pow, pow)
OP_LIBRARY_2(atan2, atan2)
OP_LIBRARY_2(hypot, hypot)
OP_LIBRARY_2(copysign, copysign)
OP_LIBRARY_2(fmod, fmod)  // for remainder

OP(1, isnan, x != x)
OP_AS(1, isinf, fabsf(x) == __int_as_float(0x7f800000),
      fabs(x) == __longlong_as_double(0x7ff0000000000000LL))
OP_AS(1, isfinite, fabsf(x) < __int_as_float(0x7f800000),
      fabs(x) < __longlong_as_double(0x7ff0000000000000LL))
OP_AS(1, half, float(f16(x)), float(f16(x)))  // rounded to half precision
OP_ALL(1, not, x == 0)
OP_ALL(2, lt, x < y)
OP_ALL(2, le, x <= y)
OP_ALL(2, gt, x > y)
OP_ALL(2, ge, x >= y)
OP_ALL(2, eq, x == y)
OP_ALL(2, ne, x != y)
OP_ALL(2, and, x != 0 && y != 0)
OP_ALL(2, or, x != 0 || y != 0)
OP_ALL(2, xor, (x != 0) != (y != 0))
OP_ALL(3, where, x != 0 ? y : z)

// A NaN on either side is the result.
OP_ALL(2, max, x > y || x != x ? x : y)
OP_ALL(2, min, x < y || x != x ? x : y)
OP_ALL(1, sign, x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x)

// Where x is 0 and y infinite or NaN, the product is 0.
OP(2, mulz, x == 0 && op_mul(x, y) != op_mul(x, y) ? 0 : op_mul(x, y))

// e^-|x| never overflows. It is the numerator where x < 0, so tiny results keep their digits.
template <typename T>
__device__ __forceinline__ T op_sigmoid(T x) {
    const T e = op_exp(-op_abs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

// With the sign of y, as np.remainder.
template <typename T>
__device__ __forceinline__ T op_remainder(T x, T y) {
    const T r = op_fmod(x, y);
    if (y == 0 || r != r) return r;
    if (r == 0) return op_copysign(T(0), y);
    return (y < 0) == (r < 0) ? r : r + y;
}
