"""The torch side of the accelerator benchmark: what each row is compared with.

A maker takes :class:`Tools` and a row's data and returns ``run()``, which does the whole work on
torch's device once and returns tensors there, without waiting. Makers that pass their inner
function through ``tools.compile`` and their step through ``tools.graph`` run in every way that
:func:`ways` lists; the benchmark takes the fastest. Torch is imported only in :func:`load`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

WAYS = ("eager", "graph", "compiled", "compiled graph")
_BLOCK = 10  # iterations of FISTA between two looks at the gap
_MOST_BLOCKS = 1000
_HALVINGS = 4  # how often a batch shrinks as its signals are done
_DEPENDENT = 1e-6  # an atom of which less is left lies in the span of the chosen ones


class Tools(NamedTuple):
    """Torch, its device, and how functions are compiled and steps captured."""

    torch: Any
    device: Any
    compile: Callable[[Callable], Callable]
    graph: Callable[[Callable], Callable]

    def tensor(self, array: Any) -> Any:
        """Copy an array to the device."""
        return self.torch.tensor(np.asarray(array), device=self.device)


def load(platform: str) -> tuple[Any, str]:
    """Return torch, or None and why it is left out on a platform of JAX."""
    try:
        import torch
    except ImportError:
        return None, "not installed"
    if platform == "gpu" and not torch.cuda.is_available():
        return None, "sees no GPU"
    if platform not in ("gpu", "cpu"):
        return None, f"is not run on {platform}"
    cuda = f", CUDA {torch.version.cuda}" if platform == "gpu" else ""
    return torch, torch.__version__ + cuda


def ways(torch: Any, platform: str, names: Iterable[str]) -> dict[str, Tools]:
    """Return the tools of each way to run that this device has; CUDA graphs are a GPU's alone."""
    on_gpu = platform == "gpu"
    device = torch.device("cuda" if on_gpu else "cpu")

    def same(fn: Callable) -> Callable:
        return fn

    capture = functools.partial(_captured, torch)
    return {
        name: Tools(
            torch,
            device,
            torch.compile if "compiled" in name else same,
            capture if "graph" in name else same,
        )
        for name in names
        if on_gpu or "graph" not in name
    }


