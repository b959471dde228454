// Random numbers of numpy.random.Philox (Philox4x64-10; Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC'11), bit for bit:
//
//     doubles: (word >> 11) * 2^-53
//     floats: (half >> 8) * 2^-24, of the lower half of a word and then its upper half
//
// State    twelve u64, as gpugrad.random.Generator.state has them: counter (4), key (2), the buffer
//          of four words the counter gives, how many of them are used, 2^32 more where a half
//          is left over, and that half. The same as kernels/cuda/philox.cuh.
// Method   block b of four words is that of counter + b, block 0 the buffer, so any part of the
//          numbers can be made by any thread.
// NumPy twin: numpy.random.Generator(numpy.random.Philox).random; gpugrad/random.py

#include <string.h>

#include "program.h"

typedef struct {
    uint64_t at[4];
} Words;

__extension__ typedef unsigned __int128 Product;

enum { TOGETHER = 2 };  // blocks: one alone waits for its own products

static void scramble(Words *c, uint64_t key0, uint64_t key1) {
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < TOGETHER; i++) {
            uint64_t *w = c[i].at;
            Product first = (Product)0xD2E7470EE14C6C93u * w[0];
            Product second = (Product)0xCA5A826395121157u * w[2];
            w[0] = (uint64_t)(second >> 64) ^ w[1] ^ key0;
            w[1] = (uint64_t)second;
            w[2] = (uint64_t)(first >> 64) ^ w[3] ^ key1;
            w[3] = (uint64_t)first;
        }
        key0 += 0x9E3779B97F4A7C15u;
        key1 += 0xBB67AE8584CAA73Bu;
    }
}

// Blocks number..number + TOGETHER.
static void blocks(const uint64_t *state, int64_t number, Words *to) {
    for (int i = 0; i < TOGETHER; i++) {
        uint64_t carry = (uint64_t)(number + i);
        for (int k = 0; k < 4; k++) {
            to[i].at[k] = state[k] + carry;
            carry = to[i].at[k] < carry;
        }
    }
    scramble(to, state[4], state[5]);
    if (number == 0) memcpy(to[0].at, state + 6, sizeof to[0].at);
}

// Numbers first..end of the n.
void uniform_run(const Uniform *u, const Place *at, int64_t first, int64_t end) {
    const uint64_t *state = (const uint64_t *)address(&u->state, at);
    char *out = address(&u->out, at);
    const int64_t of_word = u->type == F4 ? 2 : 1, each = 4 * TOGETHER * of_word;
    const int64_t used = (int64_t)(uint32_t)state[10];
    const int64_t half = u->type == F4 && state[10] >> 32 ? 1 : 0;
    Words w[TOGETHER];
    if (first == 0 && end > 0 && half) {
        ((float *)out)[first++] = (float)((uint32_t)state[11] >> 8) * 0x1p-24f;
    }
    // Number j is number j + skipped of the blocks, block 0 included.
    const int64_t skipped = used * of_word - half;
    for (int64_t j = first; j < end;) {
        const int64_t group = (j + skipped) / each, from = (j + skipped) % each;
        const int64_t count = smaller(each - from, end - j);
        blocks(state, group * TOGETHER, w);
        if (u->type == F4) {
            float values[8 * TOGETHER];
            for (int i = 0; i < 4 * TOGETHER; i++) {
                const uint64_t word = w[i / 4].at[i % 4];
                values[2 * i] = (float)((uint32_t)word >> 8) * 0x1p-24f;
                values[2 * i + 1] = (float)(uint32_t)(word >> 40) * 0x1p-24f;
            }
            memcpy((float *)out + j, values + from, count * sizeof *values);
        } else {
            double values[4 * TOGETHER];
            for (int i = 0; i < 4 * TOGETHER; i++) {
                values[i] = (double)(int64_t)(w[i / 4].at[i % 4] >> 11) * 0x1p-53;
            }
            memcpy((double *)out + j, values + from, count * sizeof *values);
        }
        j += count;
    }
}
