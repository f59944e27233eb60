"""The optimisers of all stages: Muon for the weights of linear and convolutional layers, AdamW for all others.

Muon's step is the nearest semi-orthogonal matrix to the gradient's moving average, so that every direction in which a
layer can change gets the same share of it. Shapes: K matrices of one shape, R rows, C columns, R <= C.

Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of the step follows
Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.spec.schema import Stage
from shala_framework.support.distributed.sharded_layers import MATRIX_LAYERS
from shala_framework.support.distributed.sharded_tensors import full_tensor, group_by_sharding, shard_like

SMALLEST_SIDE = 16  # narrower matrices have no directions to balance
NEWTON_SCHULZ_STEPS = 5
BETA_1, BETA_2 = 0.9, 0.99  # decays of AdamW's averages of gradients and of their squares
GRAM_ASPECT = 2  # ratio of columns to rows from which iterating on Gram matrices takes fewer products


def make_optimizers(
    module: nn.Module,
    settings: Stage,
    *,
    matrix_dtype: torch.dtype,
    capturable: bool = False,
    beta_1: float = BETA_1,
) -> list[torch.optim.Optimizer]:
    """Make the optimisers that together train every parameter of a module.

    Args:
        module: Module to train.
        settings: Optimiser, learning rate and weight decay.
        matrix_dtype: Number format of Muon's products; bfloat16 pays off on devices with units for it.
        capturable: Whether steps will become part of a CUDA graph; learning rates are then tensors.
        beta_1: Decay of AdamW's average of gradients.

    Returns:
        One or two optimisers whose rates all start at `settings.learning_rate`.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = _matrices(module) if settings.optimizer == "muon" else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    groups = [
        {"params": alike, "weight_decay": settings.weight_decay if matrix else 0.0}
        for matrix in (True, False)  # biases, norms and scales have no weight decay
        for alike in group_by_sharding([p for p in rest if (p.ndim >= 2) == matrix])
    ]
    rate: float | Tensor = settings.learning_rate
    if capturable:
        rate = torch.tensor(rate, device=parameters[0].device)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=rate, weight_decay=settings.weight_decay, dtype=matrix_dtype))
    if rest:
        # The meta device, on which costs are counted, has no fused form.
        form = {"foreach": True} if parameters[0].is_meta else {"fused": True}
        optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=(beta_1, BETA_2), capturable=capturable, **form))
    return optimizers


def _matrices(module: nn.Module) -> list[Tensor]:
    """Return the weights that map vectors to vectors. Embeddings and positions are tables of vectors, left to AdamW."""
    found: list[Tensor] = []
    for layer in module.modules():
        if isinstance(layer, MATRIX_LAYERS) and layer.weight.requires_grad:
            rows, columns = _matrix_shape(layer.weight)
            if min(rows, columns) >= SMALLEST_SIDE:
                found.append(layer.weight)
    return list({id(p): p for p in found}.values())


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised steps; matrices of one shape are processed together.

    PyTorch's own Muon takes two-dimensional parameters one by one. This one also treats convolution kernels as matrices
    (output channels by all other axes), and stacks equal shapes, which is faster than many small products.

    Args:
        params: Weights of at least two dimensions, in one group.
        lr: Learning rate; a step's root mean square is about 0.2 of it, like AdamW's.
        momentum: Decay of the gradient's moving average, in Nesterov's form.
        weight_decay: Decoupled weight decay.
        dtype: Number format of the products.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        lr: float | Tensor,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        self.shapes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in params:
            rows, columns = _matrix_shape(parameter)
            self.shapes[min(rows, columns), max(rows, columns)].append(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step. A parameter without a gradient does not change."""
        assert closure is None
        (group,) = self.param_groups
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        ahead: dict[int, Tensor] = {}
        for alike in group_by_sharding(parameters):
            gradients = [p.grad for p in alike if p.grad is not None]
            averages = [self.state[p]["momentum"] for p in alike]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, averages, group["momentum"])
            ahead |= {id(p): full_tensor(direction) for p, direction in zip(alike, directions, strict=True)}
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
        for (_, columns), members in self.shapes.items():
            moved = [p for p in members if id(p) in ahead]
            if not moved:
                continue
            wide_KRC = torch.stack([_wide(ahead[id(p)]).to(self.dtype) for p in moved])
            steps_KRC = orthogonalise(wide_KRC).float()
            for p, step_RC in zip(moved, steps_KRC, strict=True):
                rows, width = _matrix_shape(p)
                turned = step_RC if rows <= width else step_RC.mT
                _add(p, shard_like(turned.reshape(p.shape), p), -0.2 * group["lr"] * columns**0.5)


def _add(parameter: Tensor, direction: Tensor, extent: float | Tensor) -> None:
    if isinstance(extent, Tensor):
        parameter.addcmul_(direction, extent)
    else:
        parameter.add_(direction, alpha=extent)


def _matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """Return rows and columns of a weight as a matrix: output channels (inputs if transposed) by all other axes."""
    return parameter.shape[0], parameter.numel() // parameter.shape[0]


def _wide(parameter: Tensor) -> Tensor:
    """Return a weight as a matrix with no more rows than columns."""
    matrix = parameter.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def orthogonalise(x_KRC: Tensor) -> Tensor:
    """Return matrices with the singular vectors of x and singular values of about 0.7 to 1.2.

    Five steps of a Newton-Schulz iteration use Jordan et al.'s quintic. Its slope at 0 is steep, so small singular
    values grow fast; they need not end at exactly 1.

    Args:
        x_KRC: Matrices [K, R, C] with R <= C; a matrix of zeros stays zero.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x_KRC = x_KRC / (torch.linalg.matrix_norm(x_KRC, keepdim=True) + 1e-7)
    rows, columns = x_KRC.shape[1:]
    if x_KRC.dtype != torch.float32 or columns < GRAM_ASPECT * rows:
        for _ in range(NEWTON_SCHULZ_STEPS):
            gram_KRR = x_KRC @ x_KRC.mT
            polynomial_KRR = torch.baddbmm(gram_KRR, gram_KRR, gram_KRR, beta=b, alpha=c)
            x_KRC = torch.baddbmm(x_KRC, polynomial_KRR, x_KRC, beta=a)
        return x_KRC
    # Every iterate is a polynomial of the first Gram matrix times x, and such polynomials commute, so the wide matrix x
    # is needed only at the start and at the end. Not so in bfloat16, where errors of the Gram matrix grow too much.
    gram_KRR = x_KRC @ x_KRC.mT
    identity_RR = torch.eye(rows, device=x_KRC.device)
    turned_KRR = identity_RR
    for step in range(NEWTON_SCHULZ_STEPS):
        factor_KRR = torch.baddbmm(gram_KRR, gram_KRR, gram_KRR, beta=b, alpha=c) + a * identity_RR
        turned_KRR = factor_KRR @ turned_KRR if step else factor_KRR
        if step + 1 < NEWTON_SCHULZ_STEPS:
            gram_KRR = factor_KRR @ (factor_KRR @ gram_KRR)
    return turned_KRR @ x_KRC
