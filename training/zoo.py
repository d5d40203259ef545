"""Well-known networks as plain ``nn.Module``s, at their papers' sizes, with random weights.

Written for tests of importing and for benchmarks, so that neither needs torchvision or timm: each has its
paper's topology and channel counts, and is called without arguments (``MODULES``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet import ResNet

Act = Callable[[], nn.Module]


def conv_bn(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: Act | None = nn.ReLU
) -> nn.Sequential:
    """Convolution, batch normalization, activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


def head(features: int, classes: int = 1000) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(inputs, outputs, 3, stride), conv_bn(outputs, outputs, 3, act=None)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else conv_bn(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


def basic_resnet(blocks: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate(blocks):
        for i in range(count):
            layers.append(BasicBlock(inputs, 64 << stage, 2 if stage and not i else 1))
            inputs = 64 << stage
    return nn.Sequential(*layers, head(inputs))


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1: ResNeXt (Xie et al. 2017), wide ResNet, RegNetY with its gate."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, groups: int, gate: int = 0
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, middle), conv_bn(middle, middle, 3, stride, groups))
        self.gate = Gate(middle, gate, nn.ReLU, nn.Sigmoid) if gate else nn.Identity()
        self.last = conv_bn(middle, outputs, act=None)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else conv_bn(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.last(self.gate(self.body(x))) + self.shortcut(x))


