"""Pictures whose decoder is a conditional flow, trained with stage 1: the other road to sharp samples beside stage 3.

`refiner_study.py --flow` trains and scores it. The ordinary decoder's map and z condition a U-Net, the one of stage 3,
that carries noise to pictures; encoders learn through it what it needs to be told. Shapes: B batch, D latent_dim.
Reference: Lipman et al. 2023 for flow matching along straight lines; Esser et al. 2024 for logit-normal times.
"""

import torch
from pictures import SIDE, Decoder, Picture
from torch import Tensor, nn

from shala_framework.plugin import Likelihood, LogScale, Normal, RefinerUNet, pixels_to_unit
from shala_framework.plugin.likelihoods import unit_to_pixels

NUM_STEPS = 8  # of Euler's method, as many network evaluations as nearly all of stage 3's samplers take


class Flow:
    """p(x | z) as a flow from noise u at t = 0 to pixels x at t = 1, whose velocity is x - u.

    log_prob is that of the velocity at a random time under a Gaussian of learned scale, so it takes the place of a
    decoder's density in stage 1's objective, but is none of x.
    """

    is_bound = True

    def __init__(self, network: nn.Module, map_BCHW: Tensor, z_BD: Tensor, log_scale: Tensor) -> None:
        self.network, self.map_BCHW, self.z_BD, self.log_scale = network, map_BCHW, z_BD, log_scale

    def velocity(self, noisy: Tensor, t_B: Tensor) -> Tensor:
        velocity: Tensor = self.network(noisy, self.map_BCHW, self.z_BD, 2 * t_B - 1)
        return velocity.float()

    def log_prob(self, x: Tensor) -> Tensor:
        unit, noise = pixels_to_unit(x), torch.randn(x.shape, device=x.device)
        t_B = torch.randn(len(x), device=x.device).sigmoid()
        velocity = self.velocity(torch.lerp(noise, unit, t_B[:, None, None, None]), t_B)
        return Normal(velocity, self.log_scale).log_prob(unit - noise)

    def mode(self) -> Tensor:
        """What becomes of no noise at all."""
        return self._carried(torch.zeros_like(self.map_BCHW))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        shape, device = self.map_BCHW.shape, self.map_BCHW.device
        return self._carried(torch.randn(shape, generator=generator, device=device))

    @torch.no_grad()
    def _carried(self, x: Tensor) -> Tensor:
        for step in range(NUM_STEPS):
            t_B = torch.full((len(x),), step / NUM_STEPS, device=x.device)
            x = x + self.velocity(x, t_B) / NUM_STEPS
        return unit_to_pixels(x)


class FlowDecoder(nn.Module):
    """Maps z to a Flow."""

    def __init__(self, latent_dim: int, options: Picture.Options) -> None:
        super().__init__()
        self.coarse, self.log_scale = Decoder(latent_dim), LogScale()
        del self.coarse.log_scale
        self.network = RefinerUNet(
            *(3, latent_dim),
            sides=(SIDE, SIDE),
            width=options.width,
            num_blocks=options.num_blocks,
            attention=options.attention,
        )

    def forward(self, z_BD: Tensor) -> Likelihood:
        return Flow(self.network, self.coarse.mean(z_BD).float(), z_BD, self.log_scale())


class FlowPicture(Picture):
    """A picture with such a decoder, which stage 3 leaves as it is."""

    def decoder(self, latent_dim: int) -> nn.Module:
        return FlowDecoder(latent_dim, self.options)

    def refiner(self, latent_dim: int) -> None:  # type: ignore[override]
        return None
