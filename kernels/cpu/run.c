// Runs a program: segment after segment, on one thread or on the pool's.
//
// What each thread does is fixed by the program and the number of its threads, never by timing: a
// run on one thread does the same parts in the same order, and gives the same bits.

#include <string.h>

#include "program.h"

const int item_bytes[DTYPES] = {4, 8, 1, 1, 2, 4, 8, 1, 2, 4, 8};

// Part t of n things in `parts`, cut at multiples of `grain`.
static int64_t cut(int64_t n, int parts, int t, int64_t grain) {
    int64_t grains = (n + grain - 1) / grain;
    return smaller(n, grains * t / parts * grain);
}

// ---- copy ---------------------------------------------------------------------------------------

// Tiles, so that a cache line of the side that strides is used whole before it is lost; the side
// that is written runs along.
enum { TILE_LINES = 16, TILE_RUN = 128 };

#define COPY(T)                                                                                  \
    static void copy_##T(int64_t rows, int64_t cols, const char *from_, int64_t fr, int64_t fc,  \
                         char *to_, int64_t tr, int64_t tc) {                                    \
        const T *from = (const T *)from_;                                                        \
        T *to = (T *)to_;                                                                        \
        for (int64_t i0 = 0; i0 < rows; i0 += TILE_LINES) {                                     \
            int64_t i1 = smaller(rows, i0 + TILE_LINES);                                        \
            for (int64_t j0 = 0; j0 < cols; j0 += TILE_RUN) {                                 \
                int64_t j1 = smaller(cols, j0 + TILE_RUN);                                    \
                for (int64_t i = i0; i < i1; i++) {                                              \
                    for (int64_t j = j0; j < j1; j++) to[i * tr + j * tc] = from[i * fr + j * fc]; \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }
COPY(uint8_t)
COPY(uint16_t)
COPY(uint32_t)
COPY(uint64_t)

static void copy_run(const Copy *q, const Place *at, int64_t first, int64_t end) {
    int64_t fr = q->from.row, fc = q->from.col, tr = q->to.row, tc = q->to.col;
    int64_t rows = end - first, cols = q->cols, item = q->item_bytes, other;
    const char *from = address(&q->from, at) + first * fr * item;
    char *to = address(&q->to, at) + first * tr * item;
    if (rows <= 0) return;
    if (fc == 1 && tc == 1) {
        for (int64_t i = 0; i < rows; i++) {
            memmove(to + i * tr * item, from + i * fr * item, cols * item);
        }
        return;
    }
    if (tr * tr < tc * tc) {
        other = rows, rows = cols, cols = other;
        other = fr, fr = fc, fc = other;
        other = tr, tr = tc, tc = other;
    }
    if (item == 1) copy_uint8_t(rows, cols, from, fr, fc, to, tr, tc);
    if (item == 2) copy_uint16_t(rows, cols, from, fr, fc, to, tr, tc);
    if (item == 4) copy_uint32_t(rows, cols, from, fr, fc, to, tr, tc);
    if (item == 8) copy_uint64_t(rows, cols, from, fr, fc, to, tr, tc);
}

// ---- softmax and cross-entropy ------------------------------------------------------------------

static char *row_at(const Operand *o, const Place *at, int64_t row) {
    return address(o, at) + row * o->row * item_bytes[o->dtype];
}

static void softmax_run(const RowSoftmax *q, const Place *at, int64_t first, int64_t end) {
    if (end <= first) return;
    q->kernels->softmax(&(Softmax){.rows = end - first, .cols = q->cols, .x_row = q->z.row,
                                   .y_row = q->probability.row, .x = row_at(&q->z, at, first),
                                   .y = row_at(&q->probability, at, first), .work = at->scratch,
                                   .log = q->log});
}

static int64_t label_at(const Operand *t, const Place *at, int64_t row) {
    const void *from = row_at(t, at, row);
    switch (t->dtype) {
        case I1: return *(const int8_t *)from;
        case I2: return *(const int16_t *)from;
        case I4: return *(const int32_t *)from;
        case U2: return *(const uint16_t *)from;
        case U4: return *(const uint32_t *)from;
        case I8:
        case U8: return *(const int64_t *)from;
        default: return *(const uint8_t *)from;
    }
}

static void cross_entropy_run(const RowSoftmax *q, const Place *at, int64_t first, int64_t end,
                              BadLabel *bad) {
    if (end <= first) return;
    CrossEntropy c = {
        .rows = end - first, .cols = q->cols, .z = row_at(&q->z, at, first),
        .t = row_at(&q->t, at, first), .z_row = q->z.row, .t_row = q->t.row,
        .t_dtype = q->t.dtype, .scale = q->scale, .work = at->scratch};
    if (q->has_loss) c.loss = row_at(&q->loss, at, first), c.loss_row = q->loss.row;
    if (q->has_residual) c.residual = row_at(&q->residual, at, first);
    if (q->has_probability) c.probability = row_at(&q->probability, at, first);
    c.residual_row = q->residual.row, c.probability_row = q->probability.row;
    int64_t row = q->kernels->cross_entropy(&c);
    if (row >= 0 && bad->row < 0) {
        *bad = (BadLabel){at->first_row + first + row, label_at(&q->t, at, first + row), q->cols};
    }
}

// ---- argmax -------------------------------------------------------------------------------------

// The first largest value's number, or the first NaN's: only that is neither below nor equal.
#define ARGMAX_OF(T)                                                                             \
    static int64_t argmax_##T(int64_t n, const T *x) {                                           \
        int64_t best = 0;                                                                        \
        for (int64_t j = 1; j < n && x[best] == x[best]; j++) {                                  \
            if (!(x[j] <= x[best])) best = j;                                                    \
        }                                                                                        \
        return best;                                                                             \
    }
ARGMAX_OF(float)
ARGMAX_OF(double)

static void argmax_run(const RowSoftmax *q, const Place *at, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i++) {
        const char *x = row_at(&q->z, at, i);
        *(int64_t *)row_at(&q->t, at, i) = q->type == F4 ? argmax_float(q->cols, (const float *)x)
                                                         : argmax_double(q->cols, (const double *)x);
    }
}

// ---- instructions -------------------------------------------------------------------------------

int64_t instruction_scratch(const Instruction *i) {
    switch (i->kind) {
        case CHAIN: return i->chain.scratch_bytes;
        case GEMM: return i->gemm.small ? SMALL_GEMM_WORK * 8 : 0;
        case CROSS_ENTROPY:
        case SOFTMAX:
            return item_bytes[i->softmax.type] * i->softmax.cols;
        default: return 0;
    }
}

// How many rows (columns, of a flat chain) an instruction runs over, to cut them up.
static int64_t extent(const Instruction *i, const Place *at) {
    switch (i->kind) {
        case CHAIN: return chain_extent(&i->chain, at);
        case COPY: return i->copy.chunked ? at->rows : i->copy.rows;
        case UNIFORM: return i->uniform.n;
        default: return i->softmax.chunked ? at->rows : i->softmax.rows;
    }
}

static void run_range(const Instruction *i, const Place *at, int64_t first, int64_t end,
                      BadLabel *bad) {
    switch (i->kind) {
        case CHAIN: chain_run(&i->chain, at, first, end); break;
        case CROSS_ENTROPY: cross_entropy_run(&i->softmax, at, first, end, bad); break;
        case SOFTMAX: softmax_run(&i->softmax, at, first, end); break;
        case ARGMAX: argmax_run(&i->softmax, at, first, end); break;
        case UNIFORM: uniform_run(&i->uniform, at, first, end); break;
        default: copy_run(&i->copy, at, first, end);
    }
}

// Products first..end of a stack.
static void run_products(const Gemm *g, const Place *at, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i++) {
        gemm_run(g, at, i, 0, g->rows == 'm' ? at->rows : g->m, 0, g->n);
    }
}

