// Instructions and programs, as module.c builds them and run.c runs them.
#pragma once

#include "native.h"

enum { ROWS, COLS, ALL };  // what a reduction runs over

typedef struct {
    int value;
    Operand to;
    bool direct;  // the step that makes the value writes it to its place
} Store;

typedef struct {
    int kind, axis, value;
    Operand to;
    double scale;
    bool accumulate;
    int64_t partial;  // where its partial result lies in the thread's scratch
    int64_t tile;     // ROWS, narrow: where the sums of a block's values lie
    bool rides;       // a step takes the sums
} Reduction;

// One pass over a block: to = a . b . c . d, all numbers of values.
typedef struct {
    Loop loop;
    SummedLoop summed;  // in its place, when a sum over rows rides along
    int16_t to, a, b, c, d;
    int16_t reduction;  // which
} Step;

typedef struct {
    Operand from;
    enum { UNUSED, IN_PLACE, EACH_BLOCK, ONCE } how;
    int64_t buffer;  // in the thread's scratch
} Input;

// Code as Python gives it: values are operands, then constants, then the lines.
typedef struct {
    int op, operand[4];  // -1: none
} Line;

enum { MAX_VALUES = 1000, MAX_THREADS = 256 };

typedef struct {
    int type;  // F4 or F8
    int64_t rows, cols;
    bool chunked;
    int inputs, constants, lines, stores, reductions, steps;
    Input *input;
    double *constant;
    Line *line;
    Store *store;
    Reduction *reduction;
    // Made by chain_prepare:
    const Kernels *kernels, *doubles;
    bool flat;    // all operands and stores step evenly: one row of rows * cols
    bool narrow;  // a block holds several rows
    Step *step;
    char *constants_data;  // a block of each
    int64_t *buffer;       // of each value in the thread's scratch, or -1
    int64_t scratch_bytes;
} Chain;

typedef struct {
    int type;
    bool ta, tb;
    int64_t m, n, k;
    double alpha, beta;
    bool has_alpha_at;
    Operand alpha_at, a, b, c;
    char rows;  // 'm', 'k' or 0: which size is the chunk's rows
    int64_t count, a_step, b_step, c_step;  // a stack of products, and elements between them
    const Kernels *kernels;
    bool small;
} Gemm;

typedef struct {
    int type;
    int64_t rows, cols;
    bool chunked, has_loss, has_residual, has_probability, log;
    Operand z, t, loss, residual, probability;  // of softmax: z is x, probability is y; of argmax:
                                                // z is x, t the result
    double scale;
    const Kernels *kernels;
} RowSoftmax;

typedef struct {
    int64_t rows, cols;
    int item_bytes;
    bool chunked;
    Operand from, to;
} Copy;

typedef struct {
    int type;
    int64_t n;
    Operand state, out;
} Uniform;

typedef struct {
    enum { GEMM, CHAIN, CROSS_ENTROPY, SOFTMAX, COPY, UNIFORM, ARGMAX } kind;
    union {
        Gemm gemm;
        Chain chain;
        RowSoftmax softmax;
        Copy copy;
        Uniform uniform;
    };
} Instruction;

typedef struct {
    int64_t offset, bytes;
    int base;
} Zeroed;

typedef struct {
    enum { SERIAL, BY_ROWS, SPLIT } mode;
    int instructions, zeroes;
    Instruction *instruction;
    int64_t batch_rows, chunk_rows;
    Zeroed *zeroed;
} Segment;

typedef struct {
    int64_t row;    // of the first bad label, or -1
    int64_t label;
    int64_t cols;
} BadLabel;

typedef struct {
    int segments, bases, threads;
    Segment *segment;
    char **base;
    int64_t private_bytes;
    char *scratch;  // of all threads
    int64_t scratch_bytes;  // of one
    bool uses_blas, uses_threads;
    double work;  // about how many nanoseconds a run takes on one thread
    BadLabel *bad;  // of each part of a phase
    int segment_now, instruction_now;
    unsigned running;  // pool_forks + 1 while a thread runs it: that thread is not in a child
    BadLabel stop;  // the first of them; nothing runs after that phase
} Program;

// chain.c
const char *chain_prepare(Chain *c, const Isa *isa);  // null, or what is wrong
void chain_run(const Chain *c, const Place *at, int64_t first, int64_t end);
void chain_finish(const Chain *c, const Place *at, char *const *scratch, int parts);
int64_t chain_extent(const Chain *c, const Place *at);

// gemm.c
typedef struct {
    void *of[2];  // cblas_sgemm, cblas_dgemm
    int int_bits;
    void (*set_threads)(int);
    int (*get_threads)(void);
} Blas;
extern Blas blas;
void gemm_prepare(Gemm *g, const Isa *isa, int64_t chunk_rows);
void gemm_run(const Gemm *g, const Place *at, int64_t member, int64_t m0, int64_t m1, int64_t n0,
              int64_t n1);
void blas_enter(void);
void blas_leave(void);
void blas_forked(void);

// philox.c
void uniform_run(const Uniform *u, const Place *at, int64_t first, int64_t end);

// run.c
void program_run(Program *p);  // sets p->stop
int64_t instruction_scratch(const Instruction *i);

// pool.c
typedef struct {
    void (*part)(void *argument, int part);
    int (*next)(void *argument);  // at the end of a phase: how many parts the next has; 0 ends
    void *argument;
} PoolJob;
// Runs phase after phase, the first of `parts` parts, on up to `threads` threads: on this one alone
// when the pool is in use.
void pool_run(int threads, int parts, PoolJob job);
extern unsigned pool_forks;   // how many forks lie between the first process and this one
bool pool_watch_forks(void);  // once a process; false: no memory
