// Replay: a recorded step run again in one call, while nothing of what it depends on has changed.
#pragma once

#include <Python.h>

#include "program.h"

// Of a gpugrad._native.Program (module.c): its program (NULL for other objects), its run method.
Program *program_of(PyObject *o);
PyObject *program_run_method(PyObject *o, PyObject *none);

// Adds the type to the module; 0 unless that fails.
int replay_add(PyObject *module);
