// exp, expm1, log, log1p, tanh and sigmoid as straight-line code, so that loops over them
// vectorise. Included by loops.h, once for float and once for double. Worst errors found among 6e8
// floats, in ulp: exp 1.1, expm1 1.7, log 0.9, log1p 1.5, tanh 2.5, sigmoid 2.4.
//
// Range reduction: e^x = 2^k e^r, k = rint(x / ln 2); x = 2^k (1 + f), log(1 + f) by atanh. The
// coefficients were fitted at Chebyshev nodes. ln 2 and x / ln 2 are split so that k * LN2_HI is
// exact: without FMA nothing is lost but speed.
// NumPy twins: np.exp, np.expm1, np.log, np.log1p, np.tanh; ops.elementwise.sigmoid.

#if TYPE == F4_TYPE
#define BITS uint32_t
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUND_MAGIC 12582912.0f  // 1.5 * 2^23: adding it rounds to an integer in the low bits
#define LN2_HI 0.693359375f
#define LN2_LO -2.12194440e-4f
#define EXP_LOW -104.0f
#define EXP_HIGH 89.0f
#define SQRT_HALF_BITS 0x3f3504f3u
#define TINIEST_NORMAL 1.17549435e-38f
#define TANH_IS_1 20.0f
#define C(x) x##f
static const T FN(exp_tail)[] = {0.5f, 0.166665733819f, 0.0416665501103f, 0.00836377387441f,
                                 0.0013926926614f};
static const T FN(log_tail)[] = {0.666666856033f, 0.399885509889f, 0.295903173572f};
#else
#define BITS uint64_t
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUND_MAGIC 6755399441055744.0  // 1.5 * 2^52
#define LN2_HI 6.93147180369123816490e-01
#define LN2_LO 1.90821492927058770002e-10
#define EXP_LOW -746.0
#define EXP_HIGH 710.0
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdull
#define TINIEST_NORMAL 2.2250738585072014e-308
#define TANH_IS_1 45.0
#define C(x) x
static const T FN(exp_tail)[] = {
    0.5000000000000001128,   0.16666666666666667534,   0.041666666666620638584,
    0.0083333333333297934996, 0.0013888888918939167785, 0.00019841269864380513295,
    0.000024801518641395993583, 2.7557266418612303703e-6, 2.7621338669142923801e-7,
    2.5101346928350340199e-8};
static const T FN(log_tail)[] = {
    0.6666666666666669907,  0.39999999999893221763, 0.28571428628810995598, 0.22222210674238515246,
    0.18182922513515941633, 0.15330617306743304885, 0.14630031364122860468};
#endif

INLINE BITS FN(bits)(T x) {
    union { T x; BITS bits; } u = {x};
    return u.bits;
}

INLINE T FN(from_bits)(BITS bits) {
    union { BITS bits; T x; } u = {bits};
    return u.x;
}

// 2^(k + more), of a normal result, for a whole k given as k + ROUND_MAGIC.
INLINE T FN(power_of_2)(T shifted, int more) {
    return FN(from_bits)((FN(bits)(shifted) + EXPONENT_BIAS + (BITS)more) << MANTISSA_BITS);
}

INLINE T FN(polynomial)(T x, const T *c, int terms) {
    T y = c[terms - 1];
    for (int i = terms - 2; i >= 0; i--) y = FMA(y, x, c[i]);
    return y;
}
#define POLYNOMIAL(x, c) FN(polynomial)(x, FN(c), sizeof FN(c) / sizeof(T))

// e^r - 1 for x = k ln 2 + r; k comes as k + ROUND_MAGIC. x is in EXP_LOW..EXP_HIGH or NaN.
INLINE T FN(reduced_expm1)(T x, T *shifted) {
    *shifted = FMA(x, C(1.44269504088896340736), ROUND_MAGIC);
    T k = *shifted - ROUND_MAGIC, r = FMA(k, -LN2_LO, FMA(k, -LN2_HI, x));
    return FMA(r * r, POLYNOMIAL(r, exp_tail), r);
}

