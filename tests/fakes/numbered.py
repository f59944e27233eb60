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
