"""How each CUDA kernel is launched: geometry, workspace and checks, one module a kernel.

A *plan* depends on shapes, dtypes and steps alone and is made once; its ``launch`` gets all memory
and allocates none, so it may be captured in a CUDA graph. Imports launch and errors only.
"""
