// Replay: what gpugrad/compiler/recording.py does for each call of a compiled step, in C, for the
// ordinary case that nothing has changed since the last call but the contents of the arguments. At
// the first difference it returns NotImplemented, having changed nothing, and Python takes over:
// every rule stands there; here stands only how to see quickly that none of them is needed.

#include "replay.h"

#include "array.h"

#include <stddef.h>

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    PyObject *runs;        // tuple: gpugrad._native.Program, or a function of Python's to call
    PyTypeObject *tensor, *sink;  // gpugrad.Tensor, and where a gradient is kept
    Py_ssize_t data, node, leaf, grad;  // where its slots lie, and Sink's
    PyObject *memory;      // list: the array bound to each base
    PyObject *arguments;   // tuple of (type, base, sample): sample has the shape and dtype
    PyObject *slots;       // tuple of (tensor or sink, node, base, written, sample)
    PyObject *places;      // tuple of (holder, keys or None, values): see guards.py
    PyObject *unset;       // in values: a key that is not there
    PyObject *empty;       // tuple of sinks that must hold nothing
    PyObject *getters;     // tuple of functions giving a number for each scalar
    double *scalars;
    PyObject *draws;       // tuple of functions that leave a generator's state among the scalars
    PyObject *fresh;       // tuple of (function giving a new array, base) for each result
    PyObject *cleared;     // tuple of sinks to empty
    PyObject *later;       // tuple of (sink, what computes its gradient)
    PyObject *effects;     // tuple of functions to call afterwards
    PyObject *rebuild;     // what makes the returned structure of the results; None: the one result
    PyObject *on_label;    // raises what a bad label is
    PyThread_type_lock lock;
} Replay;

static PyObject *slot(PyObject *o, Py_ssize_t offset) { return *(PyObject **)((char *)o + offset); }

static void set_slot(PyObject *o, Py_ssize_t offset, PyObject *value) {
    PyObject **place = (PyObject **)((char *)o + offset);
    PyObject *before = *place;
    Py_INCREF(value);
    *place = value;
    Py_XDECREF(before);
}

// Where a name of __slots__ lies in the objects of a type; -1 with an error set.
static Py_ssize_t slot_offset(PyObject *type, const char *name) {
    PyObject *member = PyObject_GetAttrString(type, name);
    if (!member) return -1;
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(member, &PyMemberDescr_Type)) {
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    } else {
        PyErr_Format(PyExc_TypeError, "[replay] %s is no slot", name);
    }
    Py_DECREF(member);
    return offset;
}

// Memory i is at address, in every program.
static void bind(Replay *self, Py_ssize_t i, char *address) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(self->runs); k++) {
        Program *p = program_of(PyTuple_GET_ITEM(self->runs, k));
        if (p) p->base[i] = address;
    }
}

static bool same_kind(const Array *a, const Array *sample) {
    if (a->nd != sample->nd || a->descr != sample->descr) return false;
    for (int i = 0; i < a->nd; i++) {
        if (a->dimensions[i] != sample->dimensions[i]) return false;
    }
    return is_plain(a);
}

// Whether the Python values the step read are the very objects they were.
static bool places_hold(Replay *self) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(self->places); k++) {
        PyObject *place = PyTuple_GET_ITEM(self->places, k);
        PyObject *holder = PyTuple_GET_ITEM(place, 0), *keys = PyTuple_GET_ITEM(place, 1);
        PyObject *values = PyTuple_GET_ITEM(place, 2);
        Py_ssize_t n = PyList_GET_SIZE(values);
        if (PyCell_Check(holder)) {
            PyObject *now = PyCell_GET(holder);
            if ((now ? now : self->unset) != PyList_GET_ITEM(values, 0)) return false;
        } else if (PyList_Check(holder)) {
            if (PyList_GET_SIZE(holder) != n) return false;
            for (Py_ssize_t i = 0; i < n; i++) {
                if (PyList_GET_ITEM(holder, i) != PyList_GET_ITEM(values, i)) return false;
            }
        } else if (PyDict_Check(holder)) {
            for (Py_ssize_t i = 0; i < n; i++) {
                PyObject *now = PyDict_GetItemWithError(holder, PyList_GET_ITEM(keys, i));
                if (!now && PyErr_Occurred()) {
                    PyErr_Clear();
                    return false;
                }
                if ((now ? now : self->unset) != PyList_GET_ITEM(values, i)) return false;
            }
        } else if (!PyTuple_Check(holder)) {  // what is in a tuple stays there
            return false;
        }
    }
    return true;
}

