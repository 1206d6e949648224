"""Feature interactions of the baselines. n rows, f fields, d the embedding width, w a flat width."""

import torch
from torch import Tensor, nn

from nas.operators import factorised

AT_ONCE = 16  # rows whose outer products a core's cache holds


def mlp(width: int, layers: tuple[int, ...], dropout: float, last_activation: bool = True) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    found: list[nn.Module] = []
    for number, out in enumerate(layers):
        found.append(nn.Linear(width, out))
        if number < len(layers) - 1 or last_activation:
            found.append(nn.ReLU())
            if dropout:
                found.append(nn.Dropout(dropout))
        width = out
    return nn.Sequential(*found)


class FactorisationMachine(nn.Module):
    """(n, 1): the sum over the embedding of all pairwise products (Rendle 2010, eq. 5)."""

    def forward(self, rows: Tensor) -> Tensor:
        """Of (n, f, d)."""
        return factorised(rows).sum(1, keepdim=True)


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W x_l + b) + x_l (Wang et al. 2021, DCN-V2, eq. 1)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """(n, w) of (n, w)."""
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class InteractingLayer(nn.Module):
    """Multi-head self-attention over fields with a projected residual (Song et al. 2019, AutoInt, eq. 5 to 8)."""

    def __init__(self, d_in: int, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.residual = (nn.Linear(d_in, d, bias=False) for _ in range(4))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, f, d) of (n, f, d_in)."""
        n, f, _ = rows.shape
        q, k, v = (
            part(rows).reshape(n, f, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # (n, heads, f, d / heads)
        attention = torch.softmax(torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5, dim=-1)
        mixed = torch.matmul(attention, v).transpose(1, 2).reshape(n, f, -1)
        return torch.relu(mixed + self.residual(rows))


class CompressedInteraction(nn.Module):
    """Feature maps of outer products with the input, each summed over the embedding (Lian et al. 2018, eq. 6)."""

    def __init__(self, fields: int, maps: tuple[int, ...]) -> None:
        super().__init__()
        before = (fields, *maps[:-1])
        self.layers = nn.ModuleList(nn.Linear(fields * h, out) for h, out in zip(before, maps, strict=True))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, sum of maps) of (n, f, d): on a CPU a few rows after the others, as memory is slower than arithmetic."""
        if rows.is_cuda or torch.compiler.is_exporting():
            return self._interact(rows)
        return torch.cat([self._interact(part) for part in rows.split(AT_ONCE)])

    def _interact(self, rows: Tensor) -> Tensor:
        x0 = rows.transpose(1, 2).contiguous()  # (n, d, f)
        x, pooled = x0, []
        for layer in self.layers:
            outer = (x0.unsqueeze(3) * x.unsqueeze(2)).flatten(2)  # (n, d, f h)
            x = torch.relu(layer(outer))
            pooled.append(x.sum(1))
        return torch.cat(pooled, 1)


class FactorisedLayer(nn.Module):
    """Twice the width is projected; its halves a, b become (a, a * b) (Zhu et al. 2023, FINAL)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, out) of (n, w)."""
        a, b = self.project(x).chunk(2, dim=-1)
        return torch.cat((a, a * b), 1)


class BilinearFusion(nn.Module):
    """Linear terms of two streams and their bilinear products, head by head (Mao et al. 2023, eq. 9 to 11)."""

    def __init__(self, first: int, second: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.Linear(first, out), nn.Linear(second, out, bias=False)
        scale = (first * second / heads**2) ** -0.5
        self.products = nn.Parameter(torch.randn(out, heads, first // heads, second // heads) * scale)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(n, out) of (n, first) and (n, second)."""
        parts = x.unflatten(1, (self.heads, -1)), y.unflatten(1, (self.heads, -1))
        found = self.first(x) + self.second(y)
        for head in range(self.heads):
            mixed = torch.matmul(parts[0][:, head], self.products[:, head])  # (out, n, second / heads)
            found = found + (mixed * parts[1][:, head]).sum(2).t()
        return found
