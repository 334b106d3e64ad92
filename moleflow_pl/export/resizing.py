"""Pillow's bicubic resizing as two matrix products, in operators that every runtime has.

ONNX has an operator for it, `Resize` with antialiasing, on which runtimes do not agree: OpenVINO
leaves the antialiasing out, TensorRT refuses it, CUDA's fills a part of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

REACH = 2.0  # pixels of the coarser grid, to either side: where the bicubic kernel ends
UNIT = 2.0**22  # Pillow's weights are whole numbers of this part of one


class Resizing(nn.Module):
    """Resizes images of any size as `data.images.to_tensor` does, to the bit.

    Args:
        size: Height and width to resize to.

    Shape: (B, H, W, 3) uint8, channels last as decoders give them -> (B, 3, *size) uint8.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize along the width, round, then along the height."""
        # float64 holds the sums of Pillow's whole numbers; in float32, a sum halfway between two
        # grey levels is rounded to either
        pixels = images.permute(0, 3, 1, 2).double()
        across = weights(pixels.shape[3], self.size[1], pixels.device)
        down = weights(pixels.shape[2], self.size[0], pixels.device)
        return rounded(down @ rounded(pixels @ across.T)).to(torch.uint8)


def rounded(values: Tensor) -> Tensor:
    """Grey levels: a bicubic filter leaves 0 to 255 beside an edge."""
    return (values + 0.5).floor().clamp(0, 255)


def weights(source: int, target: int, device: torch.device) -> Tensor:
    """What each of `target` pixels takes from each of `source` pixels (target, source), float64.

    Example:
        >>> weights(2, 1, torch.device("cpu"))
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    places = 2 * torch.arange(source, device=device) + 1
    centres = 2 * torch.arange(target, device=device)[:, None] + 1
    # of half a pixel, times both lengths
    offsets = (places * target - centres * source).abs()
    # a tensor: an exported graph does not depend on which of both is larger
    coarser = torch.full((), source, dtype=torch.int64, device=device).clamp(min=target)
    kernel = bicubic((offsets.double() / (2 * coarser).double()).clamp(max=REACH))
    kernel = kernel / kernel.sum(1, keepdim=True)
    return kernel.sign() * (kernel.abs() * UNIT + 0.5).floor() / UNIT


def bicubic(x: Tensor) -> Tensor:
    """The kernel that Pillow uses (a = -0.5), at distances of 0 to 2.

    Example:
        >>> bicubic(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
        tensor([ 1.0000,  0.5625,  0.0000, -0.0625,  0.0000])
    """
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far)
