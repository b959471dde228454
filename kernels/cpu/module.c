// gpugrad._native: Python's side of the native CPU core. Checks a program's tuples once, when it is
// built, and runs it with as little in the way as possible. gpugrad/_native.pyi says what the
// tuples hold.

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "program.h"
#include "replay.h"

// Goes up with every change of what Python hands over here; native.py expects the same.
enum { FORMAT = 1 };

static const char *const dtype_names[DTYPES] = {"f4", "f8", "b1", "i1", "i2", "i4",
                                                "i8", "u1", "u2", "u4", "u8"};

#define OPCODE_NAME(name, operands) #name,
static const char *const opcode_names[] = {OPCODES(OPCODE_NAME)};
#define OPCODE_ARITY(name, operands) operands,
static const int opcode_arity[] = {OPCODES(OPCODE_ARITY)};

static const Isa *isa;

// ---- reading tuples -----------------------------------------------------------------------------

// Where in the program the reader is. Guarded by the GIL.
static struct {
    int segment, instruction, bases;
    bool by_rows;
} here;

static bool wrong(const char *rule, PyObject *got) {
    if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "[native] segment %d, instruction %d: %s; got %R",
                     here.segment, here.instruction, rule, got);
    }
    return false;
}

static PyObject *item(PyObject *tuple, Py_ssize_t i) { return PyTuple_GET_ITEM(tuple, i); }

static bool is_tuple(PyObject *o, Py_ssize_t size, const char *rule) {
    return (PyTuple_Check(o) && (size < 0 || PyTuple_GET_SIZE(o) == size)) || wrong(rule, o);
}

static bool read_int(PyObject *o, int64_t least, int64_t most, const char *rule, int64_t *to) {
    int64_t value = PyLong_Check(o) ? PyLong_AsLongLong(o) : 0;
    if (!PyLong_Check(o) || PyErr_Occurred() || value < least || value > most) {
        return wrong(rule, o);
    }
    *to = value;
    return true;
}

static bool read_size(PyObject *o, const char *rule, int64_t *to) {
    return read_int(o, 0, (int64_t)1 << 40, rule, to);
}

static bool read_double(PyObject *o, const char *rule, double *to) {
    *to = PyFloat_AsDouble(o);
    return !(*to == -1 && PyErr_Occurred()) || wrong(rule, o);
}

static bool read_name(PyObject *o, const char *const *names, int count, const char *rule, int *to) {
    for (int i = 0; i < count && PyUnicode_Check(o); i++) {
        if (PyUnicode_CompareWithASCIIString(o, names[i]) == 0) {
            *to = i;
            return true;
        }
    }
    return wrong(rule, o);
}

static bool read_type(PyObject *o, int *to) {
    return read_name(o, dtype_names, 2, "computes in f4 or f8", to);
}

static bool read_chunked(PyObject *o, bool *to) {
    if (!PyBool_Check(o)) return wrong("chunked is a bool", o);
    *to = o == Py_True;
    return !*to || here.by_rows || wrong("chunked is for segments of rows", o);
}

static bool read_operand(PyObject *o, Operand *to) {
    const int64_t far = (int64_t)1 << 60;
    int64_t base, flags;
    int dtype;
    if (!is_tuple(o, 6, "an operand is (base, offset_bytes, row, col, dtype, flags)") ||
        !read_int(item(o, 0), 0, here.bases - 1, "no such base", &base) ||
        !read_int(item(o, 1), -far, far, "an offset is an int", &to->offset) ||
        !read_int(item(o, 2), -far, far, "a row stride is an int", &to->row) ||
        !read_int(item(o, 3), -far, far, "a column stride is an int", &to->col) ||
        !read_name(item(o, 4), dtype_names, DTYPES, "not a dtype of operands", &dtype) ||
        !read_int(item(o, 5), 0, CHUNKED | PRIVATE, "flags are 0..3", &flags)) {
        return false;
    }
    if (flags & CHUNKED && !here.by_rows) return wrong("CHUNKED is for segments of rows", o);
    to->base = (int32_t)base, to->dtype = (uint8_t)dtype, to->flags = (uint8_t)flags;
    return true;
}

static bool read_optional(PyObject *o, bool *has, Operand *to) {
    *has = o != Py_None;
    return !*has || read_operand(o, to);
}

