// Elementwise chains: an expression over (rows, cols), its stores and its reductions.
//
//     v = code(operands, constants);  stores: memory = v;  reductions: memory = scale * sum(v) ...
//
// Method   blocks of BLOCK_BYTES stay in the L1 cache while one loop after the other (loops.h) runs
//          over them. A block is a piece of a row, or, of a narrow space, several whole rows.
//          Operands of the chain's type that lie as a block does are read where they are; a row
//          vector is laid out once for all blocks; the rest is copied block by block. The last
//          value of a store is computed right into its place where nothing else reads that place.
// Bytes    each operand is read once and each store written once.
// Order    a function of the shape alone: sums over rows are taken in as many partial sums as a
//          block has rows, sums of blocks in double.
// Hazard   memory that is stored to may be an operand only under the same base number, with the
//          same strides.
// NumPy twin: the interpreter in tests/test_native.py

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

static int values_of(const Chain *c) { return c->inputs + c->constants + c->lines; }

static int64_t block_of(const Chain *c) { return BLOCK_BYTES / item_bytes[c->type]; }

// Whether row after row follows evenly, so that the space may be walked as one long row.
static bool even(const Operand *o, const Chain *c) {
    if (c->rows == 1 && !c->chunked) return true;
    return c->cols == 1 || o->row == c->cols * o->col;
}

static int64_t even_step(const Operand *o, const Chain *c) {
    return c->cols == 1 && !(c->rows == 1 && !c->chunked) ? o->row : o->col;
}

// Whether a block of the operand is one piece of memory.
static bool dense(const Operand *o, const Chain *c) {
    if (c->flat) return even_step(o, c) == 1;
    if (!c->narrow) return o->col == 1;
    return c->cols == 1 ? o->row == 1 : o->col == 1 && o->row == c->cols;
}

static int64_t take(int64_t *used, int64_t bytes) {
    int64_t at = *used;
    *used += round_up(bytes, ALIGN);
    return at;
}

// The operation that does two in one pass, or -1; `side` says which operand of the second is the
// result of the first.
static int fused(int first, int second, int side) {
    static const struct {
        int first, second, side, op;
    } table[] = {
#define PAIR(f, s, as_first, as_second) \
    {OP_##f, OP_##s, 0, OP_##as_first}, {OP_##f, OP_##s, 1, OP_##as_second},
        PAIR(add, add, add_add, add_add)
        PAIR(add, sub, add_sub, add_rsub)
        PAIR(add, mul, add_mul, add_mul)
        PAIR(add, max, add_max, add_max)
        PAIR(sub, add, sub_add, sub_add)
        PAIR(sub, sub, sub_sub, sub_rsub)
        PAIR(sub, mul, sub_mul, sub_mul)
        PAIR(mul, add, mul_add, mul_add)
        PAIR(mul, sub, mul_sub, mul_rsub)
        PAIR(mul, mul, mul_mul, mul_mul)
        PAIR(div, mul, div_mul, div_mul)
        PAIR(gt, mul, gt_mul, gt_mul)
        PAIR(sub_mul, mul, sub_mul_mul, sub_mul_mul)
        PAIR(mul_rsub, mul, mul_rsub_mul, mul_rsub_mul)
        PAIR(sqrt_div, add, sqrt_div_add, sqrt_div_add)
#undef PAIR
        {OP_sqrt, OP_div, 0, OP_sqrt_div},
        {OP_div_mul, OP_sub, 1, OP_div_mul_rsub},
        {OP_add, OP_sigmoid, 0, OP_add_sigmoid},
        {OP_add, OP_tanh, 0, OP_add_tanh},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].first == first && table[i].second == second && table[i].side == side) {
            return table[i].op;
        }
    }
    return -1;
}

// Joins a line with the only one that uses it; it then stands where the second stood, its operands
// those of the first and after them the other one of the second.
static void fuse_lines(const Chain *c, Line *line, bool *live, const int *uses, const bool *kept) {
    const int first_line = c->inputs + c->constants;
    for (int i = 0; i < c->lines; i++) {
        Line *second = &line[i];
        for (int side = 0; live[i] && side < 2; side++) {
            int value = second->operand[side], other = second->operand[1 - side];
            const Line *first = &line[value - first_line];
            if (value < first_line || uses[value] != 1 || kept[value]) continue;
            int op = fused(first->op, second->op, side);
            if (op < 0) continue;
            live[value - first_line] = false;
            *second = *first;
            second->op = op;
            for (int k = 0; k < 4; k++) {
                if (second->operand[k] >= 0) continue;
                second->operand[k] = other;
                break;
            }
            break;
        }
    }
}