// The gradient in a sink, a new array in every call, or NULL when it is of another kind.
static Array *gradient_of(Replay *self, PyObject *s) {
    PyObject *x = slot(PyTuple_GET_ITEM(s, 0), self->grad);
    Array *sample = (Array *)PyTuple_GET_ITEM(s, 4);
    if (!Py_IS_TYPE(x, self->tensor) || slot(x, self->node) != PyTuple_GET_ITEM(s, 1)) return NULL;
    Array *array = (Array *)slot(x, self->data);
    return Py_IS_TYPE(array, array_type) && same_kind(array, sample) ? array : NULL;
}

static bool slots_hold(Replay *self) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(self->slots); k++) {
        PyObject *s = PyTuple_GET_ITEM(self->slots, k), *x = PyTuple_GET_ITEM(s, 0);
        if (Py_IS_TYPE(x, self->sink)) {
            if (!gradient_of(self, s)) return false;
            continue;
        }
        Py_ssize_t i = PyLong_AsSsize_t(PyTuple_GET_ITEM(s, 2));
        PyObject *array = slot(x, self->data);
        if (slot(x, self->node) != PyTuple_GET_ITEM(s, 1)) return false;
        if (array != PyList_GET_ITEM(self->memory, i)) return false;
        if (PyTuple_GET_ITEM(s, 3) == Py_True) {
            // Held by its tensor and by `memory`: nobody else would see it overwritten.
            if (Py_REFCNT(array) != 2 || !(((Array *)array)->flags & WRITEABLE)) return false;
        }
    }
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(self->empty); k++) {
        if (slot(PyTuple_GET_ITEM(self->empty, k), self->grad) != Py_None) return false;
    }
    return true;
}

// The array of argument k, or NULL when it is of another kind than the recorded one.
static Array *array_of(Replay *self, PyObject *x, Py_ssize_t k) {
    PyObject *a = PyTuple_GET_ITEM(self->arguments, k);
    if ((PyObject *)Py_TYPE(x) != PyTuple_GET_ITEM(a, 0)) return NULL;
    Array *sample = (Array *)PyTuple_GET_ITEM(a, 2), *array = (Array *)x;
    if (Py_IS_TYPE(x, self->tensor)) {
        if (slot(x, self->node) != Py_None) return NULL;
        array = (Array *)slot(x, self->data);
        if (!Py_IS_TYPE(array, Py_TYPE(sample))) return NULL;
    }
    return same_kind(array, sample) ? array : NULL;
}

static PyObject *new_tensor(Replay *self, PyObject *array) {
    PyObject *x = self->tensor->tp_alloc(self->tensor, 0);
    if (!x) return NULL;
    set_slot(x, self->data, array);
    set_slot(x, self->node, Py_None);
    set_slot(x, self->leaf, Py_None);
    return x;
}

static bool read_scalars(Replay *self) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->getters); i++) {
        PyObject *number = PyObject_CallNoArgs(PyTuple_GET_ITEM(self->getters, i));
        if (!number) return false;
        self->scalars[i] = PyFloat_AsDouble(number);
        Py_DECREF(number);
        if (self->scalars[i] == -1.0 && PyErr_Occurred()) return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->draws); i++) {
        PyObject *taken = PyObject_CallNoArgs(PyTuple_GET_ITEM(self->draws, i));
        if (!taken) return false;
        Py_DECREF(taken);
    }
    return true;
}

// Python finds the array in memory i too.
static void hold(Replay *self, Py_ssize_t i, PyObject *array) {
    PyObject *before = PyList_GET_ITEM(self->memory, i);
    PyList_SET_ITEM(self->memory, i, Py_NewRef(array));
    Py_XDECREF(before);
}