// An array of `count` zeroed items, of one at least, so that null means no memory.
static void *items(Py_ssize_t count, size_t size) {
    void *to = calloc(count ? (size_t)count : 1, size);
    if (!to) PyErr_NoMemory();
    return to;
}

// ---- instructions -------------------------------------------------------------------------------

// Row-major, one row or more; a lone row has no stride to get wrong.
static bool read_matrix(PyObject *o, int type, int64_t rows, int64_t cols, Operand *to) {
    if (!read_operand(o, to)) return false;
    if (to->dtype != type) return wrong("matrices have the product's dtype", o);
    if (rows == 0 || cols == 0) to->row = 1, to->col = 1;
    if (to->col != 1 && cols > 1) return wrong("the columns of a matrix are neighbours", o);
    if (rows <= 1) to->row = larger(to->row, cols);
    return to->row >= larger(cols, 1) || wrong("rows of a matrix do not overlap", o);
}

static bool read_gemm(PyObject *o, Gemm *g) {
    bool chunk_m = false, chunk_k = false;
    bool stacked = PyTuple_GET_SIZE(o) == 18;
    if (!is_tuple(o, stacked ? 18 : 14,
                  "a product is (\"gemm\", dtype, ta, tb, m, n, k, alpha, alpha_operand, A, B, "
                  "beta, C, rows), and count, a_step, b_step, c_step for a stack") ||
        !read_type(item(o, 1), &g->type) || !read_size(item(o, 4), "m is a size", &g->m) ||
        !read_size(item(o, 5), "n is a size", &g->n) ||
        !read_size(item(o, 6), "k is a size", &g->k) ||
        !read_double(item(o, 7), "alpha is a number", &g->alpha) ||
        !read_optional(item(o, 8), &g->has_alpha_at, &g->alpha_at) ||
        !read_double(item(o, 11), "beta is a number", &g->beta)) {
        return false;
    }
    g->ta = PyObject_IsTrue(item(o, 2)) == 1;
    g->tb = PyObject_IsTrue(item(o, 3)) == 1;
    PyObject *rows = item(o, 13);
    if (rows != Py_None) {
        if (!here.by_rows) return wrong("a product by rows is for segments of rows", rows);
        chunk_m = PyUnicode_Check(rows) && PyUnicode_CompareWithASCIIString(rows, "m") == 0;
        chunk_k = PyUnicode_Check(rows) && PyUnicode_CompareWithASCIIString(rows, "k") == 0;
        if (!chunk_m && !chunk_k) return wrong("rows is \"m\", \"k\" or None", rows);
        if (chunk_m && g->ta) return wrong("rows \"m\" takes A as it is stored", rows);
        if (chunk_k && (!g->ta || g->tb)) {
            return wrong("rows \"k\" takes A transposed, B not", rows);
        }
        g->rows = chunk_m ? 'm' : 'k';
    }
    g->count = 1;
    if (stacked) {
        if (g->rows) return wrong("a stack is not cut by rows", rows);
        if (!read_int(item(o, 14), 1, (int64_t)1 << 40, "a stack has a product at least", &g->count) ||
            !read_size(item(o, 15), "a step is a size", &g->a_step) ||
            !read_size(item(o, 16), "a step is a size", &g->b_step) ||
            !read_size(item(o, 17), "a step is a size", &g->c_step)) {
            return false;
        }
    }
    if (g->has_alpha_at && g->alpha_at.dtype != F8) {
        return wrong("alpha is read as f8", item(o, 8));
    }
    const int64_t many = 2;  // of a chunk's rows: their number is known later
    int64_t m = chunk_m ? many : g->m, k = chunk_k ? many : g->k;
    return read_matrix(item(o, 9), g->type, g->ta ? k : m, g->ta ? m : k, &g->a) &&
           read_matrix(item(o, 10), g->type, g->tb ? g->n : k, g->tb ? k : g->n, &g->b) &&
           read_matrix(item(o, 12), g->type, m, g->n, &g->c);
}

static bool read_value(PyObject *o, int64_t values, int *to) {
    int64_t value;
    if (!read_int(o, 0, values - 1, "no such value yet", &value)) return false;
    *to = (int)value;
    return true;
}

