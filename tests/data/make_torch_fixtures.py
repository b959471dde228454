"""Write what PyTorch computes, for tests that run where PyTorch is not installed.

Made with Python 3.11, torch 2.13.0 (CPU), numpy 2.4.6 and safetensors. To make them again, in any
environment that has those three::

    python tests/data/make_torch_fixtures.py

torch_optimizers.npz   a 4-6-3 sigmoid MLP under cross-entropy, trained for 200 steps on fixed data:
                       ``x``, ``labels``, ``start``, ``settings`` (JSON), ``late`` (the step from
                       which, and the period with which, one parameter lacks its gradient), and the
                       parameters after each of ``steps`` as ``float32`` (settings, steps, 51), and
                       after the last as ``float64`` (settings, 51), torch computing in that dtype
torch_schedules.npz    for each of SCHEDULES: ``lr.<name>``, and ``momentum.<name>`` where it is
                       cycled, before the first and after each of 20 steps
torch_lbfgs.npz        a 3-5-1 tanh MLP under the mean squared error on ``x``, ``y`` from ``start``:
                       parameters after each of 6 steps of each of LBFGS (``end.<name>``), losses
                       before them (``loss.<name>``) and evaluations in all (``calls.<name>``)
torch_norms.npz        the net of ``norms``, trained with SGD for ``y.0`` to ``y.4`` (the outputs on
                       ``x`` and ``codes``), then ``eval`` on the same; ``start.<name>`` and
                       ``end.<name>`` are its state_dict before and after, ``grad.<name>`` the last
                       gradients
torch_mlp.safetensors  a state_dict as PyTorch's users save it
torch_mlp.npz          for that model: input ``x``, ``labels``, ``logits``, ``loss``, and the
                       gradients ``grad.<name>``
"""

import contextlib
import json
from pathlib import Path

import numpy as np

with contextlib.suppress(ImportError):  # the test run, which lacks it, looks for doctests here
    import torch
    from safetensors.torch import save_file

HERE = Path(__file__).parent
STEPS = (1, 10, 50, 200)
# Mild enough that rounding errors stay small: an average of few steps over a vanishing gradient
# magnifies them without limit, whoever computes it.
SETTINGS = {
    "sgd": ("SGD", {"lr": 0.5}),
    "sgd momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd weight_decay": ("SGD", {"lr": 0.5, "weight_decay": 0.01}),
    "sgd all": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {"lr": 0.02}),
    "adam betas": ("Adam", {"lr": 0.02, "betas": [0.8, 0.98], "eps": 1e-3}),
    "adam weight_decay": ("Adam", {"lr": 0.02, "weight_decay": 0.01}),
    "adam late": ("Adam", {"lr": 0.02}),
    "adamw": ("AdamW", {"lr": 0.02, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.005}),
    "rmsprop weight_decay": (
        "RMSprop",
        {"lr": 0.005, "alpha": 0.98, "eps": 1e-3, "weight_decay": 0.01},
    ),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad weight_decay": ("Adagrad", {"lr": 0.1, "weight_decay": 0.01}),
    "momentum late": ("SGD", {"lr": 0.1, "momentum": 0.9}),
}
# Under "late" the second parameter has no gradient before step 7, nor at every third step after.
LATE = (7, 3)


