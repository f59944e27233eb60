"""Compile networks with torch.compile while they are trained, in place, so that parameter names stay the same."""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from shala_framework.support.cores import glance_at_load, keeping_threads
from shala_framework.support.errors import ShalaError


class CompilerError(ShalaError):
    """The machine has no compiler."""


@contextmanager
def compiled(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Compile the networks for the duration of a context. Parts that cannot be compiled run in eager mode.

    Raises:
        CompilerError: The device is a CPU and there is no C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise CompilerError("train.compile needs a C++ compiler; install g++, or set train.compile = false")
    config, logger = torch._dynamo.config, logging.getLogger("torch._dynamo")
    before = config.suppress_errors, logger.level
    config.suppress_errors = True
    logger.setLevel(logging.ERROR)  # silence the message for parts that fall back to eager mode
    members = list(networks)
    for network in members:
        network.compile()
    try:
        glance_at_load()
        with keeping_threads():  # compiled code is for one number of threads
            yield
    finally:
        for network in members:
            network._compiled_call_impl = None  # sampling, without gradients, would compile again
        config.suppress_errors = before[0]
        logger.setLevel(before[1])


def uncompiled() -> AbstractContextManager[None]:
    """Run compiled networks in eager mode within a context, because validation would compile them again."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