static bool read_line(PyObject *o, int64_t values, Line *to) {
    if (!is_tuple(o, 4, "a line of code is (opcode, a, b, c)") ||
        !read_name(item(o, 0), opcode_names, SINGLE_OPS, "no such opcode", &to->op)) {
        return false;
    }
    for (int i = 0; i < 4; i++) to->operand[i] = -1;
    for (int i = 0; i < opcode_arity[to->op]; i++) {
        if (!read_value(item(o, i + 1), values, &to->operand[i])) return false;
    }
    return true;
}

static bool read_reduction(PyObject *o, int64_t values, Reduction *to) {
    static const char *const kinds[] = {"sum", "max", "min"};
    static const char *const axes[] = {"rows", "cols", "all"};
    if (!is_tuple(o, 6, "a reduction is (kind, axis, value, operand, scale, accumulate)") ||
        !read_name(item(o, 0), kinds, 3, "reductions are sum, max, min", &to->kind) ||
        !read_name(item(o, 1), axes, 3, "reductions run over rows, cols, all", &to->axis) ||
        !read_value(item(o, 2), values, &to->value) || !read_operand(item(o, 3), &to->to) ||
        !read_double(item(o, 4), "scale is a number", &to->scale)) {
        return false;
    }
    to->accumulate = PyObject_IsTrue(item(o, 5)) == 1;
    return true;
}

static bool read_chain(PyObject *o, Chain *c) {
    if (!is_tuple(o, 10,
                  "a chain is (\"chain\", dtype, rows, cols, operands, constants, code, stores, "
                  "reductions, chunked)") ||
        !read_type(item(o, 1), &c->type) || !read_size(item(o, 2), "rows is a size", &c->rows) ||
        !read_size(item(o, 3), "cols is a size", &c->cols) ||
        !is_tuple(item(o, 4), -1, "operands are a tuple") ||
        !is_tuple(item(o, 5), -1, "constants are a tuple") ||
        !is_tuple(item(o, 6), -1, "code is a tuple") ||
        !is_tuple(item(o, 7), -1, "stores are a tuple") ||
        !is_tuple(item(o, 8), -1, "reductions are a tuple") ||
        !read_chunked(item(o, 9), &c->chunked)) {
        return false;
    }
    Py_ssize_t inputs = PyTuple_GET_SIZE(item(o, 4)), constants = PyTuple_GET_SIZE(item(o, 5)),
               lines = PyTuple_GET_SIZE(item(o, 6)), stores = PyTuple_GET_SIZE(item(o, 7)),
               reductions = PyTuple_GET_SIZE(item(o, 8));
    if (inputs + constants + lines + stores > MAX_VALUES || reductions > MAX_VALUES) {
        return wrong("a chain has at most 1000 values and stores", item(o, 6));
    }
    if (!(c->input = items(inputs, sizeof *c->input)) ||
        !(c->constant = items(constants, sizeof *c->constant)) ||
        !(c->line = items(lines, sizeof *c->line)) ||
        !(c->store = items(stores, sizeof *c->store)) ||
        !(c->reduction = items(reductions, sizeof *c->reduction))) {
        return false;
    }
    for (; c->inputs < inputs; c->inputs++) {
        if (!read_operand(item(item(o, 4), c->inputs), &c->input[c->inputs].from)) return false;
    }
    for (; c->constants < constants; c->constants++) {
        if (!read_double(item(item(o, 5), c->constants), "constants are numbers",
                         &c->constant[c->constants])) {
            return false;
        }
    }
    for (; c->lines < lines; c->lines++) {
        int64_t values = inputs + constants + c->lines;
        if (!read_line(item(item(o, 6), c->lines), values, &c->line[c->lines])) return false;
    }
    int64_t values = inputs + constants + lines;
    for (; c->stores < stores; c->stores++) {
        PyObject *s = item(item(o, 7), c->stores);
        if (!is_tuple(s, 2, "a store is (value, operand)") ||
            !read_value(item(s, 0), values, &c->store[c->stores].value) ||
            !read_operand(item(s, 1), &c->store[c->stores].to)) {
            return false;
        }
    }
    for (; c->reductions < reductions; c->reductions++) {
        PyObject *r = item(item(o, 8), c->reductions);
        if (!read_reduction(r, values, &c->reduction[c->reductions])) return false;
    }
    return true;
}