// The whole instruction on one thread.
static void run_whole(const Instruction *i, const Place *at, BadLabel *bad) {
    if (i->kind == GEMM) {
        run_products(&i->gemm, at, 0, i->gemm.count);
        return;
    }
    run_range(i, at, 0, extent(i, at), bad);
    if (i->kind == CHAIN) chain_finish(&i->chain, at, &at->scratch, 1);
}

// Part t of an instruction. A product is cut into a grid of about square pieces, a stack by members.
static void run_part(const Instruction *i, const Place *at, int parts, int t, BadLabel *bad) {
    if (i->kind != GEMM) {
        int64_t n = extent(i, at), grain = 1;
        if ((i->kind == CHAIN && i->chain.flat) || i->kind == UNIFORM) grain = 1024;
        run_range(i, at, cut(n, parts, t, grain), cut(n, parts, t + 1, grain), bad);
        return;
    }
    if (i->gemm.count > 1) {
        int64_t count = i->gemm.count;
        run_products(&i->gemm, at, cut(count, parts, t, 1), cut(count, parts, t + 1, 1));
        return;
    }
    const int64_t grain = 16, m = i->gemm.m, n = i->gemm.n;
    int tall = 1;
    double least = 0;
    for (int rows = 1; rows <= parts; rows++) {  // parts = rows * columns of the grid
        if (parts % rows) continue;
        double edge = (double)round_up((m + rows - 1) / rows, grain) +
                      (double)round_up((n + parts / rows - 1) / (parts / rows), grain);
        if (rows == 1 || edge < least) least = edge, tall = rows;
    }
    int wide = parts / tall, x = t % wide, y = t / wide;
    gemm_run(&i->gemm, at, 0, cut(m, tall, y, grain), cut(m, tall, y + 1, grain),
             cut(n, wide, x, grain), cut(n, wide, x + 1, grain));
}