# Class and settings; a list of them is a SequentialLR with the milestones that come last.
SCHEDULES = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "exponential": ("ExponentialLR", {"gamma": 0.8}),
    "linear": ("LinearLR", {"start_factor": 0.1, "total_iters": 7}),
    "linear down": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.25}),
    "cosine": ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.01}),
    "one cycle": ("OneCycleLR", {"max_lr": 0.9, "total_steps": 20}),
    "one cycle adam": ("OneCycleLR", {"max_lr": 0.9, "epochs": 4, "steps_per_epoch": 6}),
    "one cycle linear": (
        "OneCycleLR",
        {"max_lr": 0.9, "total_steps": 21, "anneal_strategy": "linear", "cycle_momentum": False},
    ),
    "one cycle three phases": (
        "OneCycleLR",
        {"max_lr": 0.9, "total_steps": 20, "three_phase": True, "pct_start": 0.4},
    ),
    "one cycle no rise": ("OneCycleLR", {"max_lr": 0.9, "total_steps": 20, "pct_start": 0.0}),
    "warm-up, cosine": [
        ("LinearLR", {"start_factor": 0.1, "total_iters": 5}),
        ("CosineAnnealingLR", {"T_max": 15}),
        [5],
    ],
    "three": [
        ("LinearLR", {"start_factor": 0.5, "total_iters": 3}),
        ("StepLR", {"step_size": 2}),
        ("ExponentialLR", {"gamma": 0.9}),
        [3, 9],
    ],
    "plateau": ("ReduceLROnPlateau", {"factor": 0.5, "patience": 2}),
    "plateau max": (
        "ReduceLROnPlateau",
        {"mode": "max", "patience": 1, "threshold": 0.05, "cooldown": 2, "min_lr": 0.01},
    ),
    "plateau abs": (
        "ReduceLROnPlateau",
        {"factor": 0.3, "patience": 0, "threshold": 0.02, "threshold_mode": "abs"},
    ),
}
# What a plateau is looked for in.
METRICS = [1.0, 0.9, 0.91, 0.899, 0.95, 0.8, 0.8, 0.79, 0.79995, 0.9, 0.9, 0.9, 0.7, 0.65, 0.7]
METRICS += [0.7, 0.7, -0.5, -0.5, -0.6]


def sigmoid_mlp(dtype):
    layers = [torch.nn.Linear(4, 6), torch.nn.Sigmoid(), torch.nn.Linear(6, 3)]
    return torch.nn.Sequential(*layers).to(dtype)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()


def train(dtype, start, x, labels, name):
    model = sigmoid_mlp(dtype)
    torch.nn.utils.vector_to_parameters(torch.tensor(start, dtype=dtype), model.parameters())
    kind, settings = SETTINGS[name]
    parameters = list(model.parameters())
    optimizer = getattr(torch.optim, kind)(parameters, **settings)
    x, labels = torch.tensor(x, dtype=dtype), torch.tensor(labels)
    seen = []
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        if "late" in name and (step < LATE[0] or step % LATE[1] == 0):
            parameters[1].grad = None
        optimizer.step()
        if step in STEPS:
            seen.append(flat(model))
    return seen


def optimizers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 30)
    start = (0.5 * rng.standard_normal(51)).astype(np.float32)
    runs = {
        str(dtype).removeprefix("torch."): np.array(
            [train(dtype, start, x, labels, name) for name in SETTINGS]
        )
        for dtype in (torch.float32, torch.float64)
    }
    np.savez_compressed(
        HERE / "torch_optimizers.npz",
        x=x,
        labels=labels,
        start=start,
        steps=STEPS,
        late=LATE,
        settings=json.dumps(SETTINGS),
        torch=str(torch.__version__),
        float32=runs["float32"],
        float64=runs["float64"][:, -1],
    )


def schedule(optimizer, spec):
    kinds = torch.optim.lr_scheduler
    if isinstance(spec, list):
        *inner, milestones = spec
        return kinds.SequentialLR(optimizer, [schedule(optimizer, s) for s in inner], milestones)
    return getattr(kinds, spec[0])(optimizer, **spec[1])


def schedules():
    seen = {}
    for name, spec in SCHEDULES.items():
        p = torch.nn.Parameter(torch.ones(1))
        adam = torch.optim.Adam([p], lr=0.4)
        optimizer = adam if "adam" in name else torch.optim.SGD([p], lr=0.4, momentum=0.9)
        made = schedule(optimizer, spec)
        (group,) = optimizer.param_groups
        lrs, momenta = [], []
        for metric in [None, *METRICS]:
            if metric is not None:
                optimizer.step()
                made.step(*([metric] if "plateau" in name else []))
            lrs.append(group["lr"])
            momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        seen[f"lr.{name}"] = lrs
        if "cycle" in name:
            seen[f"momentum.{name}"] = momenta
    np.savez_compressed(
        HERE / "torch_schedules.npz",
        schedules=json.dumps(SCHEDULES),
        metrics=METRICS,
        torch=str(torch.__version__),
        **seen,
    )