// One instruction each; the second operand is the result where one is NaN.
INLINE T FN(least)(T x, T y) { return x < y ? x : y; }
INLINE T FN(most)(T x, T y) { return x > y ? x : y; }

// Two factors 2^(k/2), since 2^k itself need not be a normal number.
INLINE T FN(exp)(T x) {
    T shifted, tail = FN(reduced_expm1)(FN(least)(EXP_HIGH, FN(most)(EXP_LOW, x)), &shifted);
    T k = shifted - ROUND_MAGIC, half = FMA(k, C(0.5), ROUND_MAGIC);
    T rest = (k - (half - ROUND_MAGIC)) + ROUND_MAGIC;
    return (1 + tail) * FN(power_of_2)(half, 0) * FN(power_of_2)(rest, 0);
}

INLINE T FN(expm1)(T x) {
    T shifted, tail = FN(reduced_expm1)(FN(least)(EXP_HIGH, FN(most)(C(-50.0), x)), &shifted);
    T half = FN(power_of_2)(shifted, -1);  // 2^k would overflow at the top
    T y = 2 * FMA(half, tail, half - C(0.5));
    return x == 0 ? x : y;  // -0
}

// e^-|x|: nothing overflows, so one factor will do, and a constant one for tiny results.
INLINE T FN(exp_of_minus_abs)(T x) {
    T low = FN(from_bits)(FN(bits)(x) | (BITS)1 << (8 * sizeof(T) - 1));  // written as -fabs(x),
    T shifted, tail = FN(reduced_expm1)(FN(most)(EXP_LOW, low), &shifted);  // GCC takes four more
    const int up = EXPONENT_BIAS / 2;
    return (1 + tail) * FN(power_of_2)(shifted, up) * FN(power_of_2)(ROUND_MAGIC, -up);
}

// e^-|x| is the numerator where x < 0, so tiny results keep their digits.
INLINE T FN(sigmoid)(T x) {
    T e = FN(exp_of_minus_abs)(x);
    return (x < 0 ? e : 1) / (1 + e);
}

INLINE T FN(tanh)(T x) {
    T twice = 2 * M(__builtin_fabs)(x);
    T e = FN(expm1)(FN(least)(2 * TANH_IS_1, twice));
    return M(__builtin_copysign)(e / (e + 2), x);
}

INLINE T FN(log)(T x) {
    bool tiny = x < TINIEST_NORMAL;
    BITS bits = FN(bits)(tiny ? x * (T)((BITS)1 << MANTISSA_BITS) : x);
    // The exponent of the power of 2 that brings x into sqrt(1/2)..sqrt(2), still biased.
    BITS k_bits = (bits + ((BITS)EXPONENT_BIAS << MANTISSA_BITS) - SQRT_HALF_BITS) >> MANTISSA_BITS;
    T f = FN(from_bits)(bits - ((k_bits - EXPONENT_BIAS) << MANTISSA_BITS)) - 1;
    T two_to_mantissa = (T)((BITS)1 << MANTISSA_BITS);  // k_bits to T, as no vector instruction can
    T k = FN(from_bits)(k_bits | FN(bits)(two_to_mantissa)) - (two_to_mantissa + EXPONENT_BIAS);
    k -= tiny ? (T)MANTISSA_BITS : 0;
    T s = f / (2 + f), z = s * s, half_square = C(0.5) * f * f;
    T r = z * POLYNOMIAL(z, log_tail);
    T y = k * LN2_HI - ((half_square - FMA(s, half_square + r, k * LN2_LO)) - f);
    y = x < INF_T ? y : x;
    return x > 0 ? y : x == 0 ? -INF_T : NAN_T;
}

// 1 + x loses c, the digits of x that did not fit; log has slope 1 / (1 + x) there.
INLINE T FN(log1p)(T x) {
    T u = 1 + x, c = x - (u - 1), y = FN(log)(u), better = y + c / u;
    y = u > 0 ? better : y;
    y = u < INF_T ? y : u;
    return x == 0 ? x : y;
}
