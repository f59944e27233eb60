"""Networks compiled by torch.compile while they are trained, in place, so that names of parameters stay as they are."""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from shala_framework.support.errors import ShalaError


class CompilerError(ShalaError):
    """Nothing here can compile."""


@contextmanager
def compiled(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """A context in which of each network what can be compiled is, when it is first called; the rest runs as it is.

    Raises:
        CompilerError: The device is a CPU and there is no C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise CompilerError("train.compile needs a C++ compiler; install g++, or set train.compile = false")
    config, logger = torch._dynamo.config, logging.getLogger("torch._dynamo")
    before = config.suppress_errors, logger.level
    config.suppress_errors = True
    logger.setLevel(logging.ERROR)  # parts that cannot be compiled run as they are, which needs no warning
    members = list(networks)
    for network in members:
        network.compile()
    try:
        yield
    finally:
        for network in members:
            network._compiled_call_impl = None  # sampling, without gradients, would be compiled once more
        config.suppress_errors = before[0]
        logger.setLevel(before[1])


def uncompiled() -> AbstractContextManager[None]:
    """A context in which everything runs as it is, as for a validation, for which it would be compiled once more."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