LBFGS = {
    "plain": {"lr": 0.3, "max_iter": 4},
    "short memory": {"lr": 0.3, "max_iter": 4, "history_size": 2},
    "one": {"lr": 0.2, "max_iter": 1},
    "loose": {"lr": 0.3, "max_iter": 8, "tolerance_change": 1e-3, "tolerance_grad": 1e-2},
    "few evaluations": {"lr": 0.3, "max_iter": 8, "max_eval": 3},
    "strong_wolfe": {"max_iter": 10, "line_search_fn": "strong_wolfe"},
}


def lbfgs():
    rng = np.random.default_rng(5)
    x, start = rng.standard_normal((40, 3)), 0.5 * rng.standard_normal(26)
    y = np.sin(x).sum(1, keepdims=True)
    seen = {}
    for name, settings in LBFGS.items():
        layers = [torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)]
        model = torch.nn.Sequential(*layers).double()
        torch.nn.utils.vector_to_parameters(torch.tensor(start), model.parameters())
        optimizer = torch.optim.LBFGS(model.parameters(), **settings)
        calls, ends, losses = 0, [], []

        def closure(model=model, optimizer=optimizer):
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = ((model(torch.tensor(x)) - torch.tensor(y)) ** 2).mean()
            loss.backward()
            return loss

        for _ in range(6):
            losses.append(optimizer.step(closure).item())
            ends.append(flat(model))
        seen |= {f"end.{name}": ends, f"loss.{name}": losses, f"calls.{name}": calls}
    np.savez_compressed(
        HERE / "torch_lbfgs.npz",
        x=x,
        y=y,
        start=start,
        settings=json.dumps(LBFGS),
        torch=str(torch.__version__),
        **seen,
    )


def norms():
    torch.manual_seed(1)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(4, 3, padding_idx=1)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(5, 6),
                torch.nn.BatchNorm1d(6),
                torch.nn.Tanh(),
                torch.nn.LayerNorm(6),
                torch.nn.Linear(6, 4, bias=False),
                torch.nn.BatchNorm1d(4, eps=1e-3, momentum=None),
                torch.nn.LayerNorm(4, elementwise_affine=False),
                torch.nn.LayerNorm(4, bias=False),
                torch.nn.BatchNorm1d(4, affine=False, track_running_stats=False),
            )

        def forward(self, x, codes):
            return self.layers(torch.cat([x, self.table(codes)], 1))

    model = Net().double()
    x, codes = torch.randn(12, 2).double(), torch.randint(0, 4, (12,))
    target = torch.randn(12, 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    seen = {f"start.{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    for i in range(5):
        optimizer.zero_grad()
        y = model(x, codes)
        seen[f"y.{i}"] = y.detach().numpy()
        ((y - target) ** 2).mean().backward()
        optimizer.step()
    seen |= {f"grad.{name}": p.grad.numpy() for name, p in model.named_parameters()}
    seen |= {f"end.{name}": value.numpy() for name, value in model.state_dict().items()}
    seen["eval"] = model.eval()(x, codes).detach().numpy()
    np.savez_compressed(
        HERE / "torch_norms.npz",
        x=x.numpy(),
        codes=codes.numpy(),
        target=target.numpy(),
        torch=str(torch.__version__),
        **seen,
    )


def mlp():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 7),
        torch.nn.Sigmoid(),
        torch.nn.Linear(7, 4),
        torch.nn.Tanh(),
        torch.nn.Linear(4, 3),
    )
    save_file(model.state_dict(), HERE / "torch_mlp.safetensors")
    (HERE / "torch_mlp.safetensors").chmod(0o644)
    x = torch.randn(9, 5, requires_grad=True)
    labels = torch.randint(0, 3, (9,))
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    np.savez_compressed(
        HERE / "torch_mlp.npz",
        x=x.detach().numpy(),
        labels=labels.numpy(),
        logits=logits.detach().numpy(),
        loss=loss.item(),
        torch=str(torch.__version__),
        **{f"grad.{name}": p.grad.numpy() for name, p in model.named_parameters()},
        **{"grad.x": x.grad.numpy()},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    optimizers()
    schedules()
    lbfgs()
    norms()
    mlp()
