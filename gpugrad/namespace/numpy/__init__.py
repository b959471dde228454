"""NumPy's names beyond the array API, composed of functions that differentiate already.

Signatures and defaults are NumPy's; ``out`` is not taken, and what NumPy has behind it is
keyword-only. One room a family, imported on demand; they import creation, ops, aval and errors.
"""

# Other names of functions there are
ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "bitwise_not": "bitwise_invert",
    "fix": "trunc",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "mod": "remainder",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}