// Rows whose values are side by side, of the type that is computed in.
static bool read_rows(PyObject *o, const RowSoftmax *q, Operand *to) {
    if (!read_operand(o, to)) return false;
    return (to->dtype == q->type && (to->col == 1 || q->cols == 1)) ||
           wrong("rows have the instruction's dtype and no gaps", o);
}

static bool read_optional_rows(PyObject *o, const RowSoftmax *q, bool *has, Operand *to) {
    *has = o != Py_None;
    return !*has || read_rows(o, q, to);
}

static bool read_cross_entropy(PyObject *o, RowSoftmax *q) {
    if (!is_tuple(o, 11,
                  "this is (\"cross_entropy\", dtype, rows, cols, z, t, loss, residual, "
                  "probability, scale, chunked)") ||
        !read_type(item(o, 1), &q->type) || !read_size(item(o, 2), "rows is a size", &q->rows) ||
        !read_int(item(o, 3), 1, (int64_t)1 << 31, "there is a class at least", &q->cols) ||
        !read_rows(item(o, 4), q, &q->z) || !read_operand(item(o, 5), &q->t) ||
        !read_optional(item(o, 6), &q->has_loss, &q->loss) ||
        !read_optional_rows(item(o, 7), q, &q->has_residual, &q->residual) ||
        !read_optional_rows(item(o, 8), q, &q->has_probability, &q->probability) ||
        !read_double(item(o, 9), "scale is a number", &q->scale) ||
        !read_chunked(item(o, 10), &q->chunked)) {
        return false;
    }
    if (q->t.dtype == F4 || q->t.dtype == F8 || q->t.dtype == B1) {
        return wrong("labels are integers", item(o, 5));
    }
    return !q->has_loss || q->loss.dtype == q->type ||
           wrong("the loss has the instruction's dtype", item(o, 6));
}

static bool read_softmax(PyObject *o, RowSoftmax *q) {
    if (!is_tuple(o, 8, "this is (\"softmax\", dtype, rows, cols, x, y, log, chunked)") ||
        !read_type(item(o, 1), &q->type) || !read_size(item(o, 2), "rows is a size", &q->rows) ||
        !read_int(item(o, 3), 1, (int64_t)1 << 31, "there is a column at least", &q->cols) ||
        !read_rows(item(o, 4), q, &q->z) || !read_rows(item(o, 5), q, &q->probability) ||
        !read_chunked(item(o, 7), &q->chunked)) {
        return false;
    }
    q->log = PyObject_IsTrue(item(o, 6)) == 1;
    return true;
}

static bool read_argmax(PyObject *o, RowSoftmax *q) {
    if (!is_tuple(o, 7, "this is (\"argmax\", dtype, rows, cols, x, out, chunked)") ||
        !read_type(item(o, 1), &q->type) || !read_size(item(o, 2), "rows is a size", &q->rows) ||
        !read_int(item(o, 3), 1, (int64_t)1 << 31, "there is a column at least", &q->cols) ||
        !read_rows(item(o, 4), q, &q->z) || !read_operand(item(o, 5), &q->t) ||
        !read_chunked(item(o, 6), &q->chunked)) {
        return false;
    }
    return q->t.dtype == I8 || wrong("numbers of columns are i8", item(o, 5));
}

static bool read_copy(PyObject *o, Copy *q) {
    int64_t bytes;
    if (!is_tuple(o, 7, "a copy is (\"copy\", itemsize, rows, cols, src, dst, chunked)") ||
        !read_int(item(o, 1), 1, 8, "items have 1, 2, 4 or 8 bytes", &bytes) ||
        !read_size(item(o, 2), "rows is a size", &q->rows) ||
        !read_size(item(o, 3), "cols is a size", &q->cols) ||
        !read_operand(item(o, 4), &q->from) || !read_operand(item(o, 5), &q->to) ||
        !read_chunked(item(o, 6), &q->chunked)) {
        return false;
    }
    q->item_bytes = (int)bytes;
    if (item_bytes[q->from.dtype] != bytes || item_bytes[q->to.dtype] != bytes) {
        return wrong("both sides of a copy have its item size", o);
    }
    return true;
}