const char *chain_prepare(Chain *c, const Isa *isa) {
    int values = values_of(c), first_line = c->inputs + c->constants;
    int64_t item = item_bytes[c->type], block = block_of(c), used = 0;
    c->kernels = isa->of[c->type];
    c->doubles = isa->of[F8];

    bool by_axis = false;
    for (int i = 0; i < c->reductions; i++) by_axis |= c->reduction[i].axis != ALL;
    c->flat = !by_axis;
    for (int i = 0; i < c->inputs; i++) c->flat &= even(&c->input[i].from, c);
    for (int i = 0; i < c->stores; i++) c->flat &= even(&c->store[i].to, c);
    c->narrow = !c->flat && c->cols * 2 <= block;

    c->step = calloc(c->lines ? c->lines : 1, sizeof *c->step);
    c->buffer = malloc((values ? values : 1) * sizeof *c->buffer);
    int *uses = calloc(values + 1, sizeof *uses), *last = calloc(values + 1, sizeof *last);
    bool *kept = calloc(values + 1, sizeof *kept), *live = calloc(c->lines + 1, sizeof *live);
    int64_t *spare = malloc((values + 1) * sizeof *spare);
    Line *line = malloc((c->lines + 1) * sizeof *line);
    size_t constants_bytes = (size_t)c->constants * BLOCK_BYTES;
    c->constants_data = aligned_alloc(ALIGN, constants_bytes ? constants_bytes : ALIGN);
    const char *wrong = NULL;
    if (!c->step || !c->buffer || !uses || !last || !kept || !live || !spare || !line ||
        !c->constants_data) {
        wrong = "out of memory";
        goto done;
    }

    // What is computed at all, and how often it is read.
    for (int i = 0; i < c->stores; i++) kept[c->store[i].value] = true;
    for (int i = 0; i < c->reductions; i++) kept[c->reduction[i].value] = true;
    memcpy(line, c->line, c->lines * sizeof *line);
    for (int i = c->lines - 1; i >= 0; i--) {
        live[i] = kept[first_line + i] || uses[first_line + i];
        if (!live[i]) continue;
        for (int k = 0; k < 4; k++) {
            if (line[i].operand[k] >= 0) uses[line[i].operand[k]]++;
        }
    }
    fuse_lines(c, line, live, uses, kept);

    // The line that reads a value last; c->lines for what stores and reductions read.
    for (int v = 0; v < values; v++) last[v] = kept[v] ? c->lines : -1;
    for (int i = 0; i < c->lines; i++) {
        for (int k = 0; live[i] && k < 4; k++) {
            int read = line[i].operand[k];
            if (read >= 0 && last[read] < i) last[read] = i;
        }
    }

    for (int v = 0; v < values; v++) c->buffer[v] = -1;
    int spares = 0;
    for (int v = 0; v < c->inputs; v++) {
        Input *input = &c->input[v];
        const Operand *o = &input->from;
        bool same_type = o->dtype == c->type;
        bool repeats = c->flat ? even_step(o, c) == 0
                               : (o->col == 0 || c->cols == 1) && o->row == 0;
        if (last[v] < 0) {
            input->how = UNUSED;
            continue;
        }
        bool overwritten = false;  // before stores and reductions have read it
        for (int i = 0; i < c->stores; i++) {
            overwritten |= kept[v] && c->store[i].to.base == o->base;
        }
        if (same_type && dense(o, c) && !overwritten) {
            input->how = IN_PLACE;
            continue;
        }
        input->how = repeats || (c->narrow && o->row == 0) ? ONCE : EACH_BLOCK;
        c->buffer[v] = take(&used, BLOCK_BYTES);
    }
    for (int i = 0; i < c->constants; i++) {
        double value = c->constant[i];
        c->kernels->load(F8, block, c->constants_data + (size_t)i * BLOCK_BYTES, &value, 0);
    }
    for (int i = 0; i < c->stores; i++) {
        Store *s = &c->store[i];
        int made = s->value - first_line;
        s->direct = made >= 0 && s->to.dtype == c->type && dense(&s->to, c);
        for (int v = 0; v < c->inputs; v++) {
            bool same_memory = c->input[v].from.base == s->to.base;
            if (same_memory && c->input[v].how == IN_PLACE && last[v] > made) s->direct = false;
        }
        for (int j = 0; j < i; j++) {
            if (c->store[j].direct && c->store[j].value == s->value) s->direct = false;
        }
    }

    c->steps = 0;
    for (int i = 0; i < c->lines; i++) {
        if (!live[i]) continue;
        int value = first_line + i, read[4];
        for (int k = 0; k < 4; k++) read[k] = line[i].operand[line[i].operand[k] < 0 ? 0 : k];
        Step *step = &c->step[c->steps++];
        SummedLoop summed = c->kernels->summed[line[i].op];
        *step = (Step){.loop = c->kernels->loop[line[i].op], .to = value,
                       .a = read[0], .b = read[1], .c = read[2], .d = read[3]};
        for (int r = 0; summed && !step->summed && r < c->reductions; r++) {
            Reduction *sum = &c->reduction[r];
            if (sum->value != value || sum->axis != ROWS || sum->kind != SUM) continue;
            step->summed = summed;
            step->reduction = r;
            sum->rides = true;
        }
        // A buffer read here for the last time may hold the result: loops work in place.
        for (int k = 0; k < 4; k++) {
            int v = read[k];
            bool own = c->buffer[v] >= 0 && last[v] == i, again = false;
            for (int j = 0; j < k; j++) again |= read[j] == v;
            if (v < c->inputs && own) own = c->input[v].how == EACH_BLOCK;
            if (own && !again) spare[spares++] = c->buffer[v];
        }
        bool direct = false;
        for (int j = 0; j < c->stores; j++) {
            direct |= c->store[j].value == value && c->store[j].direct;
        }
        if (!direct) c->buffer[value] = spares ? spare[--spares] : take(&used, BLOCK_BYTES);
    }
    for (int i = 0; i < c->reductions; i++) {
        Reduction *r = &c->reduction[i];
        r->tile = r->axis == ROWS && c->narrow ? take(&used, BLOCK_BYTES) : 0;
        r->partial = take(&used, r->axis == ROWS ? c->cols * item : 2 * (int64_t)sizeof(double));
    }
    c->scratch_bytes = used;
done:
    free(uses), free(last), free(kept), free(live), free(spare), free(line);
    return wrong;
}