def _captured(torch: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    """Capture a step without arguments in a CUDA graph; return what replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries allocate their workspace before the capture
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # JAX has threads of its own, whose calls must not end this capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = step()

    def replay(_held: Any = step) -> Any:  # the graph reads the memory of what the step holds
        graph.replay()
        return out

    return replay


def lasso(tools: Tools, problem: Any) -> Callable[[], Any]:
    """FISTA with restart by signal; each signal keeps the first codes within the gap.

    The batch is halved, open signals first, whenever half of it is done.
    """
    torch = tools.torch
    atoms, signals = tools.tensor(problem.dictionary), tools.tensor(problem.signals)
    step = float(1 / np.linalg.norm(problem.dictionary.astype(np.float64), 2) ** 2)
    iterate = tools.compile(functools.partial(_iterate, torch, atoms, step, problem.penalty))
    measure = tools.compile(functools.partial(_gap, torch, atoms, problem.penalty))
    stages: dict[int, tuple[list, Callable]] = {}

    def stage(size: int) -> tuple[list, Callable]:
        if size not in stages:
            shapes = ((size, len(atoms)), (size, len(atoms)), (size, 1), (size,))
            held = [torch.zeros(shape, device=tools.device) for shape in shapes]
            x = torch.zeros_like(signals[:size])

            def advance() -> None:
                state = held[:3]
                for _ in range(_BLOCK):
                    state = iterate(x, *state)
                for old, new in zip(held, (*state, measure(x, state[0])), strict=True):
                    old.copy_(new)

            stages[size] = [*held, x], tools.graph(advance)
        return stages[size]

    def run() -> Any:
        with torch.no_grad():
            size = len(signals)
            least = max(size >> _HALVINGS, 1)
            found = torch.zeros(size, len(atoms), device=tools.device)
            rows = torch.arange(size, device=tools.device)
            finished = torch.zeros(size, dtype=torch.bool, device=tools.device)
            held, advance = stage(size)
            _put(held, (0, 0, 1, 0, signals))
            for _ in range(_MOST_BLOCKS):
                advance()
                fresh = (held[3] <= problem.tolerance) & ~finished
                found[rows[fresh]] = held[0][fresh]
                finished = finished | fresh
                left = size - int(finished.sum())
                if left == 0:
                    return found
                smaller = size
                while left <= smaller // 2 and smaller // 2 >= least:
                    smaller //= 2
                if smaller < size:
                    order = torch.argsort(finished.int(), stable=True)[:smaller]
                    rows, finished, size = rows[order], finished[order], smaller
                    before = [x[order] for x in held]
                    held, advance = stage(size)
                    _put(held, before)
            found[rows[~finished]] = held[0][~finished]
            return found

    return run


def _put(held: list, values: Iterable[Any]) -> None:
    for old, new in zip(held, values, strict=True):
        if isinstance(new, int):
            old.fill_(new)
        else:
            old.copy_(new)


def _iterate(
    torch: Any, atoms: Any, step: float, penalty: float, x: Any, codes: Any, point: Any, t: Any
) -> tuple:
    """Take an iteration of FISTA that drops the momentum of a signal where it points uphill."""
    new = torch.relu(point - step * ((point @ atoms - x) @ atoms.T) - step * penalty)
    uphill = ((point - new) * (new - codes)).sum(-1, keepdim=True) > 0
    after = (1 + torch.sqrt(1 + 4 * t * t)) / 2
    weight = torch.where(uphill, 0.0, (t - 1) / after)
    return new, new + weight * (new - codes), torch.where(uphill, 1.0, after)


def _gap(torch: Any, atoms: Any, penalty: float, x: Any, codes: Any) -> Any:
    """Return the relative duality gap of each signal."""
    residual = x - codes @ atoms
    largest = (residual @ atoms.T).amax(-1).clamp(min=1e-30)
    energy, half = (residual**2).sum(-1), 0.5 * (x**2).sum(-1)
    best = (x * residual).sum(-1) / energy.clamp(min=1e-30)
    scale = torch.minimum(best.clamp(min=0), penalty / largest)
    primal = 0.5 * energy + penalty * codes.sum(-1)
    dual = half - 0.5 * ((x - scale[:, None] * residual) ** 2).sum(-1)
    return (primal - dual) / half.clamp(min=1e-30)


def pursuit(tools: Tools, problem: Any, best_error: bool) -> Callable[[], Any]:
    """Orthogonal matching pursuit, or orthogonal least squares, by a batched QR that grows."""
    torch, count = tools.torch, problem.num_active
    atoms, signals = tools.tensor(problem.dictionary), tools.tensor(problem.signals)
    size, every = len(signals), torch.arange(len(signals), device=tools.device)

    def first(correlations: Any, outside: Any) -> Any:
        scores = correlations.abs() / outside.clamp(min=1e-30).sqrt() if best_error else (
            correlations.abs())  # fmt: skip
        return torch.where(outside > _DEPENDENT, scores, -1.0).argmax(-1)

    def step(correlations: Any, outside: Any, basis: Any) -> tuple:
        atom = first(correlations, outside)
        chosen = atoms[atom]
        along = torch.bmm(basis, chosen[:, :, None])
        new = chosen - torch.bmm(basis.transpose(1, 2), along)[:, :, 0]
        length = new.norm(dim=-1, keepdim=True)
        new = new / length
        row = new @ atoms.T
        coefficient = correlations.gather(1, atom[:, None]) / length
        return (
            correlations - coefficient * row, outside - row * row, atom, new, coefficient,
            torch.cat([along[:, :, 0], length], dim=1),
        )  # fmt: skip

    step = tools.compile(step)

    def run() -> Any:
        with torch.no_grad():
            correlations = signals @ atoms.T
            outside = torch.ones_like(correlations)
            basis = torch.zeros(size, count, signals.shape[1], device=tools.device)
            triangle = torch.zeros(size, count, count, device=tools.device)
            support, coefficients = [], []
            for k in range(count):
                correlations, outside, atom, new, coefficient, column = step(
                    correlations, outside, basis[:, :k]
                )
                basis[:, k], triangle[:, : k + 1, k] = new, column
                support.append(atom)
                coefficients.append(coefficient)
            right = torch.stack(coefficients, dim=1)
            values = torch.linalg.solve_triangular(triangle, right, upper=True)[:, :, 0]
            codes = torch.zeros_like(correlations)
            codes[every[:, None], torch.stack(support, dim=1)] = values
            return codes

    return tools.graph(run)


def _parameters(tools: Tools, *leading: int, num_atoms: int, num_measurements: int) -> list:
    torch = tools.torch
    shape = (*leading, num_atoms, num_measurements)
    weight = torch.randn(shape, device=tools.device) / num_measurements**0.5
    bias = torch.zeros(shape[:-1], device=tools.device)
    atoms = torch.randn(shape, device=tools.device)
    return [x.requires_grad_() for x in (weight, bias, atoms)]


def _adam(tools: Tools, parameters: list, rate: float) -> Any:
    on_gpu = tools.device.type == "cuda"  # its fused step can also be captured
    options = {"fused": True, "capturable": True} if on_gpu else {}
    return tools.torch.optim.Adam(parameters, lr=rate, **options)


def _loss(
    torch: Any, penalty: float, num_active: int | None, weight: Any, bias: Any, atoms: Any, x: Any
) -> Any:
    """Return the loss of a ReLU autoencoder with an l1 penalty, or of a TopK autoencoder."""
    latents = x @ weight.T + bias
    if num_active is None:
        codes = torch.relu(latents)
        return 0.5 * ((x - codes @ atoms) ** 2).sum(-1).mean() + penalty * codes.sum(-1).mean()
    values, places = torch.topk(latents, num_active, dim=-1)
    codes = torch.zeros_like(latents).scatter(-1, places, torch.relu(values))
    return 0.5 * ((x - codes @ atoms) ** 2).sum(-1).mean()


def _unit(torch: Any, atoms: Any) -> None:
    with torch.no_grad():
        atoms /= atoms.norm(dim=-1, keepdim=True)


def training_step(
    tools: Tools, signals: np.ndarray, num_atoms: int, num_active: int | None, penalty: float,
    rate: float,
) -> Callable[[], Any]:  # fmt: skip
    """One step of Adam on the whole batch, atoms of unit norm."""
    torch, x = tools.torch, tools.tensor(signals)
    parameters = _parameters(tools, num_atoms=num_atoms, num_measurements=signals.shape[1])
    optimizer = _adam(tools, parameters, rate)
    loss_of = tools.compile(functools.partial(_loss, torch, penalty, num_active))

    def step() -> Any:
        _unit(torch, parameters[2])
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*parameters, x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return tools.graph(step)


def sweep(
    tools: Tools, signals: np.ndarray, num_models: int, num_atoms: int, batch: int | None,
    num_steps: int, penalty: float, rate: float,
) -> Callable[[], Any]:  # fmt: skip
    """Train many stacked models: gradients by ``torch.func.vmap``, one Adam for all."""
    torch, data = tools.torch, tools.tensor(signals)
    sizes = {"num_atoms": num_atoms, "num_measurements": signals.shape[1]}
    parameters = _parameters(tools, num_models, **sizes)
    optimizer = _adam(tools, parameters, rate)
    gradient = torch.func.grad(functools.partial(_loss, torch, penalty, None), argnums=(0, 1, 2))
    stacked = torch.func.vmap(gradient, in_dims=(0, 0, 0, None if batch is None else 0))
    gradients = tools.compile(stacked)

    def step() -> None:
        _unit(torch, parameters[2])
        x = data
        if batch is not None:
            places = torch.randint(0, len(data), (num_models, batch), device=tools.device)
            x = data[places]
        found = gradients(*(p.detach() for p in parameters), x)
        for parameter, value in zip(parameters, found, strict=True):
            parameter.grad = value
        optimizer.step()

    step = tools.graph(step)

    def run() -> Any:
        for _ in range(num_steps):
            step()
        return parameters[2]

    return run


def learn(
    tools: Tools, signals: np.ndarray, num_atoms: int, penalties: np.ndarray, num_steps: int,
    last_steps: int, momentum: float, ridge: float,
) -> Callable[[], Any]:  # fmt: skip
    """Alternate FISTA and least squares with momentum on the atoms; no atom is renewed.

    The numbers of steps are those of ``learn_dictionary`` with one restart: ``num_steps`` of FISTA
    a round, and ``last_steps`` for the codes at the end, at the last of the penalties.
    """
    torch, x = tools.torch, tools.tensor(signals)
    schedule = tools.tensor(penalties)  # as floats each would be compiled anew
    first = x[torch.randperm(len(x))[:num_atoms].to(tools.device)]

    weights = tools.tensor(_momentum(max(num_steps, last_steps)))

    def iterate(atoms: Any, codes: Any, point: Any, step: Any, penalty: Any, weight: Any) -> tuple:
        new = torch.relu(point - step * ((point @ atoms - x) @ atoms.T) - step * penalty)
        return new, new + weight * (new - codes)

    iterate = tools.compile(iterate)

    def encode(atoms: Any, codes: Any, penalty: Any, length: int) -> Any:
        step, point = 1 / _squared_norm(torch, atoms), codes
        for k in range(length):
            codes, point = iterate(atoms, codes, point, step, penalty, weights[k])
        return codes

    def turn(carried: tuple, penalty: Any) -> tuple:
        ahead, before, codes, last = carried
        codes = encode(ahead, codes, penalty, num_steps)
        error = 0.5 * ((x - codes @ ahead) ** 2).sum(-1).mean()
        value = error + penalty * codes.sum(-1).mean()
        gram = codes.T @ codes
        raised = ridge * gram.trace() / num_atoms
        eye = torch.eye(num_atoms, device=tools.device)
        factor = torch.linalg.cholesky_ex(gram + raised * eye)[0]
        fitted = torch.cholesky_solve(codes.T @ x + raised * ahead, factor)
        fitted = fitted / fitted.norm(dim=1, keepdim=True)
        strength = torch.where(value <= before, momentum, 0.0)
        further = fitted + strength * (fitted - last)
        return further / further.norm(dim=1, keepdim=True), value, codes, fitted

    def run() -> Any:
        with torch.no_grad():
            start = first / first.norm(dim=1, keepdim=True)
            none = torch.zeros(len(x), num_atoms, device=tools.device)
            carried = start, torch.tensor(torch.inf, device=tools.device), none, start
            for penalty in schedule[:-1]:
                carried = turn(carried, penalty)
            codes = encode(carried[3], carried[2], schedule[-1], last_steps)
            return carried[3], codes

    return run


def _momentum(length: int) -> np.ndarray:
    """Return the weights by which FISTA extrapolates."""
    t, found = 1.0, []
    for _ in range(length):
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        found.append((t - 1) / after)
        t = after
    return np.asarray(found, np.float32)


def _squared_norm(torch: Any, atoms: Any, squarings: int = 6) -> Any:
    """Bound the squared spectral norm from above by powers of the smaller Gram matrix."""
    power = atoms.T @ atoms if atoms.shape[0] > atoms.shape[1] else atoms @ atoms.T
    log_norm = 0.0
    for _ in range(squarings):
        norm = power.norm()
        power = (power / norm) @ (power / norm)
        log_norm = 2 * (log_norm + torch.log(norm))
    return torch.exp((log_norm + torch.log(power.norm())) / 2**squarings)
