// Which of the compiled instruction sets this CPU has.

#include <string.h>

#include "native.h"

#ifdef __x86_64__
static bool has(const Isa *isa) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == &isa_avx2) return avx2;
    if (isa == &isa_avx512) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    }
    return true;
}

static const Isa *const isas[] = {&isa_avx512, &isa_avx2, &isa_baseline};
#else
static bool has(const Isa *isa) { return isa == &isa_baseline; }

static const Isa *const isas[] = {&isa_baseline};
#endif

const Isa *isa_at(int i) {
    for (size_t k = 0; k < sizeof isas / sizeof *isas; k++) {
        if (has(isas[k]) && i-- == 0) return isas[k];
    }
    return NULL;
}

const Isa *isa_find(const char *name) {
    if (!name) return isa_at(0);
    for (int i = 0; isa_at(i); i++) {
        if (strcmp(isa_at(i)->name, name) == 0) return isa_at(i);
    }
    return NULL;
}