// What chain_run's `first` and `end` count: rows, or columns where the space is one row.
int64_t chain_extent(const Chain *c, const Place *at) {
    int64_t rows = c->chunked ? at->rows : c->rows;
    return c->flat ? rows * c->cols : rows;
}

static double nothing(int kind) { return kind == SUM ? 0 : kind == MAX ? -INFINITY : INFINITY; }

static double together(int kind, double x, double y) {
    if (kind == SUM) return x + y;
    if (x != x || y != y) return NAN;
    return (kind == MAX) == (x > y) ? x : y;
}

static Loop joining(const Chain *c, int kind) {
    return c->kernels->loop[kind == SUM ? OP_add : kind == MAX ? OP_max : OP_min];
}

// The rows of a block, already added up value by value, become one: upper half onto lower half.
static void fold(const Chain *c, int kind, char *tile, int64_t rows) {
    int64_t item = item_bytes[c->type];
    while (rows > 1) {
        int64_t half = rows / 2;
        char *upper = tile + (rows - half) * c->cols * item;
        joining(c, kind)(half * c->cols, tile, tile, upper, upper, upper);
        rows -= half;
    }
}

// to = scale * value, in double until the last rounding.
static void write_one(const Chain *c, const Reduction *r, char *to, double value) {
    double result = r->scale * value, old;
    if (r->accumulate) {
        c->doubles->load(r->to.dtype, 1, &old, to, 0);
        result = together(r->kind, old, result);
    }
    c->doubles->store(r->to.dtype, 1, to, 1, &result);
}

// Fills a buffer with a block of an operand that cannot be read in place.
static void load_block(const Chain *c, const Operand *o, char *to, const char *from, int64_t rows,
                       int64_t cols) {
    int64_t item = item_bytes[c->type];
    if (c->flat) {
        c->kernels->load(o->dtype, cols, to, from, even_step(o, c));
    } else if (o->dtype == c->type) {
        c->kernels->load_rows(rows, cols, to, from, o->row, o->col);
    } else {
        for (int64_t i = 0; i < rows; i++) {
            c->kernels->load(o->dtype, cols, to + i * cols * item,
                             from + i * o->row * item_bytes[o->dtype], o->col);
        }
    }
}