def grouped_resnet(width: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for i in range(count):
            stride = 2 if stage and not i else 1
            layers.append(GroupedBottleneck(inputs, width << stage, 256 << stage, stride, groups))
            inputs = 256 << stage
    return nn.Sequential(*layers, head(inputs))


def regnet_y() -> nn.Sequential:
    """RegNetY-400MF (Radosavovic et al. 2020)."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
    inputs = 32
    for width, count in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for i in range(count):
            gate = inputs // 4
            layers.append(GroupedBottleneck(inputs, width, width, 1 if i else 2, width // 8, gate))
            inputs = width
    return nn.Sequential(*layers, head(inputs))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 128, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet() -> nn.Sequential:
    """DenseNet-121 (Huang et al. 2017)."""
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    features = 64
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            layers.append(DenseLayer(features))
            features += 32
        if stage < 3:
            layers += [nn.BatchNorm2d(features), nn.ReLU(), nn.Conv2d(features, features // 2, 1, bias=False),
                       nn.AvgPool2d(2)]  # fmt: skip
            features //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(features), nn.ReLU(), head(features))


def mobilenet_v1() -> nn.Sequential:
    """Howard et al. 2017."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=nn.ReLU6)]
    inputs = 32
    for outputs, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
                            (1024, 2), (1024, 1)):  # fmt: skip
        layers += [
            conv_bn(inputs, inputs, 3, stride, inputs, nn.ReLU6),
            conv_bn(inputs, outputs, act=nn.ReLU6),
        ]
        inputs = outputs
    return nn.Sequential(*layers, head(inputs))


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, act: Act, gate: Act) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """An inverted residual: MobileNetV2 (Sandler et al. 2018), V3, MNASNet, EfficientNet."""

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        kernel: int,
        stride: int,
        act: Act,
        gate: nn.Module | None,
    ) -> None:
        super().__init__()
        layers = [] if middle == inputs else [conv_bn(inputs, middle, act=act)]
        layers.append(conv_bn(middle, middle, kernel, stride, middle, act))
        layers += [gate] if gate is not None else []
        self.body = nn.Sequential(*layers, conv_bn(middle, outputs, act=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def inverted_net(
    first: int, rows: Sequence[tuple[int, int, int, int, int]], last: int, act: Act, squeeze: int = 0
) -> nn.Sequential:
    """Rows of (expansion, channels, blocks, stride, kernel); ``squeeze``: of a block's input in a gate."""
    layers: list[nn.Module] = [conv_bn(3, first, 3, 2, act=act)]
    inputs = first
    for expansion, channels, count, stride, kernel in rows:
        for i in range(count):
            middle = inputs * expansion
            gate = Gate(middle, max(1, inputs // squeeze), act, nn.Sigmoid) if squeeze else None
            layers.append(Inverted(inputs, middle, channels, kernel, 1 if i else stride, act, gate))
            inputs = channels
    return nn.Sequential(*layers, conv_bn(inputs, last, act=act), head(last))


V2 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3),
      (6, 160, 3, 2, 3), (6, 320, 1, 1, 3))  # fmt: skip
MNAS = ((1, 16, 1, 1, 3), (3, 24, 3, 2, 3), (3, 40, 3, 2, 5), (6, 80, 3, 2, 5), (6, 96, 2, 1, 3),
        (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
B0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
      (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip


def mobilenet_v3() -> nn.Sequential:
    """MobileNetV3-Small (Howard et al. 2019)."""
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2, act=nn.Hardswish)]
    inputs = 16
    rows = ((3, 16, 16, True, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 2), (3, 88, 24, False, nn.ReLU, 1),
            (5, 96, 40, True, nn.Hardswish, 2), (5, 240, 40, True, nn.Hardswish, 1),
            (5, 240, 40, True, nn.Hardswish, 1), (5, 120, 48, True, nn.Hardswish, 1),
            (5, 144, 48, True, nn.Hardswish, 1), (5, 288, 96, True, nn.Hardswish, 2),
            (5, 576, 96, True, nn.Hardswish, 1), (5, 576, 96, True, nn.Hardswish, 1))  # fmt: skip
    for kernel, middle, outputs, gated, act, stride in rows:
        gate = Gate(middle, (middle // 4 + 7) // 8 * 8, nn.ReLU, nn.Hardsigmoid) if gated else None
        layers.append(Inverted(inputs, middle, outputs, kernel, stride, act, gate))
        inputs = outputs
    layers += [conv_bn(inputs, 576, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        *layers, nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1024, 1000)
    )


class Shuffle(nn.Module):
    """A unit of ShuffleNetV2 (Ma et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.stride = outputs // 2, stride
        own = inputs if stride == 2 else half
        self.right = nn.Sequential(
            conv_bn(own, half), conv_bn(half, half, 3, stride, half, None), conv_bn(half, half)
        )
        self.left = (
            nn.Sequential(conv_bn(inputs, inputs, 3, 2, inputs, None), conv_bn(inputs, half))
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1) if self.stride == 1 else (x, x)
        y = torch.cat([self.left(a), self.right(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for channels, count in ((116, 4), (232, 8), (464, 4)):
        for i in range(count):
            layers.append(Shuffle(inputs, channels, 1 if i else 2))
            inputs = channels
    return nn.Sequential(*layers, conv_bn(inputs, 1024), head(1024))


class Ghost(nn.Module):
    """Half of the channels by a convolution, half by a cheap one of those (Han et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, act: Act | None) -> None:
        super().__init__()
        half = (outputs + 1) // 2
        self.outputs = outputs
        self.primary, self.cheap = conv_bn(inputs, half, act=act), conv_bn(half, half, 3, 1, half, act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.outputs]


class GhostBlock(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, kernel: int, stride: int, gated: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [Ghost(inputs, middle, nn.ReLU)]
        if stride == 2:
            layers.append(conv_bn(middle, middle, kernel, 2, middle, None))
        if gated:
            layers.append(Gate(middle, middle // 4, nn.ReLU, nn.Hardsigmoid))
        self.body = nn.Sequential(*layers, Ghost(middle, outputs, None))
        plain = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if plain
            else nn.Sequential(
                conv_bn(inputs, inputs, kernel, stride, inputs, None), conv_bn(inputs, outputs, act=None)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def ghostnet() -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2)]
    inputs = 16
    for kernel, middle, outputs, gated, stride in (
        (3, 16, 16, False, 1), (3, 48, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2),
        (5, 120, 40, True, 1), (3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1),
        (3, 480, 112, True, 1), (3, 672, 112, True, 1), (5, 672, 160, True, 2), (5, 960, 160, True, 1),
    ):  # fmt: skip
        layers.append(GhostBlock(inputs, middle, outputs, kernel, stride, gated))
        inputs = outputs
    return nn.Sequential(*layers, conv_bn(inputs, 960), head(960))


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def conv_mixer(width: int = 256, depth: int = 8, patch: int = 7) -> nn.Sequential:
    """Trockman and Kolter 2022; batch normalization follows GELU, not the convolution."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, patch, patch), nn.GELU(), nn.BatchNorm2d(width)]
    for _ in range(depth):
        mixed = nn.Sequential(
            nn.Conv2d(width, width, 9, groups=width, padding="same"), nn.GELU(), nn.BatchNorm2d(width)
        )
        layers += [Residual(mixed), nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, head(width))


class Branches(nn.Module):
    """Branches side by side, joined by channel."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _uneven(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, padded: bool = True
) -> nn.Sequential:
    pads = (kernel[0] // 2, kernel[1] // 2) if padded else 0
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, pads, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.ReLU(),
    )


def inception_v3() -> nn.Sequential:
    """Szegedy et al. 2016, without its auxiliary head."""
    one, three = (1, 1), (3, 3)
    conv = _uneven

    def averaged(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(inputs, outputs, one))

    def a(inputs: int, pool: int) -> Branches:
        return Branches(
            conv(inputs, 64, one),
            nn.Sequential(conv(inputs, 48, one), conv(48, 64, (5, 5))),
            nn.Sequential(conv(inputs, 64, one), conv(64, 96, three), conv(96, 96, three)),
            averaged(inputs, pool),
        )

    def b(inputs: int, middle: int) -> Branches:
        row, column = (1, 7), (7, 1)
        return Branches(
            conv(inputs, 192, one),
            nn.Sequential(conv(inputs, middle, one), conv(middle, middle, row), conv(middle, 192, column)),
            nn.Sequential(conv(inputs, middle, one), conv(middle, middle, column), conv(middle, middle, row),
                          conv(middle, middle, column), conv(middle, 192, row)),
            averaged(inputs, 192),
        )  # fmt: skip

    def c(inputs: int) -> Branches:
        return Branches(
            conv(inputs, 320, one),
            nn.Sequential(conv(inputs, 384, one), Branches(conv(384, 384, (1, 3)), conv(384, 384, (3, 1)))),
            nn.Sequential(conv(inputs, 448, one), conv(448, 384, three),
                          Branches(conv(384, 384, (1, 3)), conv(384, 384, (3, 1)))),
            averaged(inputs, 192),
        )  # fmt: skip

    smaller = Branches(
        conv(288, 384, three, 2, False),
        nn.Sequential(conv(288, 64, one), conv(64, 96, three), conv(96, 96, three, 2, False)),
        nn.MaxPool2d(3, 2),
    )
    smallest = Branches(
        nn.Sequential(conv(768, 192, one), conv(192, 320, three, 2, False)),
        nn.Sequential(conv(768, 192, one), conv(192, 192, (1, 7)), conv(192, 192, (7, 1)),
                      conv(192, 192, three, 2, False)),
        nn.MaxPool2d(3, 2),
    )  # fmt: skip
    return nn.Sequential(
        conv(3, 32, three, 2, False), conv(32, 32, three, 1, False), conv(32, 64, three), nn.MaxPool2d(3, 2),
        conv(64, 80, one), conv(80, 192, three, 1, False), nn.MaxPool2d(3, 2), a(192, 32), a(256, 64),
        a(288, 64), smaller, b(768, 128), b(768, 160), b(768, 160), b(768, 192),
        smallest, c(1280), c(2048), head(2048),
    )  # fmt: skip


class UNet(nn.Module):
    """Ronneberger et al. 2015, padded, with batch normalization and transposed convolutions."""

    def __init__(self, width: int = 32, depth: int = 4, classes: int = 4) -> None:
        super().__init__()
        widths = [width << i for i in range(depth + 1)]

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3))

        pairs = list(zip([3, *widths], widths, strict=False))
        self.down = nn.ModuleList(twice(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.joined = nn.ModuleList(twice(2 * w, w) for w in widths[:-1])
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for i in reversed(range(len(self.up))):
            x = self.joined[i](torch.cat([self.up[i](x), kept[i]], 1))
        return self.last(x)


class Cross(nn.Module):
    """A cross-stage block of a YOLO (Wang et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, count: int, shortcut: bool = True) -> None:
        super().__init__()
        half, act = outputs // 2, nn.SiLU
        self.a, self.b = conv_bn(inputs, half, act=act), conv_bn(inputs, half, act=act)
        blocks = [nn.Sequential(conv_bn(half, half, act=act), conv_bn(half, half, 3, act=act))
                  for _ in range(count)]  # fmt: skip
        self.blocks = nn.Sequential(*(Residual(b) if shortcut else b for b in blocks))
        self.last = conv_bn(outputs, outputs, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.blocks(self.a(x)), self.b(x)], 1))


class Yolo(nn.Module):
    """A detector in the manner of YOLOv5: SiLU, pyramid pooling, upsampling, three results."""

    def __init__(self, width: int = 16, classes: int = 80) -> None:
        super().__init__()
        w = [width << i for i in range(5)]
        act = nn.SiLU
        self.stem = nn.Sequential(conv_bn(3, w[0], 7, 2, act=act), conv_bn(w[0], w[1], 3, 2, act=act))
        self.c3 = nn.Sequential(
            Cross(w[1], w[1], 1), conv_bn(w[1], w[2], 3, 2, act=act), Cross(w[2], w[2], 2)
        )
        self.c4 = nn.Sequential(conv_bn(w[2], w[3], 3, 2, act=act), Cross(w[3], w[3], 3))
        self.c5 = nn.Sequential(conv_bn(w[3], w[4], 3, 2, act=act), Cross(w[4], w[4], 1))
        self.squeeze, self.spread = conv_bn(w[4], w[3], act=act), conv_bn(4 * w[3], w[4], act=act)
        self.p5, self.p4 = conv_bn(w[4], w[3], act=act), conv_bn(w[3], w[2], act=act)
        self.f4, self.f3 = Cross(w[4], w[3], 1, False), Cross(w[3], w[2], 1, False)
        self.d3, self.d4 = conv_bn(w[2], w[2], 3, 2, act=act), conv_bn(w[3], w[3], 3, 2, act=act)
        self.n4, self.n5 = Cross(w[3], w[3], 1, False), Cross(w[4], w[4], 1, False)
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * (classes + 5), 1) for c in w[2:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        c3 = self.c3(self.stem(x))
        c4 = self.c4(c3)
        c5 = self.squeeze(self.c5(c4))
        pooled = [c5]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        p5 = self.p5(self.spread(torch.cat(pooled, 1)))
        p4 = self.p4(self.f4(torch.cat([F.interpolate(p5, scale_factor=2.0), c4], 1)))
        p3 = self.f3(torch.cat([F.interpolate(p4, scale_factor=2.0), c3], 1))
        n4 = self.n4(torch.cat([self.d3(p3), p4], 1))
        n5 = self.n5(torch.cat([self.d4(n4), p5], 1))
        return tuple(layer(y) for layer, y in zip(self.heads, (p3, n4, n5), strict=True))


class SuperResolution(nn.Module):
    """Sub-pixel convolution (Shi et al. 2016) on a bilinear base."""

    def __init__(self, scale: int = 2, width: int = 48) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2), nn.PReLU(width), nn.Conv2d(width, width, 3, padding=1),
            nn.Tanh(), nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        base = F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return base + self.body(x)


def one_dimensional() -> nn.Sequential:
    """A CNN for signals: 12 leads, 1,000 samples."""
    layers: list[nn.Module] = []
    inputs = 12
    for outputs in (32, 64, 64, 128):
        layers += [
            nn.Conv1d(inputs, outputs, 7, padding=3),
            nn.BatchNorm1d(outputs),
            nn.ELU(),
            nn.MaxPool1d(2),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(inputs, 5))


def autoencoder() -> nn.Sequential:
    down: list[nn.Module] = []
    for a, b in ((3, 16), (16, 32), (32, 64)):
        down += [nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
    up: list[nn.Module] = []
    for a, b in ((64, 32), (32, 16)):
        up += [nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
    return nn.Sequential(*down, *up, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid())


IMAGE = (3, 224, 224)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "ResNet-18": (partial(basic_resnet, (2, 2, 2, 2)), IMAGE),
    "ResNet-34": (partial(basic_resnet, (3, 4, 6, 3)), IMAGE),
    "ResNet-50": (ResNet, IMAGE),
    "ResNeXt-50": (partial(grouped_resnet, 128, 32), IMAGE),
    "WideResNet-50": (partial(grouped_resnet, 128, 1), IMAGE),
    "DenseNet-121": (densenet, IMAGE),
    "MobileNetV1": (mobilenet_v1, IMAGE),
    "MobileNetV2": (partial(inverted_net, 32, V2, 1280, nn.ReLU6), IMAGE),
    "MobileNetV3": (mobilenet_v3, IMAGE),
    "MNASNet": (partial(inverted_net, 32, MNAS, 1280, nn.ReLU), IMAGE),
    "ShuffleNetV2": (shufflenet_v2, IMAGE),
    "EfficientNet-B0": (partial(inverted_net, 32, B0, 1280, nn.SiLU, 4), IMAGE),
    "EfficientNet-Lite0": (partial(inverted_net, 32, B0, 1280, nn.ReLU6), IMAGE),
    "RegNetY": (regnet_y, IMAGE),
    "Inception v3": (inception_v3, (3, 299, 299)),
    "GhostNet": (ghostnet, IMAGE),
    "ConvMixer": (conv_mixer, IMAGE),
    "U-Net": (UNet, (3, 128, 128)),
    "YOLO-style detector": (Yolo, (3, 320, 320)),
    "super-resolution": (SuperResolution, (3, 96, 96)),
    "1-D CNN": (one_dimensional, (12, 1, 1000)),
    "autoencoder": (autoencoder, (3, 64, 64)),
}
"""What makes each network, and the image that it takes."""


def made(name: str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode, with statistics as after training, not zeros and ones."""
    torch.manual_seed(seed)
    module = MODULES[name][0]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.8, 1.2)
            part.bias.data.normal_(0, 0.1)
    return module.eval()
