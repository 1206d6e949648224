"""Where tensors live and are computed on."""

from functools import cache

import torch


@cache
def device() -> torch.device:
    """A GPU when there is one.

    There, matrix products take TF32 operands and add up in fp32. On a CPU everything is fp32: a seed gives the same
    bits.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")