static void store_block(const Chain *c, const Operand *o, char *to, const char *from, int64_t rows,
                        int64_t cols) {
    int64_t item = item_bytes[c->type];
    if (c->flat) {
        c->kernels->store(o->dtype, cols, to, even_step(o, c), from);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        c->kernels->store(o->dtype, cols, to + i * o->row * item_bytes[o->dtype], o->col,
                          from + i * cols * item);
    }
}

// Bytes from the start of an operand to its element of a row and column.
static int64_t reach(const Chain *c, const Operand *o, int64_t row, int64_t col) {
    int64_t step = c->flat ? even_step(o, c) : o->col;
    return (row * o->row + col * step) * item_bytes[o->dtype];
}

// Where the sums over rows of a block's values are taken.
static char *sums_at(const Chain *c, const Reduction *r, const Place *at, int64_t col) {
    return at->scratch + (c->narrow ? r->tile : r->partial + col * item_bytes[c->type]);
}

void chain_run(const Chain *c, const Place *at, int64_t first, int64_t end) {
    const int64_t item = item_bytes[c->type], block = block_of(c);
    const int64_t row0 = c->flat ? 0 : first, row1 = c->flat ? 1 : end;
    const int64_t col0 = c->flat ? first : 0, col1 = c->flat ? end : c->cols;
    const int64_t most_rows = c->narrow ? block / larger(c->cols, 1) : 1;
    const int64_t pieces = c->narrow ? 1 : (col1 - col0 + block - 1) / block;
    const int64_t most_cols =
        c->narrow ? c->cols
                  : smaller(block, round_up((col1 - col0 + pieces - 1) / larger(pieces, 1), 16));
    const int lines_at = c->inputs + c->constants;
    char *value[MAX_VALUES];
    char *base[MAX_VALUES];  // of inputs and, after them, of stores
    char **store_base = base + c->inputs;

    for (int r = 0; r < c->reductions; r++) {
        const Reduction *reduction = &c->reduction[r];
        char *partial = at->scratch + reduction->partial;
        double none = nothing(reduction->kind);
        if (reduction->axis == ALL) memcpy(partial, &none, sizeof none);
        if (reduction->axis == ROWS && row0 >= row1) {
            c->kernels->load(F8, c->cols, partial, &none, 0);
        }
    }
    if (c->cols == 0) {
        for (int i = 0; i < c->reductions; i++) {
            const Reduction *r = &c->reduction[i];
            char *to = address(&r->to, at);
            for (int64_t row = row0; r->axis == COLS && row < row1; row++) {
                write_one(c, r, to + row * r->to.row * item_bytes[r->to.dtype], nothing(r->kind));
            }
        }
        return;
    }
    if (row0 >= row1 || col0 >= col1) return;

    for (int v = 0; v < c->inputs; v++) {
        const Input *input = &c->input[v];
        if (input->how == UNUSED) continue;
        base[v] = address(&input->from, at);
        if (input->how == IN_PLACE) continue;
        value[v] = at->scratch + c->buffer[v];
        if (input->how == ONCE) {
            int64_t rows = smaller(most_rows, row1 - row0), cols = smaller(most_cols, col1 - col0);
            load_block(c, &input->from, value[v], base[v], rows, cols);
        }
    }
    for (int i = 0; i < c->constants; i++) {
        value[c->inputs + i] = c->constants_data + (size_t)i * BLOCK_BYTES;
    }
    for (int v = lines_at; v < lines_at + c->lines; v++) {
        if (c->buffer[v] >= 0) value[v] = at->scratch + c->buffer[v];
    }
    for (int i = 0; i < c->stores; i++) store_base[i] = address(&c->store[i].to, at);

    for (int64_t row = row0; row < row1; row += most_rows) {
        const int64_t rows = smaller(most_rows, row1 - row);
        for (int64_t col = col0; col < col1; col += most_cols) {
            const int64_t cols = smaller(most_cols, col1 - col), n = rows * cols;
            for (int v = 0; v < c->inputs; v++) {
                const Input *input = &c->input[v];
                if (input->how == IN_PLACE) {
                    value[v] = base[v] + reach(c, &input->from, row, col);
                } else if (input->how == EACH_BLOCK) {
                    load_block(c, &input->from, value[v],
                               base[v] + reach(c, &input->from, row, col), rows, cols);
                }
            }
            for (int i = 0; i < c->stores; i++) {
                const Store *store = &c->store[i];
                if (store->direct) {
                    value[store->value] = store_base[i] + reach(c, &store->to, row, col);
                }
            }
            for (const Step *s = c->step; s < c->step + c->steps; s++) {
                if (!s->summed) {
                    s->loop(n, value[s->to], value[s->a], value[s->b], value[s->c], value[s->d]);
                    continue;
                }
                char *sums = sums_at(c, &c->reduction[s->reduction], at, col);
                if (row == row0) memset(sums, 0, n * item);
                s->summed(n, value[s->to], value[s->a], value[s->b], value[s->c], value[s->d],
                          sums);
            }
            for (int i = 0; i < c->reductions; i++) {
                const Reduction *r = &c->reduction[i];
                char *partial = at->scratch + r->partial, *from = value[r->value];
                if (r->axis == ROWS && !r->rides) {
                    char *sums = sums_at(c, r, at, col);
                    if (row == row0) {
                        memcpy(sums, from, n * item);
                    } else {
                        joining(c, r->kind)(n, sums, sums, from, from, from);
                    }
                } else if (r->axis == ALL) {
                    double whole, piece = c->kernels->reduce(r->kind, n, from);
                    memcpy(&whole, partial, sizeof whole);
                    whole = together(r->kind, whole, piece);
                    memcpy(partial, &whole, sizeof whole);
                } else if (r->axis == COLS) {
                    for (int64_t j = 0; j < rows; j++) {
                        double of_row = nothing(r->kind);
                        if (col > col0) memcpy(&of_row, partial, sizeof of_row);
                        double piece = c->kernels->reduce(r->kind, cols, from + j * cols * item);
                        of_row = together(r->kind, of_row, piece);
                        memcpy(partial, &of_row, sizeof of_row);
                        if (col + cols == col1) {
                            int64_t to = (row + j) * r->to.row * item_bytes[r->to.dtype];
                            write_one(c, r, address(&r->to, at) + to, of_row);
                        }
                    }
                }
            }
            for (int i = 0; i < c->stores; i++) {
                const Store *store = &c->store[i];
                if (!store->direct) {
                    store_block(c, &store->to, store_base[i] + reach(c, &store->to, row, col),
                                value[store->value], rows, cols);
                }
            }
        }
    }
    for (int i = 0; i < c->reductions; i++) {
        const Reduction *r = &c->reduction[i];
        if (r->axis != ROWS || !c->narrow) continue;
        char *tile = at->scratch + r->tile;
        fold(c, r->kind, tile, smaller(most_rows, row1 - row0));
        memcpy(at->scratch + r->partial, tile, c->cols * item);
    }
}