// ---- segments -----------------------------------------------------------------------------------
//
// A phase is a segment, or one instruction of a SPLIT segment.

static Place place_of(const Program *p, int part) {
    return (Place){.base = p->base, .private_bytes = p->private_bytes, .thread = part,
                   .scratch = p->scratch + part * p->scratch_bytes};
}

static void run_serial(Program *p, const Segment *s) {
    Place at = place_of(p, 0);
    for (int i = 0; i < s->instructions && p->bad[0].row < 0; i++) {
        run_whole(&s->instruction[i], &at, &p->bad[0]);
    }
}

static void run_rows(Program *p, const Segment *s, int part) {
    Place at = place_of(p, part);
    for (int i = 0; i < s->zeroes; i++) {
        const Zeroed *z = &s->zeroed[i];
        memset(p->base[z->base] + z->offset + part * p->private_bytes, 0, z->bytes);
    }
    int64_t chunks = (s->batch_rows + s->chunk_rows - 1) / s->chunk_rows;
    for (int64_t k = chunks * part / p->threads; k < chunks * (part + 1) / p->threads; k++) {
        at.first_row = k * s->chunk_rows;
        at.rows = smaller(s->chunk_rows, s->batch_rows - at.first_row);
        for (int i = 0; i < s->instructions && p->bad[part].row < 0; i++) {
            run_whole(&s->instruction[i], &at, &p->bad[part]);
        }
    }
}

static void run_phase_part(void *argument, int part) {
    Program *p = argument;
    const Segment *s = &p->segment[p->segment_now];
    if (s->mode == SERIAL) {
        run_serial(p, s);
    } else if (s->mode == BY_ROWS) {
        run_rows(p, s, part);
    } else {
        Place at = place_of(p, part);
        run_part(&s->instruction[p->instruction_now], &at, p->threads, part, &p->bad[part]);
    }
}

// The number of parts at the program's place, which moves past empty segments.
static int parts_here(Program *p) {
    while (p->segment_now < p->segments && p->segment[p->segment_now].instructions == 0) {
        p->segment_now++;
    }
    if (p->segment_now == p->segments) return 0;
    return p->segment[p->segment_now].mode == SERIAL ? 1 : p->threads;
}

static int end_phase(void *argument) {
    Program *p = argument;
    const Segment *s = &p->segment[p->segment_now];
    for (int t = 0; t < p->threads; t++) {
        if (p->bad[t].row < 0) continue;
        p->stop = p->bad[t];
        return 0;
    }
    if (s->mode == SPLIT) {
        const Instruction *i = &s->instruction[p->instruction_now];
        if (i->kind == CHAIN && i->chain.reductions) {
            char *scratch[MAX_THREADS];
            for (int t = 0; t < p->threads; t++) scratch[t] = p->scratch + t * p->scratch_bytes;
            Place at = place_of(p, 0);
            chain_finish(&i->chain, &at, scratch, p->threads);
        }
        if (++p->instruction_now < s->instructions) return p->threads;
    }
    p->instruction_now = 0;
    p->segment_now++;
    return parts_here(p);
}

void program_run(Program *p) {
    for (int t = 0; t < p->threads; t++) p->bad[t].row = -1;
    p->stop.row = -1;
    p->segment_now = p->instruction_now = 0;
    if (p->uses_blas) blas_enter();
    pool_run(p->uses_threads ? p->threads : 1, parts_here(p),
             (PoolJob){run_phase_part, end_phase, p});
    if (p->uses_blas) blas_leave();
}
