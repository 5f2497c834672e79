"""The network of ``examples/group-count.toml --scaled`` in torch's own layers, trained by a loop of its own, for one seed.

    python -m benchmarks.plain_norm batch|GROUPS [SEED]

Nothing of allelse but the data set is used: where a study finds a large difference between norms, this says whether it is ours.
"""

from __future__ import annotations

import platform
import sys

import torch
import torch.nn.functional as F
from torch import nn

from allelse import data

EPOCHS, BATCH, IMAGES_A_CLASS = 3, 32, 1000


def network(norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1)]
    for block in range(1, 7):
        layers.append(nn.Conv2d(64, 64, 3, padding=1))
        layers += [nn.BatchNorm2d(64) if norm == "batch" else nn.GroupNorm(int(norm), 64), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * (block in (2, 4))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def main() -> None:
    norm, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.manual_seed(seed)
    loaded = data.load("cifar10")
    images, labels = torch.from_numpy(loaded.train_images).permute(0, 3, 1, 2), torch.from_numpy(loaded.train_labels)
    chosen = [(labels == label).nonzero()[:, 0] for label in range(10)]
    subset = torch.cat([places[torch.randperm(len(places))[:IMAGES_A_CLASS]] for places in chosen])
    images, labels = images[subset], labels[subset]
    mean, std = (getattr(images.float(), what)((0, 2, 3), keepdim=True) for what in ("mean", "std"))

    net = network(norm).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            corners = torch.randint(0, 9, (BATCH, 2)).tolist()
            padded = F.pad(images[batch], (4, 4, 4, 4))  # black, as torchvision's RandomCrop does
            x = torch.stack(
                [one[:, top : top + 32, left : left + 32] for one, (top, left) in zip(padded, corners, strict=True)]
            )
            x = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x.flip(3), x)
            x = (x.float() - mean) / std
            loss = F.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.2f}", file=sys.stderr, flush=True)

    net.eval()
    with torch.no_grad():
        tested = torch.from_numpy(loaded.test_images).permute(0, 3, 1, 2).split(500)
        found = torch.cat([net((part.float() - mean) / std).argmax(1) for part in tested])
    accuracy = 100 * (found == torch.from_numpy(loaded.test_labels)).float().mean().item()
    print(f"{norm}: {accuracy:.1f} % (seed {seed}; fp32, torch {torch.__version__}, {platform.machine()})")


if __name__ == "__main__":
    main()
