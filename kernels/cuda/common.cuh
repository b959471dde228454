// What every gpugrad CUDA kernel shares. It includes nothing, so NVRTC needs no header path.
//
// gpugrad/backend/launch.py puts this text in front of each .cu, because CuPy's kernel cache hashes
// the source text and not the files it includes. The CPU emulator of the tests compiles what stands
// below `#endif` as it is; for the part above, tests/cuda_on_cpu/cuda_names.h has a twin.

#ifdef __CUDACC__
// Names a kernel that may be launched. CUDA finds it by its extern "C" name; the emulator, which
// has no symbol table to search, registers it here.
#define GG_EXPORT(kernel)

// The shared memory a launch asks for beside the static arrays.
#define GG_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]

__device__ __forceinline__ float half_bits_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ __forceinline__ unsigned short float_to_half_bits(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ unsigned short double_to_half_bits(double x) {
    unsigned short bits;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(x));
    return bits;
}
#endif

// Sizes and offsets: an array may hold more than 2^31 elements. Widen before multiplying, as in
// index_t(blockIdx.x) * blockDim.x: the plain product has 32 bits.
typedef long long index_t;
static_assert(sizeof(index_t) == 8, "index_t must be 64-bit");

[[maybe_unused]] constexpr int WARP_LANES = 32;
[[maybe_unused]] constexpr unsigned WHOLE_WARP = 0xffffffffu;

// IEEE half precision as it lies in memory, the bits of numpy.float16 and __half; all arithmetic is
// in float. Our own, since NVRTC may have no cuda_fp16.h to include.
struct f16 {
    unsigned short bits;

    f16() = default;
    __device__ explicit f16(float x) : bits(float_to_half_bits(x)) {}
    __device__ explicit f16(double x) : bits(double_to_half_bits(x)) {}
    __device__ operator float() const { return half_bits_to_float(bits); }
};

// The upper half of a float: the bits of __nv_bfloat16, rounded to nearest, ties to even.
struct bf16 {
    unsigned short bits;

    bf16() = default;
    __device__ explicit bf16(float x) {
        const unsigned all = static_cast<unsigned>(__float_as_int(x));
        const unsigned rounded = all + 0x7fffu + (all >> 16 & 1);
        bits = static_cast<unsigned short>((x == x ? rounded : all | 0x400000u) >> 16);
    }
    __device__ operator float() const { return __int_as_float(int(unsigned(bits) << 16)); }
};

// WIDTH neighbouring elements, moved in one transaction. Load and store only where the address is a
// multiple of sizeof(T) * WIDTH.
template <typename T, int WIDTH>
struct alignas(sizeof(T) * WIDTH) pack {
    T at[WIDTH];
};

template <int WIDTH, typename T>
__device__ __forceinline__ pack<T, WIDTH> load(const T* from) {
    return *reinterpret_cast<const pack<T, WIDTH>*>(from);
}

template <int WIDTH, typename T>
__device__ __forceinline__ void store(T* to, const pack<T, WIDTH>& values) {
    *reinterpret_cast<pack<T, WIDTH>*>(to) = values;
}

// Reads `count` of the WIDTH elements that are `step` apart; the rest is zero.
template <int WIDTH, typename T>
__device__ __forceinline__ pack<T, WIDTH> load_some(const T* from, index_t step, int count) {
    pack<T, WIDTH> values = {};
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
        if (k < count) values.at[k] = from[k * step];
    }
    return values;
}

template <int WIDTH, typename T>
__device__ __forceinline__ void store_some(T* to, index_t step, const pack<T, WIDTH>& values,
                                           int count) {
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
        if (k < count) to[k * step] = values.at[k];
    }
}

// The same of neighbours, in one transaction where all are there.
template <int WIDTH, typename T>
__device__ __forceinline__ pack<T, WIDTH> load_line(const T* from, int count) {
    return count == WIDTH ? load<WIDTH>(from) : load_some<WIDTH>(from, 1, count);
}

template <int WIDTH, typename T>
__device__ __forceinline__ void store_line(T* to, const pack<T, WIDTH>& values, int count) {
    if (count == WIDTH) {
        store(to, values);
    } else {
        store_some(to, 1, values, count);
    }
}
