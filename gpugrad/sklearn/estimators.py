"""MLPClassifier and MLPRegressor. Imports base.

Subclasses of scikit-learn's own, so that parameters, validation, labels, warnings and attributes
are theirs; training and prediction are gpugrad's.
"""

from typing import Any, ClassVar

from sklearn import neural_network as theirs
from sklearn.utils._param_validation import StrOptions

from gpugrad.sklearn.base import Perceptron, constraints


class MLPClassifier(Perceptron, theirs.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's MLPClassifier on NumPy or CuPy: a multi-layer perceptron and its softmax.

    Parameters, attributes and methods are those of `sklearn.neural_network.MLPClassifier`; with the
    same ``random_state`` it starts from the same weights and sees the same minibatches. X, of shape
    (n, features), is an array of NumPy or CuPy, a tensor, a sparse matrix or a data frame, and is
    trained in its own dtype, float32 or float64; predictions are NumPy arrays. What is beyond
    scikit-learn's:

    Parameters
    ----------
    activation : also elu, gelu, leaky_relu, silu, softplus, or a function of a tensor.
    solver : also "adamw", where ``alpha`` is the decoupled weight decay.
    loss : "log_loss", or ``loss(y, p)`` in gpugrad's or NumPy's functions: y one-hot (n, classes),
        or (n, 1) for two classes; p the probabilities. It gives a loss for each row, or one number.
    dropout : probability of dropping a hidden value while training with a stochastic solver.
    ensemble : so many networks trained as one program on the same minibatches, from other starting
        weights, and with an ``alpha`` or ``learning_rate_init`` each where those are lists of as
        many. Predictions, losses and scores are averaged, ``coefs_`` and ``intercepts_`` stacked;
        ``members_`` are the single networks, of which the first is what would have been trained
        alone.
    progress : a bar over the epochs, drawn by rich.
    device : "cpu", "cuda", "cuda:1", or "auto": where X is, else a GPU if there is one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier(random_state=0, solver="lbfgs", device="cpu").fit(X, y)
    >>> model.score(X, y) > 0.95, model.predict_proba(X).shape
    (True, (150, 3))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **constraints(theirs.MLPClassifier._parameter_constraints),
        "loss": [StrOptions({"log_loss"}), callable],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
        loss: Any = "log_loss",
        dropout: Any = 0.0,
        ensemble: Any = 1,
        progress: Any = False,
        device: Any = "auto",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.dropout, self.ensemble = dropout, ensemble
        self.progress, self.device = progress, device
        self.loss = loss


class MLPRegressor(Perceptron, theirs.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's MLPRegressor on NumPy or CuPy: a multi-layer perceptron for numbers.

    Parameters, attributes and methods are those of `sklearn.neural_network.MLPRegressor`, and what
    `MLPClassifier` adds is added here, with

    Parameters
    ----------
    loss : "squared_error", "poisson", or ``loss(y, prediction)``, both (n, outputs), in gpugrad's
        or NumPy's functions. It gives a loss for each row, or one number.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> def log_cosh(y, p):
    ...     return np.logaddexp(y - p, p - y)
    >>> model = MLPRegressor(log_cosh, learning_rate_init=0.01, random_state=0, device="cpu")
    >>> model.fit(10 * X, y / 100).score(10 * X, y / 100) > 0.6
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **constraints(theirs.MLPRegressor._parameter_constraints),
        "loss": [*theirs.MLPRegressor._parameter_constraints["loss"], callable],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
        dropout: Any = 0.0,
        ensemble: Any = 1,
        progress: Any = False,
        device: Any = "auto",
    ) -> None:
        super().__init__(
            loss=loss,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.dropout, self.ensemble = dropout, ensemble
        self.progress, self.device = progress, device
