// The head of a NumPy array, the same since NumPy 1.0: Python's arrays are read where they lie,
// without NumPy's headers. gpugrad/backend/native.py has it checked on a sample before first use.
#pragma once

#include <Python.h>
#include <stdbool.h>

typedef struct {
    PyObject_HEAD
    char *data;
    int nd;
    Py_ssize_t *dimensions;
    Py_ssize_t *strides;
    PyObject *base;
    PyObject *descr;
    int flags;
} Array;

enum { CONTIGUOUS = 0x1, ALIGNED = 0x100, WRITEABLE = 0x400 };

// The type of NumPy's arrays; NULL until a sample has been seen.
extern PyTypeObject *array_type;

static inline bool is_plain(const Array *a) {
    return (a->flags & (CONTIGUOUS | ALIGNED)) == (CONTIGUOUS | ALIGNED);
}
