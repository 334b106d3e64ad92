"""A literal implementation of MoLE-Flow as described: the reference of tests and benchmarks.

It is neither fast nor safe. It takes one batch at a time, the active task is global state, the flow
is FrEIA's `AllInOneBlock`, statistics are accumulated row by row, and the learning-rate schedule is
torch's. The only deviation follows from the change of variables: the log-determinant is kept per
patch.
"""

from __future__ import annotations

import math
from typing import Any

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import torch
from torch import Tensor, nn

REFERENCE_BLEND = 0.9
# its features: a ViT's last blocks, with position
FEATURES: dict[str, Any] = {"layers": [8, 9, 10, 11], "use_position": True}


def position_code(channels: int, height: int, width: int) -> Tensor:
    """Position code (height, width, channels) by its definition, one number at a time."""
    code = torch.zeros(height, width, channels, dtype=torch.float64)
    half = channels // 2
    for row in range(height):
        for column in range(width):
            for k in range(0, half, 2):
                frequency = math.exp(-k * math.log(1e4) / half)
                code[row, column, k] = math.sin(column * frequency)
                code[row, column, k + 1] = math.cos(column * frequency)
                code[row, column, half + k] = math.sin(row * frequency)
                code[row, column, half + k + 1] = math.cos(row * frequency)
    return code


