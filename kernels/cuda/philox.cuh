// Random numbers of numpy.random.Philox (Philox4x64-10; Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC'11), bit for bit:
//
//     words: u64                  doubles: (word >> 11) * 2^-53
//     floats: (half >> 8) * 2^-24, of the lower half of a word and then its upper half
//
// NumPy twin: numpy.random.Generator(numpy.random.Philox).random; gpugrad/random.py
//
// State    twelve u64, as gpugrad.random.Generator.state has them: counter (4), key (2), the buffer
//          of four words the counter gives, how many of them are used, 2^32 more where a half
//          is left over, and that half.
// Draw     random_draw: grid (any), block (any). Thread b of all makes the block of counter + b; the
//          first also hands out what the buffer holds. The state is in device memory, where the
//          host leaves the next one (`Generator.take`): so a captured graph draws afresh each time.
// Bytes    sizeof(T) per number.

typedef unsigned long long word_t;

struct Words {
    word_t at[4];
};

__device__ __forceinline__ Words philox_words(Words counter, word_t key0, word_t key1) {
    for (int round = 0; round < 10; ++round) {
        const word_t low0 = 0xD2E7470EE14C6C93ull * counter.at[0];
        const word_t high0 = __umul64hi(0xD2E7470EE14C6C93ull, counter.at[0]);
        const word_t low1 = 0xCA5A826395121157ull * counter.at[2];
        const word_t high1 = __umul64hi(0xCA5A826395121157ull, counter.at[2]);
        counter = {{high1 ^ counter.at[1] ^ key0, low1, high0 ^ counter.at[3] ^ key1, low0}};
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
    return counter;
}

struct Philox {
    Words counter;
    word_t key[2];
    Words buffer;
    unsigned used;      // words of the buffer
    unsigned has_half;  // 0 or 1
    word_t half;

    __device__ explicit Philox(const word_t* state) {
        for (int i = 0; i < 4; ++i) {
            counter.at[i] = state[i];
            buffer.at[i] = state[6 + i];
        }
        key[0] = state[4];
        key[1] = state[5];
        used = static_cast<unsigned>(state[10]);
        has_half = static_cast<unsigned>(state[10] >> 32);
        half = state[11];
    }

    // The counter `blocks` further on; it has 256 bits.
    __device__ Words counter_after(word_t blocks) const {
        Words sum = counter;
        for (int i = 0; i < 4; ++i) {
            sum.at[i] += blocks;
            blocks = sum.at[i] < blocks;
        }
        return sum;
    }

    // The four words of block `number`; block 0 is the buffer.
    __device__ Words block(word_t number) const {
        return number ? philox_words(counter_after(number), key[0], key[1]) : buffer;
    }
};

// How many numbers a word gives, and number `part` of them.
template <typename T>
struct Drawn;
template <>
struct Drawn<word_t> {
    static constexpr int PER_WORD = 1;
    static __device__ word_t of(word_t word, int) { return word; }
};
template <>
struct Drawn<double> {
    static constexpr int PER_WORD = 1;
    static __device__ double of(word_t word, int) { return double(word >> 11) * 0x1p-53; }
};
template <>
struct Drawn<float> {
    static constexpr int PER_WORD = 2;
    static __device__ float of(word_t word, int part) {
        const unsigned bits = static_cast<unsigned>(part ? word >> 32 : word);
        return float(bits >> 8) * 0x1p-24f;
    }
};

template <typename T>
__device__ __forceinline__ void philox_draw(const word_t* state, T* out, index_t n) {
    constexpr int PER_WORD = Drawn<T>::PER_WORD;
    const Philox philox(state);
    const int halves = PER_WORD == 2 && philox.has_half ? 1 : 0;
    const index_t words = (n - halves + PER_WORD - 1) / PER_WORD;
    const index_t blocks = 1 + (words + int(philox.used) - 4 + 3) / 4;
    const index_t step = index_t(gridDim.x) * blockDim.x;
    const index_t first = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (first == 0 && halves && n > 0) out[0] = Drawn<T>::of(philox.half, 0);
    for (index_t number = first; number < blocks; number += step) {
        const Words block = philox.block(number);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const index_t word = number * 4 + i - int(philox.used);  // < 0: used before
#pragma unroll
            for (int part = 0; part < PER_WORD; ++part) {
                const index_t j = halves + word * PER_WORD + part;
                if (word >= 0 && j < n) out[j] = Drawn<T>::of(block.at[i], part);
            }
        }
    }
}
