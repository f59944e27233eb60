"""A fake stream of numbers, in a module that worker processes can import."""

import os
from itertools import count

import torch


class Numbers:
    """Batch n is a tensor of n. The stream may fail, sleep or die at a given batch."""

    def __init__(self, end=None, fail_at=None, error=None, exit_at=None):
        self.end, self.fail_at, self.error, self.exit_at = end, fail_at, error, exit_at

    def read(self, index, count_):
        for n in count(index, count_):
            if self.end is not None and n >= self.end:
                return
            if n == self.fail_at:
                raise self.error
            if n == self.exit_at:
                os._exit(7)
            yield torch.full((1000,), n)


class Mixed:
    """Batch n is a table of tensors of several kinds that grow with n, beside other values."""

    def read(self, index, count_):
        for n in count(index, count_):
            yield self.batch(n)

    @staticmethod
    def batch(n):
        values = torch.arange(3 * (1 + n % 5), dtype=torch.float32) + n
        return {
            "float": values.reshape(3, -1),
            "transposed": values.reshape(3, -1).t(),
            "half": values.to(torch.bfloat16),
            "bool": torch.tensor([n % 2 == 0, True]),
            "scalar": torch.tensor(n),
            "empty": torch.zeros(0, 4, dtype=torch.float64),
            "named": (f"row {n}", None, [torch.tensor([n], dtype=torch.uint8)]),
        }