class Linear(nn.Module):
    """A shared linear layer, to which the expert of the active task is added, if it has one."""

    def __init__(self, width_in: int, width_out: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.base_linear = nn.Linear(width_in, width_out)
        self.scaling, self.rank = alpha / rank, rank
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.task_biases = nn.ParameterDict()
        self.active = ""

    def add_task(self, task: int, use_lora: bool, use_task_bias: bool) -> None:
        """A by Xavier, B and the bias shift at zero."""
        width_out, width_in = self.base_linear.weight.shape
        if use_lora:
            down = nn.init.xavier_uniform_(torch.zeros(self.rank, width_in))
            self.lora_A[str(task)] = nn.Parameter(down)
            self.lora_B[str(task)] = nn.Parameter(torch.zeros(width_out, self.rank))
        if use_task_bias:
            self.task_biases[str(task)] = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """h(x) = W x + s B A x + (b + d)."""
        out = x @ self.base_linear.weight.T
        if self.active in self.lora_A:
            out = out + self.scaling * (x @ self.lora_A[self.active].T @ self.lora_B[self.active].T)
        out = out + self.base_linear.bias
        if self.active in self.task_biases:
            out = out + self.task_biases[self.active]
        return out


class Subnet(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, width_in: int, width_out: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.layer1 = Linear(width_in, 2 * width_in, rank, alpha)
        self.layer2 = Linear(2 * width_in, width_out, rank, alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Scales and shifts of a coupling."""
        return self.layer2(torch.relu(self.layer1(x)))


class Adapter(nn.Module):
    """Layer norm, feature-wise modulation, gated residual network."""

    def __init__(self, channels: int, has_reference: bool) -> None:
        super().__init__()
        self.has_reference = has_reference
        self.register_buffer("reference_mean", torch.zeros(channels))
        self.register_buffer("reference_std", torch.ones(channels))
        self.film_gamma = nn.Parameter(torch.ones(1, 1, 1, channels))
        self.film_beta = nn.Parameter(torch.zeros(1, 1, 1, channels))
        hidden = max(channels // 2, 128)
        last = nn.Linear(hidden, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last
        )
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.residual_gate = nn.Parameter(torch.tensor([0.5]))
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        y = self.film_gamma * self.layer_norm(x) + self.film_beta
        y = y + torch.sigmoid(self.residual_gate) * self.mlp(y)
        if not self.has_reference:
            y = REFERENCE_BLEND * x + (1 - REFERENCE_BLEND) * y
        return y


class LiteralFlow(nn.Module):
    """The flow on `AllInOneBlock`; its state dict has the same keys as `MoLESpatialAwareNF`'s."""

    def __init__(
        self,
        embed_dim: int,
        coupling_layers: int = 8,
        clamp_alpha: float = 1.9,
        lora_rank: int = 32,
        lora_alpha: float = 1.0,
        use_lora: bool = True,
        use_task_adapter: bool = True,
        use_task_bias: bool = True,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.switches = (use_lora, use_task_adapter, use_task_bias)
        self.subnets: list[Subnet] = []

        def subnet(width_in: int, width_out: int) -> Subnet:
            self.subnets.append(Subnet(width_in, width_out, lora_rank, lora_alpha))
            return self.subnets[-1]

        self.flow = Ff.SequenceINN(embed_dim)
        for _ in range(coupling_layers):
            self.flow.append(
                Fm.AllInOneBlock, subnet_constructor=subnet, affine_clamping=clamp_alpha,
                global_affine_type="SOFTPLUS", permute_soft=True,
            )  # fmt: skip
        self.input_adapters = nn.ModuleDict()
        self.register_buffer("reference_mean", torch.zeros(embed_dim))
        self.register_buffer("reference_std", torch.ones(embed_dim))
        self.active: int | None = None

    def add_task(self, task: int) -> None:
        """An expert for `task`; the base is frozen after the first."""
        use_lora, use_task_adapter, use_task_bias = self.switches
        for subnet in self.subnets:
            for layer in (subnet.layer1, subnet.layer2):
                layer.base_linear.requires_grad_(task == 0)
                layer.add_task(task, use_lora, use_task_bias)
        if use_task_adapter:
            self.input_adapters[str(task)] = Adapter(self.embed_dim, has_reference=task > 0)
        self.activate(task)

    def activate(self, task: int) -> None:
        """Set the active task."""
        self.active = task
        for subnet in self.subnets:
            subnet.layer1.active = subnet.layer2.active = str(task)

    def trainable(self, task: int) -> list[nn.Parameter]:
        """Parameters that training `task` changes."""
        base = ("base_linear", "global_scale", "global_offset")
        chosen = []
        for name, parameter in self.named_parameters():
            parts = name.split(".")
            of_task = str(task) in parts[-1:] or parts[:2] == ["input_adapters", str(task)]
            if of_task or (task == 0 and any(part in base for part in parts)):
                chosen.append(parameter)
        return chosen

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (B, h, w, D) and log-determinant (B, h, w) by the active task."""
        if str(self.active) in self.input_adapters:
            features = self.input_adapters[str(self.active)](features)
        latent, log_det = self.flow(features.reshape(-1, self.embed_dim))
        return latent.reshape(features.shape), log_det.reshape(features.shape[:-1])

    def anomaly_scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """NLL of every patch (B, h, w) and the 99th percentile of each image (B,)."""
        latent, log_det = self(features)
        dim = latent.shape[-1]
        log_pz = -0.5 * (latent**2).sum(dim=-1) - 0.5 * dim * math.log(2 * math.pi)
        scores = -(log_pz + log_det)
        return scores, torch.quantile(scores.reshape(len(scores), -1), 0.99, dim=1)


def nll_loss(latent: Tensor, log_det: Tensor) -> Tensor:
    """The training loss: mean NLL over patches, without the constant of the normal density."""
    return -(-0.5 * (latent**2).sum(-1).mean() + log_det.mean())


def learning_rates(epochs: int, first_task: bool, lr: float = 1e-4) -> list[float]:
    """Learning rate of every epoch, from torch's scheduler."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=epochs, eta_min=lr * 0.01
    )
    warmup = 0 if first_task else 2
    rates = []
    for epoch in range(epochs):
        if epoch < warmup:
            for group in optimizer.param_groups:
                group["lr"] = lr * (epoch + 1) / warmup
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if epoch >= warmup:
            scheduler.step()
    return rates


class RunningMoments:
    """Mean and squared deviations, one row after another (Welford)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.squares = torch.zeros(dim, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Take in rows (N, D)."""
        for row in rows.double():
            self.count += 1
            delta = row - self.mean
            self.mean = self.mean + delta / self.count
            self.squares = self.squares + delta * (row - self.mean)

    @property
    def std(self) -> Tensor:
        """Standard deviation (D,)."""
        return torch.sqrt(self.squares / (self.count - 1) + 1e-6)


def mahalanobis(features: Tensor, seen: Tensor) -> Tensor:
    """Distance of image features (N, D) to the prototype of the images `seen` (M, D)."""
    mean = seen.mean(0)
    centred = seen - mean
    covariance = centred.T @ centred / (len(seen) - 1) + 1e-5 * torch.eye(len(mean)).to(seen)
    precision = torch.linalg.inv(covariance)
    return torch.stack([((x - mean) @ precision @ (x - mean)).sqrt() for x in features])


def infer(
    extractor: nn.Module,
    flow: LiteralFlow,
    seen: dict[int, Tensor],
    images: Tensor,
    code: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, image scores and tasks of images; the backbone runs once to route and once to score.

    The position code is computed unless it is given.
    """
    with torch.no_grad():
        pooled = extractor(images).mean((1, 2))
        distances = torch.stack([mahalanobis(pooled.double(), seen[t].double()) for t in seen])
        tasks = torch.tensor(list(seen))[distances.argmin(0)]
        maps: Any = None
        scores = torch.zeros(len(images))
        for task in tasks.unique().tolist():
            rows = tasks == task
            flow.activate(task)
            features = extractor(images[rows])
            if code is None:
                code = position_code(features.shape[-1], *features.shape[1:3])
            task_maps, task_scores = flow.anomaly_scores(features + code.to(features))
            maps = torch.zeros(len(images), *task_maps.shape[1:]) if maps is None else maps
            maps[rows], scores[rows] = task_maps, task_scores
    return maps, scores, tasks


def train_task(
    flow: LiteralFlow, task: int, batches: list[Tensor], epochs: int, lr: float = 1e-4
) -> None:
    """Train one task on batches of features with position, (B, h, w, D) each."""
    parameters = flow.trainable(task)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-4)
    flow.activate(task)
    for rate in learning_rates(epochs, first_task=task == 0, lr=lr):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for features in batches:
            optimizer.zero_grad()
            nll_loss(*flow(features)).backward()
            nn.utils.clip_grad_norm_(parameters, max_norm=0.5)
            optimizer.step()