// Joins the parts' reductions, in the order of the parts, and writes the results.
void chain_finish(const Chain *c, const Place *at, char *const *scratch, int parts) {
    const Kernels *k = c->kernels;
    for (int i = 0; i < c->reductions; i++) {
        const Reduction *r = &c->reduction[i];
        if (r->axis == COLS) continue;
        char *whole = scratch[0] + r->partial, *to = address(&r->to, at);
        if (r->axis == ALL) {
            double total, part;
            memcpy(&total, whole, sizeof total);
            for (int t = 1; t < parts; t++) {
                memcpy(&part, scratch[t] + r->partial, sizeof part);
                total = together(r->kind, total, part);
            }
            write_one(c, r, to, total);
            continue;
        }
        for (int t = 1; t < parts; t++) {
            char *part = scratch[t] + r->partial;
            joining(c, r->kind)(c->cols, whole, whole, part, part, part);
        }
        if (r->to.dtype == c->type && (r->to.col == 1 || c->cols == 1)) {
            k->finish(r->kind, c->cols, to, whole, r->scale, r->accumulate);
            continue;
        }
        for (int64_t j = 0; j < c->cols; j++) {
            double value;
            c->doubles->load(c->type, 1, &value, whole + j * item_bytes[c->type], 0);
            write_one(c, r, to + j * r->to.col * item_bytes[r->to.dtype], value);
        }
    }
}