static bool read_uniform(PyObject *o, Uniform *u) {
    if (!is_tuple(o, 5, "a draw is (\"uniform\", dtype, n, state, out)") ||
        !read_type(item(o, 1), &u->type) || !read_size(item(o, 2), "n is a size", &u->n) ||
        !read_operand(item(o, 3), &u->state) || !read_operand(item(o, 4), &u->out)) {
        return false;
    }
    if (here.by_rows) return wrong("a draw is not cut by rows", o);
    if (u->state.dtype != U8) return wrong("a state is twelve words of u8", item(o, 3));
    return u->out.dtype == u->type || wrong("the numbers have the draw's dtype", item(o, 4));
}

static bool read_instruction(PyObject *o, Instruction *i) {
    static const char *const kinds[] = {"gemm",    "chain", "cross_entropy",
                                        "softmax", "copy",  "uniform", "argmax"};
    int kind;
    if (!is_tuple(o, -1, "an instruction is a tuple") ||
        (PyTuple_GET_SIZE(o) == 0 && !wrong("an instruction has a kind", o)) ||
        !read_name(item(o, 0), kinds, 7, "no such instruction", &kind)) {
        return false;
    }
    i->kind = kind;
    switch (i->kind) {
        case GEMM: return read_gemm(o, &i->gemm);
        case CHAIN: return read_chain(o, &i->chain);
        case CROSS_ENTROPY: return read_cross_entropy(o, &i->softmax);
        case SOFTMAX: return read_softmax(o, &i->softmax);
        case UNIFORM: return read_uniform(o, &i->uniform);
        case ARGMAX: return read_argmax(o, &i->softmax);
        default: return read_copy(o, &i->copy);
    }
}

// ---- programs -----------------------------------------------------------------------------------

typedef struct {
    PyObject_HEAD
    Program program;
    bool *bound;
    int unbound;
} ProgramObject;

// About how many nanoseconds one thread takes; decides only whether the GIL is given up.
static double estimate(const Instruction *i, int64_t rows) {
    switch (i->kind) {
        case GEMM: {
            const Gemm *g = &i->gemm;
            double m = g->rows == 'm' ? rows : g->m, k = g->rows == 'k' ? rows : g->k;
            return 50 + g->count * m * (double)g->n * k / 20;
        }
        case CHAIN:
            return 50 + 0.2 * (i->chain.chunked ? rows : i->chain.rows) * (double)i->chain.cols *
                            (1 + i->chain.lines);
        case UNIFORM: return 50 + 2.0 * i->uniform.n;
        case COPY: return 20 + (double)(i->copy.chunked ? rows : i->copy.rows) * i->copy.cols;
        default:
            return 50 + 3.0 * (i->softmax.chunked ? rows : i->softmax.rows) * i->softmax.cols;
    }
}

// Chooses kernels and buffers once all of an instruction is read.
static bool prepare(Program *p, const Segment *s, Instruction *i) {
    if (i->kind == CHAIN) {
        const char *rule = chain_prepare(&i->chain, isa);
        if (rule) return PyErr_NoMemory() != NULL;
    } else if (i->kind == GEMM) {
        Gemm *g = &i->gemm;
        gemm_prepare(g, isa, smaller(s->chunk_rows, s->batch_rows));
        int64_t most = larger(larger(larger(g->m, g->n), g->k),
                              larger(larger(g->a.row, g->b.row), g->c.row));
        if (!g->small) {
            p->uses_blas = true;
            if (!blas.of[g->type]) return wrong("no BLAS is set", Py_None);
            if (blas.int_bits == 32 && most > INT32_MAX) {
                return wrong("too large for a BLAS of 32-bit integers", Py_None);
            }
        }
    } else if (i->kind == CROSS_ENTROPY || i->kind == SOFTMAX) {
        i->softmax.kernels = isa->of[i->softmax.type];
    }
    p->scratch_bytes = larger(p->scratch_bytes, instruction_scratch(i));
    p->work += estimate(i, s->batch_rows);
    return true;
}

