"""scikit-learn's multi-layer perceptrons, trained by gpugrad: the same parameters, and a GPU.

Needs scikit-learn: ``pip install "gpugrad[sklearn]"``.
"""

from gpugrad.errors import MissingDependency, message

try:
    import sklearn  # noqa: F401
except ImportError as cause:
    hint = 'pip install "gpugrad[sklearn]"'
    raise MissingDependency(
        message("gpugrad.sklearn", "the estimators are scikit-learn's", cause, hint)
    ) from cause

from gpugrad.sklearn.convert import as_sklearn, from_sklearn
from gpugrad.sklearn.estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "as_sklearn", "from_sklearn"]
