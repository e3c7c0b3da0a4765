"""Muon for the weight matrices (orthogonalised momentum), its work shared by the workers."""
import torch
import torch.distributed as dist


def orthogonalise(x, steps=5):
    """Newton-Schulz iteration (quintic) on a batch of matrices with at most as many rows as columns."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        g = x @ x.transpose(-1, -2)
        x = a * x + (b * g + c * (g @ g)) @ x
    return x


class Muon(torch.optim.Optimizer):
    """`params`: 2-D weights and 3-D expert weights; gate and up halves of an expert are two matrices."""

    def __init__(self, params, lr, momentum=.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        rank, world = dist.get_rank(), dist.get_world_size()
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                m = p.grad.lerp(buf, group["momentum"])
                if m.dim() == 3 and m.shape[1] < m.shape[2]:
                    m = m.reshape(-1, m.shape[1] // 2, m.shape[2])
                m = m.reshape(-1, *m.shape[-2:])
                if m.shape[-2] > m.shape[-1]:
                    m = m.transpose(-1, -2)
                shapes.setdefault(tuple(m.shape[-2:]), []).append((p, m))
            flat = []
            for shape, pairs in sorted(shapes.items()):
                x = torch.cat([m for _, m in pairs])
                out = torch.zeros_like(x)
                mine = slice(rank * len(x) // world, (rank + 1) * len(x) // world)
                if len(x[mine]):
                    out[mine] = orthogonalise(x[mine]) * max(1, shape[1] / shape[0]) ** .5
                flat.append(out)
            message = torch.cat([f.flatten() for f in flat])
            dist.all_reduce(message)
            for (shape, pairs), part in zip(sorted(shapes.items()), message.split([f.numel() for f in flat])):
                part = part.view(-1, *shape)
                for p, m in pairs:
                    u, part = part[:len(m)], part[len(m):]
                    if p.dim() == 3 and p.shape[1] < p.shape[2]:
                        u = u.reshape(p.shape)
                    elif p.shape[-2] > p.shape[-1]:
                        u = u.transpose(-1, -2).reshape(p.shape)
                    else:
                        u = u.reshape(p.shape)
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=group["lr"])
