"""The field's other methods of multimodal inference: `[posterior] method = "mvtcae"` and the like, one a file.

Each has its paper's loss and, as defaults, the settings of its authors' code, which its module names. What all of them
share here: a modality's expert q(z | x_i) is a linear layer on the feature h of the modality's own encoder;
distributions over z are Gaussian; log-likelihoods are those of the modality plugins, weighted by
train.autoencoder.likelihood_rescaling; every KL term is weighted by train.autoencoder.kl_weight with its warm-up.
Equations are written out and not cited by number: they were checked against the authors' code, not against the printed
papers.
"""

from typing import Any

from shala_baselines.cmvae import CMVAE
from shala_baselines.jmvae import JMVAE
from shala_baselines.mld import MLD
from shala_baselines.mmvae import MMVAE
from shala_baselines.mmvaeplus import MMVAEPlus
from shala_baselines.mopoe import MoPoE
from shala_baselines.mvae import MVAE
from shala_baselines.mvtcae import MVTCAE
from shala_framework.plugin import hookimpl


@hookimpl
def shala_register_posteriors(register: Any) -> None:
    register("cmvae", CMVAE)
    register("jmvae", JMVAE)
    register("mld", MLD)
    register("mmvae", MMVAE)
    register("mmvaeplus", MMVAEPlus)
    register("mopoe", MoPoE)
    register("mvae", MVAE)
    register("mvtcae", MVTCAE)
