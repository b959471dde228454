// Everything an instruction set brings, from one text: isa_*.c set the target, ISA and the sizes of
// its vectors, and include this.

#include <math.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define VECTOR_LOOP _Pragma("clang loop vectorize(assume_safety)")
#define ONE_LOOP
#else
#define VECTOR_LOOP _Pragma("GCC ivdep")
// No second version of a loop for strides of 1: the two together run out of registers.
#define ONE_LOOP __attribute__((optimize("no-version-loops-for-strides")))
#endif

// Fused where that is one instruction; a call into libm would cost more than the loop. Built with
// -ffp-contract=off, so that nothing else is fused and a chain rounds as NumPy does.
#if HAS_FMA
#define FMA_OF(fma, x, y, z) fma(x, y, z)
#else
#define FMA_OF(fma, x, y, z) ((x) * (y) + (z))
#endif

#define F4_TYPE 4
#define F8_TYPE 8

#define TYPE F8_TYPE  // first: the float loops use its exp and log
#include "loops.h"
#define TYPE F4_TYPE
#include "loops.h"

#define QUOTED(name) #name
#define ISA_TABLE(isa) const Isa isa_##isa = {QUOTED(isa), {&kernels_f4, &kernels_f8}};
