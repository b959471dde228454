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

// The type sums over T are taken in.
template <typename T>
struct accumulator {
    typedef float type;
};
template <>
struct accumulator<double> {
    typedef double type;
};
template <typename T>
using accumulator_t = typename accumulator<T>::type;

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

// Gives each lane the sum over the lanes whose number equals its own modulo `stride`, a power of
// two up to 32; stride 1 sums the whole warp. All 32 lanes must call it. The additions keep one
// order.
template <typename T>
__device__ __forceinline__ T warp_sum(T value, int stride) {
    for (int distance = WARP_LANES / 2; distance >= stride; distance /= 2) {
        value += __shfl_xor_sync(WHOLE_WARP, value, distance);
    }
    return value;
}
