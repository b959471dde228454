// The loops for x86-64 with AVX-512 F, DQ, BW and VL: 32 registers of 64 bytes.

#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>

#include "native.h"

#ifdef __clang__
#pragma clang attribute push(                                                  \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define HAS_FMA 1
#define VECTOR_BYTES 64
#define TILE_ROWS 12  // 24 sums, 2 of B, 1 of A
#define VECTOR_FMA_F4(x, y, z) ((vector_f4)_mm512_fmadd_ps(x, y, z))
#define VECTOR_FMA_F8(x, y, z) ((vector_f8)_mm512_fmadd_pd(x, y, z))

#include "isa.h"
ISA_TABLE(avx512)

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
