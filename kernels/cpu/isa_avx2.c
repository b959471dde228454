// The loops for x86-64 with AVX2 and FMA: 16 registers of 32 bytes.

#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>

#include "native.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define HAS_FMA 1
#define VECTOR_BYTES 32
#define TILE_ROWS 6  // 12 sums, 2 of B, 1 of A
#define VECTOR_FMA_F4(x, y, z) ((vector_f4)_mm256_fmadd_ps(x, y, z))
#define VECTOR_FMA_F8(x, y, z) ((vector_f8)_mm256_fmadd_pd(x, y, z))

#include "isa.h"
ISA_TABLE(avx2)

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
