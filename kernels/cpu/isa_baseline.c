// The loops for whatever every CPU of the architecture has: SSE2 on x86-64, NEON on aarch64.

#include "native.h"

#ifdef __ARM_FEATURE_FMA
#include <arm_neon.h>
#define HAS_FMA 1
#define TILE_ROWS 8  // 32 registers
#define VECTOR_FMA_F4(x, y, z) ((vector_f4)vfmaq_f32((float32x4_t)(z), x, y))
#define VECTOR_FMA_F8(x, y, z) ((vector_f8)vfmaq_f64((float64x2_t)(z), x, y))
#else
#define HAS_FMA 0
#define TILE_ROWS 6  // 16 registers
#define VECTOR_FMA_F4(x, y, z) ((x) * (y) + (z))
#define VECTOR_FMA_F8(x, y, z) ((x) * (y) + (z))
#endif
#define VECTOR_BYTES 16

#include "isa.h"
ISA_TABLE(baseline)