static bool read_segment(PyObject *o, Program *p, Segment *s) {
    static const char *const modes[] = {"serial", "rows", "split"};
    int mode;
    here.instruction = -1;
    if (!is_tuple(o, 5, "a segment is (mode, instructions, batch_rows, chunk_rows, zeroed)") ||
        !read_name(item(o, 0), modes, 3, "a mode is serial, rows or split", &mode) ||
        !is_tuple(item(o, 1), -1, "instructions are a tuple") ||
        !is_tuple(item(o, 4), -1, "zeroed is a tuple") ||
        !read_int(item(o, 2), 0, (int64_t)1 << 40, "batch_rows is a size", &s->batch_rows) ||
        !read_int(item(o, 3), mode == BY_ROWS, (int64_t)1 << 40, "a chunk has a row at least",
                  &s->chunk_rows)) {
        return false;
    }
    s->mode = mode;
    here.by_rows = s->mode == BY_ROWS;
    p->uses_threads |= s->mode != SERIAL && p->threads > 1;
    Py_ssize_t count = PyTuple_GET_SIZE(item(o, 1)), zeroes = PyTuple_GET_SIZE(item(o, 4));
    if (zeroes && !here.by_rows) return wrong("zeroed is for segments of rows", item(o, 4));
    if (!(s->instruction = items(count, sizeof *s->instruction)) ||
        !(s->zeroed = items(zeroes, sizeof *s->zeroed))) {
        return false;
    }
    for (; s->zeroes < zeroes; s->zeroes++) {
        PyObject *z = item(item(o, 4), s->zeroes);
        Zeroed *to = &s->zeroed[s->zeroes];
        int64_t base;
        if (!is_tuple(z, 3, "zeroed holds (offset, bytes, base)") ||
            !read_size(item(z, 0), "an offset is a size", &to->offset) ||
            !read_size(item(z, 1), "bytes are a size", &to->bytes) ||
            !read_int(item(z, 2), 0, here.bases - 1, "no such base", &base)) {
            return false;
        }
        to->base = (int)base;
    }
    for (here.instruction = 0; here.instruction < count; here.instruction++) {
        Instruction *i = &s->instruction[s->instructions++];
        if (!read_instruction(item(item(o, 1), here.instruction), i) || !prepare(p, s, i)) {
            return false;
        }
    }
    return true;
}

static bool read_program(ProgramObject *self, PyObject *segments, int64_t bases, int64_t threads) {
    Program *p = &self->program;
    here.segment = here.instruction = -1;
    here.bases = p->bases = self->unbound = (int)bases;
    p->threads = (int)threads;
    if (!is_tuple(segments, -1, "segments are a tuple")) return false;
    Py_ssize_t count = PyTuple_GET_SIZE(segments);
    if (!(p->base = items(bases, sizeof *p->base)) ||
        !(self->bound = items(bases, sizeof *self->bound)) ||
        !(p->bad = items(threads, sizeof *p->bad)) ||
        !(p->segment = items(count, sizeof *p->segment))) {
        return false;
    }
    for (here.segment = 0; here.segment < count; here.segment++) {
        Segment *s = &p->segment[p->segments++];
        if (!read_segment(item(segments, here.segment), p, s)) return false;
    }
    p->scratch_bytes = round_up(p->scratch_bytes, 4096);
    p->scratch = aligned_alloc(4096, larger(4096, p->scratch_bytes * threads));
    if (!p->scratch) PyErr_NoMemory();
    return p->scratch != NULL;
}

