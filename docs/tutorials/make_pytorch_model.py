"""Makes ``pytorch-model.npz`` for the page from-pytorch.md: a small PyTorch model and what it computes.

    python docs/tutorials/make_pytorch_model.py        (with torch 2.13, CPU)

The model is trained for a moment on random numbers, so that no weight and no running statistic has a value that hides a
mistake. The file holds its ``state_dict`` under ``model.NAME``, images ``x`` in PyTorch's layout with labels ``t``, the
outputs ``y`` for them, and of one training step the loss, the gradients and the running statistics after it. Everything
but the state is computed in float64.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2)
        self.fc1 = nn.Linear(12 * 3 * 2, 16)
        self.fc2 = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.conv2(x))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


def main() -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, t = torch.randn(64, 3, 12, 8) + 0.3, torch.randint(0, 5, (64,))
    for _ in range(8):
        optimizer.zero_grad()
        F.cross_entropy(model(x), t).backward()
        optimizer.step()
    arrays = {f"model.{name}": value.numpy().copy() for name, value in model.state_dict().items()}

    x, t = x[:6], t[:6]
    model = model.double()
    y = model.eval()(x.double())
    loss = F.cross_entropy(model.train()(x.double()), t)
    model.zero_grad()
    loss.backward()
    arrays |= {"x": x.numpy(), "t": t.numpy(), "y": y.detach().numpy(), "step.loss": loss.detach().numpy()}
    arrays |= {f"step.gradient.{name}": p.grad.numpy() for name, p in model.named_parameters()}
    arrays |= {f"step.{name}": value.numpy() for name, value in model.state_dict().items() if "running" in name}
    path = Path(__file__).with_name("pytorch-model.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