// New arrays for the results, bound.
static PyObject *make_results(Replay *self) {
    Py_ssize_t n = PyTuple_GET_SIZE(self->fresh);
    PyObject *made = PyTuple_New(n);
    for (Py_ssize_t i = 0; made && i < n; i++) {
        PyObject *f = PyTuple_GET_ITEM(self->fresh, i);
        PyObject *array = PyObject_CallNoArgs(PyTuple_GET_ITEM(f, 0));
        if (!array) {
            Py_DECREF(made);
            return NULL;
        }
        PyTuple_SET_ITEM(made, i, array);
        Py_ssize_t at = PyLong_AsSsize_t(PyTuple_GET_ITEM(f, 1));
        bind(self, at, ((Array *)array)->data);
        hold(self, at, array);
    }
    return made;
}

static PyObject *finish(Replay *self, PyObject *made) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->cleared); i++) {
        set_slot(PyTuple_GET_ITEM(self->cleared, i), self->grad, Py_None);
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->later); i++) {
        PyObject *pair = PyTuple_GET_ITEM(self->later, i);
        set_slot(PyTuple_GET_ITEM(pair, 0), self->grad, PyTuple_GET_ITEM(pair, 1));
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->effects); i++) {
        PyObject *done = PyObject_CallNoArgs(PyTuple_GET_ITEM(self->effects, i));
        if (!done) return NULL;
        Py_DECREF(done);
    }
    if (self->rebuild == Py_None) return new_tensor(self, PyTuple_GET_ITEM(made, 0));
    return PyObject_CallOneArg(self->rebuild, made);
}

// What was wrong with the data, None for nothing, or NULL.
static PyObject *run_all(Replay *self) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(self->runs); k++) {
        PyObject *run = PyTuple_GET_ITEM(self->runs, k);
        PyObject *wrong = program_of(run) ? program_run_method(run, NULL) : PyObject_CallNoArgs(run);
        if (wrong != Py_None) return wrong;
        Py_DECREF(wrong);
    }
    Py_RETURN_NONE;
}

static PyObject *replay_locked(Replay *self, PyObject *args) {
    Py_ssize_t n = PyTuple_GET_SIZE(args);
    if (n != PyTuple_GET_SIZE(self->arguments) || !slots_hold(self) || !places_hold(self)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    for (Py_ssize_t k = 0; k < n; k++) {
        if (!array_of(self, PyTuple_GET_ITEM(args, k), k)) Py_RETURN_NOTIMPLEMENTED;
    }
    for (Py_ssize_t k = 0; k < n; k++) {
        Array *array = array_of(self, PyTuple_GET_ITEM(args, k), k);
        Py_ssize_t i = PyLong_AsSsize_t(PyTuple_GET_ITEM(PyTuple_GET_ITEM(self->arguments, k), 1));
        if (i < 0) continue;  // not read by the program
        bind(self, i, array->data);
        hold(self, i, (PyObject *)array);
    }
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(self->slots); k++) {
        PyObject *s = PyTuple_GET_ITEM(self->slots, k);
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(s, 0), self->sink)) continue;
        Array *array = gradient_of(self, s);
        Py_ssize_t i = PyLong_AsSsize_t(PyTuple_GET_ITEM(s, 2));
        bind(self, i, array->data);
        hold(self, i, (PyObject *)array);
    }
    if (!read_scalars(self)) return NULL;
    PyObject *made = make_results(self);
    if (!made) return NULL;
    PyObject *wrong = run_all(self), *out = NULL;
    if (wrong == Py_None) {
        out = finish(self, made);
    } else if (wrong) {
        out = PyObject_CallOneArg(self->on_label, wrong);  // raises
    }
    Py_XDECREF(wrong);
    Py_DECREF(made);
    return out;
}

static PyObject *replay_call(PyObject *o, PyObject *args, PyObject *options) {
    Replay *self = (Replay *)o;
    if (options && PyDict_GET_SIZE(options)) Py_RETURN_NOTIMPLEMENTED;
    if (PyThread_acquire_lock(self->lock, NOWAIT_LOCK) != PY_LOCK_ACQUIRED) {
        Py_RETURN_NOTIMPLEMENTED;  // another thread is in it: Python waits for the lock
    }
    PyObject *out = replay_locked(self, args);
    PyThread_release_lock(self->lock);
    return out;
}

