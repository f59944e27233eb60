"""The terms that stage 1 adds to any method's objective, one class a file; a new one is a file and a weight."""

from torch import nn

from shala_framework.autoencoder.terms.base import Term
from shala_framework.autoencoder.terms.contrast import ContrastTerm
from shala_framework.autoencoder.terms.recognition import RecognitionTerm
from shala_framework.autoencoder.terms.texture import TextureTerm
from shala_framework.plugin.posterior import MethodSizes
from shala_framework.spec.schema import Posterior

TERMS: tuple[type[Term], ...] = (ContrastTerm, RecognitionTerm, TextureTerm)


def make_terms(table: Posterior, sizes: MethodSizes) -> nn.ModuleDict:
    """Make the terms that a spec's [posterior] asks for, by name."""
    made: dict[str, Term] = {}
    for kind in TERMS:
        term = kind.from_table(table, sizes, made)
        if term is not None:
            made[kind.name] = term
    return nn.ModuleDict(made)


__all__ = ["ContrastTerm", "RecognitionTerm", "Term", "TextureTerm", "make_terms"]
