// Matrix products of one warp and copies that do not wait: the PTX they are written in. sm_80 and
// later. For everything under __CUDACC__, tests/cuda_on_cpu/cuda_names.h has a twin.

// d (16, 8) += a (16, depth) @ b (depth, 8), sums in float, over 8 words of 32 bits in depth: 8
// floats rounded to TF32, or 16 halves. With g = lane / 4 and q = lane % 4 a lane holds
//     a  rows g, g + 8, g, g + 8 of words q, q, q + 4, q + 4
//     b  column g of words q, q + 4
//     d  rows g, g, g + 8, g + 8 of columns 2q, 2q + 1, 2q, 2q + 1
#ifdef __CUDACC__
#define GG_MMA(NAME, SHAPE, TYPE)                                                                  \
    __device__ __forceinline__ void NAME(float(&d)[4], const unsigned(&a)[4],                      \
                                         const unsigned(&b)[2]) {                                  \
        asm volatile("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE                       \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));          \
    }
GG_MMA(mma_tf32, "m16n8k8", "tf32")
GG_MMA(mma_f16, "m16n8k16", "f16")
GG_MMA(mma_bf16, "m16n8k16", "bf16")

// The bits of x rounded to the 10 fraction bits of TF32, ties away from zero.
__device__ __forceinline__ unsigned tf32_bits(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// Copies BYTES (4, 8 or 16, and both addresses aligned to it) to shared memory, of which `valid`
// come from memory and the rest is zero. It is there, for this thread, after wait_copies.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* from, int valid) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                     "r"(valid)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from),
                     "n"(BYTES), "r"(valid)
                     : "memory");
    }
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all groups but the last PENDING are there.
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif

// How the words of an element type are multiplied: in one mma, or exact products in several.
template <typename T, bool EXACT>
struct Product;

template <>
struct Product<f16, false> {
    static __device__ __forceinline__ void add(float (&d)[4], const unsigned (&a)[4],
                                               const unsigned (&b)[2]) {
        mma_f16(d, a, b);
    }
};

template <>
struct Product<bf16, false> {
    static __device__ __forceinline__ void add(float (&d)[4], const unsigned (&a)[4],
                                               const unsigned (&b)[2]) {
        mma_bf16(d, a, b);
    }
};

template <>
struct Product<float, false> {
    static __device__ __forceinline__ void add(float (&d)[4], const unsigned (&a)[4],
                                               const unsigned (&b)[2]) {
        unsigned x[4], y[2];
        for (int i = 0; i < 4; ++i) x[i] = tf32_bits(__int_as_float(a[i]));
        for (int i = 0; i < 2; ++i) y[i] = tf32_bits(__int_as_float(b[i]));
        mma_tf32(d, x, y);
    }
};

// Each float is a sum of two TF32 numbers to 21 bits; of the four products the smallest is left out.
template <>
struct Product<float, true> {
    static __device__ __forceinline__ void add(float (&d)[4], const unsigned (&a)[4],
                                               const unsigned (&b)[2]) {
        unsigned x[4], y[2], x_rest[4], y_rest[2];
        for (int i = 0; i < 4; ++i) split(a[i], x[i], x_rest[i]);
        for (int i = 0; i < 2; ++i) split(b[i], y[i], y_rest[i]);
        mma_tf32(d, x_rest, y);
        mma_tf32(d, x, y_rest);
        mma_tf32(d, x, y);
    }

    static __device__ __forceinline__ void split(unsigned bits, unsigned& high, unsigned& rest) {
        const float x = __int_as_float(bits);
        high = tf32_bits(x);
        const float left = x - __int_as_float(high);
        // Of an infinity nothing is left, nor of what rounds to one.
        rest = left - left == 0 ? tf32_bits(left) : 0;
    }
};