static PyObject *replay_enter(PyObject *o, PyObject *Py_UNUSED(none)) {
    Replay *self = (Replay *)o;
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *replay_exit(PyObject *o, PyObject *Py_UNUSED(args)) {
    PyThread_release_lock(((Replay *)o)->lock);
    Py_RETURN_NONE;
}

// What it holds of Python's.
#define HELD(F)                                                                                  \
    F(self->runs) F(self->tensor) F(self->sink) F(self->memory) F(self->arguments) F(self->slots)           \
    F(self->places) F(self->unset) F(self->empty) F(self->getters) F(self->draws) F(self->fresh)                \
    F(self->cleared) F(self->later) F(self->effects) F(self->rebuild) F(self->on_label)
#define VISIT(o) Py_VISIT(o);
#define CLEAR(o) Py_CLEAR(o);
#define TAKE(o) Py_INCREF(o);

static int replay_traverse(PyObject *o, visitproc visit, void *arg) {
    Replay *self = (Replay *)o;
    Py_VISIT(Py_TYPE(o));
    HELD(VISIT)
    return 0;
}

static int replay_clear(PyObject *o) {
    Replay *self = (Replay *)o;
    HELD(CLEAR)
    return 0;
}

static void replay_dealloc(PyObject *o) {
    PyTypeObject *type = Py_TYPE(o);
    PyObject_GC_UnTrack(o);
    replay_clear(o);
    if (((Replay *)o)->lock) PyThread_free_lock(((Replay *)o)->lock);
    type->tp_free(o);
    Py_DECREF(type);
}

static PyObject *replay_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(options)) {
    unsigned long long scalars;
    Replay *self = (Replay *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->lock = PyThread_allocate_lock();
    if (!self->lock || !PyArg_ParseTuple(
            args, "O!O!O!O!O!O!O!OO!O!KO!O!O!O!O!OO", &PyTuple_Type, &self->runs, &PyType_Type,
            &self->tensor, &PyType_Type, &self->sink, &PyList_Type, &self->memory, &PyTuple_Type, &self->arguments,
            &PyTuple_Type, &self->slots, &PyTuple_Type, &self->places, &self->unset, &PyTuple_Type,
            &self->empty, &PyTuple_Type, &self->getters, &scalars, &PyTuple_Type, &self->draws,
            &PyTuple_Type, &self->fresh,
            &PyTuple_Type, &self->cleared, &PyTuple_Type, &self->later, &PyTuple_Type,
            &self->effects, &self->rebuild, &self->on_label)) {
        // Nothing is owned yet.
        memset((char *)self + offsetof(Replay, runs), 0,
               offsetof(Replay, lock) - offsetof(Replay, runs));
        Py_DECREF(self);
        return NULL;
    }
    HELD(TAKE)
    self->scalars = (double *)(uintptr_t)scalars;
    self->data = slot_offset((PyObject *)self->tensor, "_data");
    self->node = slot_offset((PyObject *)self->tensor, "_node");
    self->leaf = slot_offset((PyObject *)self->tensor, "_leaf");
    self->grad = slot_offset((PyObject *)self->sink, "grad");
    if (self->data < 0 || self->node < 0 || self->leaf < 0 || self->grad < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (!array_type) {
        PyErr_SetString(PyExc_TypeError, "[replay] no array was seen yet; try set_array first");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef replay_methods[] = {
    {"__enter__", replay_enter, METH_NOARGS, "Wait until no thread is in it."},
    {"__exit__", replay_exit, METH_VARARGS, "Let the next one in."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot replay_slots[] = {
    {Py_tp_doc, "A recorded step, run again while nothing it depends on has changed."},
    {Py_tp_new, replay_new},
    {Py_tp_dealloc, replay_dealloc},
    {Py_tp_traverse, replay_traverse},
    {Py_tp_clear, replay_clear},
    {Py_tp_call, replay_call},
    {Py_tp_methods, replay_methods},
    {0, NULL},
};

static PyType_Spec replay_spec = {
    .name = "gpugrad._native.Replay",
    .basicsize = sizeof(Replay),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = replay_slots,
};

int replay_add(PyObject *module) {
    PyObject *type = PyType_FromSpec(&replay_spec);
    int failed = !type || PyModule_AddObjectRef(module, "Replay", type);
    Py_XDECREF(type);
    return failed;
}