static PyObject *program_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"segments", "n_bases", "private_bytes", "threads", NULL};
    PyObject *segments;
    long long bases, private_bytes, threads;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OLLL", names, &segments, &bases,
                                     &private_bytes, &threads)) {
        return NULL;
    }
    if (bases < 0 || bases > 1 << 24 || private_bytes < 0 || threads < 1 || threads > MAX_THREADS) {
        return PyErr_Format(PyExc_ValueError,
                            "[native] n_bases and private_bytes are sizes, threads is 1..%d; got "
                            "%lld, %lld, %lld",
                            MAX_THREADS, bases, private_bytes, threads);
    }
    ProgramObject *self = (ProgramObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->program.private_bytes = private_bytes;
    if (!read_program(self, segments, bases, threads)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void program_dealloc(PyObject *o) {
    ProgramObject *self = (ProgramObject *)o;
    Program *p = &self->program;
    PyTypeObject *type = Py_TYPE(o);
    for (int k = 0; k < p->segments; k++) {
        Segment *s = &p->segment[k];
        for (int i = 0; i < s->instructions; i++) {
            if (s->instruction[i].kind != CHAIN) continue;
            Chain *c = &s->instruction[i].chain;
            free(c->input), free(c->constant), free(c->line), free(c->store), free(c->reduction);
            free(c->step), free(c->constants_data), free(c->buffer);
        }
        free(s->instruction), free(s->zeroed);
    }
    free(p->segment), free(p->base), free(p->bad), free(p->scratch), free(self->bound);
    type->tp_free(o);
    Py_DECREF(type);
}

static PyObject *program_bind(PyObject *o, PyObject *const *args, Py_ssize_t count) {
    ProgramObject *self = (ProgramObject *)o;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "bind(i, address) takes two arguments");
    long long i = PyLong_AsLongLong(args[0]);
    if (i == -1 && PyErr_Occurred()) return NULL;
    if (i < 0 || i >= self->program.bases) {
        return PyErr_Format(PyExc_IndexError, "[bind] no such base; got %lld; try 0..%d", i,
                            self->program.bases - 1);
    }
    void *address = PyLong_AsVoidPtr(args[1]);
    if (!address) {
        if (PyErr_Occurred()) return NULL;
        return PyErr_Format(PyExc_ValueError, "[bind] an address is not null; got 0 for base %lld",
                            i);
    }
    self->program.base[i] = address;
    self->unbound -= !self->bound[i];
    self->bound[i] = true;
    Py_RETURN_NONE;
}

// Below this a run is over before giving the GIL up and taking it back would pay.
#define GIL_NS 10000.0

Program *program_of(PyObject *o) {
    return Py_TYPE(o)->tp_dealloc == program_dealloc ? &((ProgramObject *)o)->program : NULL;
}

PyObject *program_run_method(PyObject *o, PyObject *Py_UNUSED(none)) {
    ProgramObject *self = (ProgramObject *)o;
    Program *p = &self->program;
    if (self->unbound) {
        int i = 0;
        while (self->bound[i]) i++;
        return PyErr_Format(PyExc_ValueError,
                            "[run] a base has no address; got none for %d; try bind", i);
    }
    if (p->running == pool_forks + 1) {
        return PyErr_Format(PyExc_RuntimeError, "[run] the program is running in another thread");
    }
    p->running = pool_forks + 1;
    if (p->work < GIL_NS) {
        program_run(p);
    } else {
        Py_BEGIN_ALLOW_THREADS
        program_run(p);
        Py_END_ALLOW_THREADS
    }
    p->running = 0;
    if (p->stop.row >= 0) {
        return Py_BuildValue("sLL", "label", (long long)p->stop.label, (long long)p->stop.cols);
    }
    Py_RETURN_NONE;
}

// Binds arrays that lie plainly in memory and runs; NotImplemented, nothing done, for others.
static PyObject *program_on(PyObject *o, PyObject *const *args, Py_ssize_t count) {
    ProgramObject *self = (ProgramObject *)o;
    Program *p = &self->program;
    if (count != p->bases) {
        return PyErr_Format(PyExc_TypeError, "[on] one array for each base; got %zd for %d", count,
                            p->bases);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (Py_TYPE(args[i]) != array_type || !is_plain((Array *)args[i])) {
            Py_RETURN_NOTIMPLEMENTED;
        }
    }
    if (p->running == pool_forks + 1) return program_run_method(o, NULL);  // raises
    for (Py_ssize_t i = 0; i < count; i++) {
        p->base[i] = ((Array *)args[i])->data;
        self->bound[i] = true;
    }
    self->unbound = 0;
    return program_run_method(o, NULL);
}

static PyMethodDef program_methods[] = {
    {"bind", (PyCFunction)(void (*)(void))program_bind, METH_FASTCALL, "Set a base address."},
    {"run", program_run_method, METH_NOARGS, "Run all segments."},
    {"on", (PyCFunction)(void (*)(void))program_on, METH_FASTCALL, "Bind these arrays and run."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot program_slots[] = {
    {Py_tp_doc, "A checked list of instructions, ready to run."},
    {Py_tp_new, program_new},
    {Py_tp_dealloc, program_dealloc},
    {Py_tp_methods, program_methods},
    {0, NULL},
};

static PyType_Spec program_spec = {
    .name = "gpugrad._native.Program",
    .basicsize = sizeof(ProgramObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = program_slots,
};

// ---- module -------------------------------------------------------------------------------------

static PyObject *native_set_gemm(PyObject *Py_UNUSED(module), PyObject *args) {
    unsigned long long sgemm, dgemm, set_threads, get_threads;
    int bits;
    if (!PyArg_ParseTuple(args, "KKiKK", &sgemm, &dgemm, &bits, &set_threads, &get_threads)) {
        return NULL;
    }
    if (bits != 32 && bits != 64) {
        return PyErr_Format(PyExc_ValueError, "[set_gemm] integers have 32 or 64 bits; got %d",
                            bits);
    }
    if (!set_threads != !get_threads) {
        return PyErr_Format(PyExc_ValueError, "[set_gemm] set_threads and get_threads go together");
    }
    blas = (Blas){{(void *)(uintptr_t)sgemm, (void *)(uintptr_t)dgemm},
                  bits,
                  (void (*)(int))(uintptr_t)set_threads,
                  (int (*)(void))(uintptr_t)get_threads};
    Py_RETURN_NONE;
}

PyTypeObject *array_type;

// The sample is np.empty((3, 5), "f4"): whether arrays lie in memory as array.h declares them.
static PyObject *native_set_array(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *sample;
    unsigned long long address;
    if (!PyArg_ParseTuple(args, "OK", &sample, &address)) return NULL;
    const Array *a = (Array *)sample;
    if (Py_TYPE(sample)->tp_basicsize < (Py_ssize_t)sizeof(Array) ||
        a->data != (char *)(uintptr_t)address || a->nd != 2 || a->dimensions[0] != 3 ||
        a->dimensions[1] != 5 || a->strides[0] != 20 || a->strides[1] != 4 || a->base ||
        !is_plain(a) || !(a->flags & WRITEABLE)) {
        return PyErr_Format(PyExc_TypeError,
                            "[set_array] an array of an unknown layout; try a newer gpugrad");
    }
    if (!array_type) Py_INCREF(Py_TYPE(sample));
    array_type = Py_TYPE(sample);  // held for good
    Py_RETURN_NONE;
}

static PyObject *native_set_isa(PyObject *Py_UNUSED(module), PyObject *name) {
    const char *text = PyUnicode_AsUTF8(name);
    if (!text) return NULL;
    const Isa *found = isa_find(text);
    if (!found) {
        return PyErr_Format(PyExc_ValueError,
                            "[set_isa] not an instruction set of this CPU; got %R", name);
    }
    const char *before = isa->name;
    isa = found;
    return PyUnicode_FromString(before);
}

static PyObject *native_isas(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && isa_at(i); i++) {
        PyObject *name = PyUnicode_FromString(isa_at(i)->name);
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    PyObject *all = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return all;
}

static PyMethodDef native_methods[] = {
    {"set_gemm", native_set_gemm, METH_VARARGS,
     "set_gemm(sgemm, dgemm, int_bits, set_threads, get_threads): addresses, 0 for none."},
    {"set_array", native_set_array, METH_VARARGS,
     "set_array(sample, address): a new (3, 5) float32 array, and where its values lie."},
    {"set_isa", native_set_isa, METH_O,
     "Build the programs that follow for this instruction set; returns the one before."},
    {"isas", native_isas, METH_NOARGS, "The compiled instruction sets this CPU has, best first."},
    {NULL, NULL, 0, NULL},
};

static int native_exec(PyObject *module) {
    static bool watching;
    isa = isa_find(NULL);
    if (!watching && !pool_watch_forks()) {
        PyErr_NoMemory();
        return -1;
    }
    watching = true;
    PyObject *type = PyType_FromSpec(&program_spec);
    PyObject *opcodes = PyTuple_New(SINGLE_OPS);
    for (int i = 0; opcodes && i < SINGLE_OPS; i++) {
        PyObject *name = PyUnicode_FromString(opcode_names[i]);
        if (!name) Py_CLEAR(opcodes);
        if (name) PyTuple_SET_ITEM(opcodes, i, name);
    }
    int failed = !type || !opcodes || PyModule_AddObjectRef(module, "Program", type) ||
                 PyModule_AddObjectRef(module, "OPCODES", opcodes) ||
                 PyModule_AddIntConstant(module, "FORMAT", FORMAT) || replay_add(module);
    Py_XDECREF(type);
    Py_XDECREF(opcodes);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot native_slots[] = {{Py_mod_exec, native_exec}, {0, NULL}};

static PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gpugrad._native",
    .m_doc = "The native CPU core: runs a planned program in one call.",
    .m_methods = native_methods,
    .m_slots = native_slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&native_module); }
