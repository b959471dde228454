// What a kernel's text calls things, in terms of the emulator; and the host twins of the functions
// that kernels/cuda/common.cuh writes in PTX.

#include "emulator.h"

#include <cmath>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("gg_shared"), used))
#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
#define GG_EXPORT(kernel) const bool kernel##_enlisted = emulator::enlist(#kernel, kernel);
#define GG_DYNAMIC_SHARED(type, name) \
    type* name = reinterpret_cast<type*>(emulator::dynamic_shared)

namespace {

int gg_broken = 0;  // which of the faults is there that a test has planted in the text; 0: none

void __syncthreads(emulator::Site site = emulator::Site::here()) { emulator::wait_for_block(site); }

void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
    emulator::wait_for_warp(mask, site);
}

// `width` splits the warp into groups; a source outside the group means the lane itself.
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              emulator::Site site = emulator::Site::here()) {
    const int own = emulator::current->number % emulator::LANES;
    return emulator::exchange(mask, value, own / width * width + lane % width, site);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  emulator::Site site = emulator::Site::here()) {
    const int own = emulator::current->number % emulator::LANES;
    const int source = own ^ lane_mask;
    const bool in_group = source / width <= own / width;
    return emulator::exchange(mask, value, in_group ? source : own, site);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulator::Site site = emulator::Site::here()) {
    const int own = emulator::current->number % emulator::LANES;
    const bool in_group = own % width + int(delta) < width;
    return emulator::exchange(mask, value, in_group ? own + delta : own, site);
}

float half_bits_to_float(unsigned short bits) {
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    const int exponent = bits >> 10 & 0x1f;
    const int fraction = bits & 0x3ff;
    if (exponent == 0x1f) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(float(fraction), -24);
    return sign * std::ldexp(float(fraction + 0x400), exponent - 25);
}

// To nearest, ties to even, as cvt.rn.f16.f64; a float is a double, so cvt.rn.f16.f32 as well.
unsigned short double_to_half_bits(double x) {
    const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
    const double size = std::fabs(x);
    if (std::isnan(x)) return 0x7fff;
    if (size >= 65520) return sign | 0x7c00;  // halfway past the largest half
    const int exponent = size < 0x1p-14 ? -14 : std::ilogb(size);
    // One unit in the last place is 2^(exponent - 10). A carry out of the fraction runs into the
    // exponent's bits, where it belongs.
    const int units = int(std::nearbyint(std::ldexp(size, 10 - exponent)));
    return sign | (size < 0x1p-14 ? units : ((exponent + 14) << 10) + units);
}

unsigned short float_to_half_bits(float x) { return double_to_half_bits(x); }

// g++ without -march has no instruction to contract a product and a sum into.
float __fmul_rn(float x, float y) { return x * y; }
double __dmul_rn(double x, double y) { return x * y; }

unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned __int128>(x) * y >> 64;
}

template <typename To, typename From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
int __float_as_int(float x) { return bits_as<int>(x); }
float __int_as_float(int bits) { return bits_as<float>(bits); }
double __longlong_as_double(long long bits) { return bits_as<double>(bits); }
long long __double_as_longlong(double x) { return bits_as<long long>(x); }

// Threads take turns, so nothing comes between.
long long atomicMin(long long* address, long long value) {
    const long long old = *address;
    if (value < old) *address = value;
    return old;
}

long long atomicMax(long long* address, long long value) {
    const long long old = *address;
    if (value > old) *address = value;
    return old;
}

// ---- mma.cuh ----------------------------------------------------------------------------------

// TF32 has the exponent of a float and 10 bits of fraction; ties go away from zero.
unsigned tf32_bits(float x) {
    const unsigned bits = bits_as<unsigned>(x);
    return std::isnan(x) ? 0x7fffffffu : (bits + 0x1000u) & 0xffffe000u;
}

// One warp's product; `value` is number `part` of the PARTS in a word.
template <int PARTS, typename Value>
void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Value value,
         emulator::Site site) {
    constexpr unsigned WARPS = emulator::MAX_THREADS / emulator::LANES;
    static unsigned a_words[WARPS][16][8], b_words[WARPS][8][8];
    const unsigned warp = emulator::current->number / emulator::LANES;
    const unsigned lane = emulator::current->number % emulator::LANES, g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; ++i) a_words[warp][g + i % 2 * 8][q + i / 2 * 4] = a[i];
    for (int i = 0; i < 2; ++i) b_words[warp][g][q + i * 4] = b[i];
    emulator::wait_for_warp(~0u, site);
    for (int i = 0; i < 4; ++i) {
        for (int word = 0; word < 8; ++word) {
            for (int part = 0; part < PARTS; ++part) {
                d[i] += value(a_words[warp][g + i / 2 * 8][word], part) *
                        value(b_words[warp][2 * q + i % 2][word], part);
            }
        }
    }
    emulator::wait_for_warp(~0u, site);  // nobody refills the words before all have read
}

void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
              emulator::Site site = emulator::Site::here()) {
    mma<1>(d, a, b, [](unsigned word, int) { return bits_as<float>(word & 0xffffe000u); }, site);
}

void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
             emulator::Site site = emulator::Site::here()) {
    mma<2>(d, a, b, [](unsigned word, int part) { return half_bits_to_float(word >> 16 * part); },
           site);
}

void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
              emulator::Site site = emulator::Site::here()) {
    mma<2>(d, a, b,
           [](unsigned word, int part) { return bits_as<float>(word >> 16 * part << 16); }, site);
}

template <int BYTES>
void copy_async(void* shared, const void* from, int valid,
                emulator::Site site = emulator::Site::here()) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what cp.async can copy");
    const auto misaligned = reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(from);
    emulator::require(misaligned % BYTES == 0, "asynchronous copy that is not aligned", site);
    emulator::require(valid >= 0 && valid <= BYTES, "asynchronous copy of impossible size", site);
    emulator::Fiber& fiber = *emulator::current;
    fiber.copies.push_back({shared, from, BYTES, valid, fiber.groups});
}

void commit_copies() { ++emulator::current->groups; }

template <int PENDING>
void wait_copies() {
    emulator::Fiber& fiber = *emulator::current;
    size_t left = 0;
    for (const emulator::Copy& copy : fiber.copies) {
        if (copy.group + PENDING >= fiber.groups) {
            fiber.copies[left++] = copy;
            continue;
        }
        memset(copy.to, 0, copy.bytes);
        memcpy(copy.to, copy.from, copy.valid);
    }
    fiber.copies.resize(left);
}

}  // namespace

extern "C" void gg_break(int number) { gg_broken = number; }
