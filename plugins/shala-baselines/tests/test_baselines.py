"""Each method's loss against its paper's equation, computed by hand for linear-Gaussian networks of fixed weights.

The hand computation goes row by row in float64 with full covariance matrices, torch's
distributions and the noise that the method was given, in the order in which its docstring draws.
"""

import itertools
import math

import pytest
import torch
from shala_baselines import CMVAE, JMVAE, MLD, MMVAE, MVAE, MVTCAE, MMVAEPlus, MoPoE
from shala_baselines.experts import product
from torch.distributions import MultivariateNormal, kl_divergence

from shala_framework.plugin import DenoiserSizes, EncodedRows, GaussianPosterior, MethodSizes, MixturePosterior, Normal

M, F, D, B, X = 3, 4, 2, 5, 3
NAMES = ("a", "b", "c")
SIZES = MethodSizes(num_modalities=M, feature_dim=F, hidden_dim=8, latent_dim=D)
SCALE = 0.7
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
KL_WEIGHT = 0.3
PRESENCE = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1]]).bool()


class Bench:
    """A batch, its decoders, and the noise that the method asked for, to be used again by hand."""

    def __init__(self, presence=PRESENCE):
        generator = torch.Generator().manual_seed(0)
        self.generator, self.presence = generator, presence
        self.h = {name: torch.randn(B, F, generator=generator) for name in NAMES}
        self.x = {name: torch.randn(B, X, generator=generator) for name in NAMES}
        self.matrix = {name: torch.randn(X, D, generator=generator) for name in NAMES}
        self.normal, self.uniform, self.subsets = [], [], []

    def rows(self):
        def decode(z):
            return {n: Normal(self.seen(n, z) @ self.matrix[n].T, torch.tensor(SCALE).log()) for n in NAMES}

        def randn(*shape, device):
            self.normal.append(torch.randn(*shape, generator=self.generator))
            return self.normal[-1]

        def rand(*shape, device):
            self.uniform.append(torch.rand(*shape, generator=self.generator))
            return self.uniform[-1]

        def random_subsets(presence):
            keep = torch.rand(presence.shape, generator=self.generator) < 0.5
            first = torch.nn.functional.one_hot(presence.int().argmax(1), M).bool()
            self.subsets.append((presence & keep) | first)
            return self.subsets[-1]

        return EncodedRows(
            x=self.x, presence_BM=self.presence, h=self.h, kl_weight=KL_WEIGHT, likelihood_weights=WEIGHTS,
            training=True, decode=decode, randn=randn, rand=rand, random_subsets=random_subsets,
        )  # fmt: skip

    def seen(self, name, z):
        """What the decoder of a modality sees of z."""
        return z

    def log_prob(self, row, z, subset):
        """Weighted sum of log N(x_i; W_i z, s^2 I) over the modalities of a subset."""
        total = 0.0
        for name in (NAMES[i] for i in subset):
            x, mean = self.x[name][row].double(), self.matrix[name].double() @ self.seen(name, z)
            total += WEIGHTS[name] * MultivariateNormal(mean, SCALE**2 * torch.eye(X).double()).log_prob(x)
        return total

    def present(self, row, bits=None):
        return [i for i in range(M) if (self.presence if bits is None else bits)[row, i]]


def with_fixed_weights(method):
    """Weights of unequal variances, so that products are not averages."""
    generator = torch.Generator().manual_seed(1)
    for parameter in method.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return method


def expert(method, bench, row, i):
    """N(A h + a, diag exp(C h + c)) from the very weights."""
    return head_gaussian(method.experts.heads[i], list(bench.h.values())[i][row].double())


def head_gaussian(head, h):
    mean, log_var = (layer.weight.double() @ h + layer.bias for layer in (head.mean, head.log_var))
    return MultivariateNormal(mean, torch.diag(log_var.exp()))


def multiplied(factors):
    """The product of Gaussian densities by their precision matrices."""
    precision = sum(q.precision_matrix for q in factors)
    mean = torch.linalg.solve(precision, sum(q.precision_matrix @ q.mean for q in factors))
    return MultivariateNormal(mean, torch.linalg.inv(precision))


PRIOR = MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())


def drawn(q, noise):
    return q.mean + q.covariance_matrix.diag().sqrt() * noise.double()


def check(method, bench, by_hand):
    """The method's objective of each row is what the paper's equation gives by hand."""
    objective = method.objective(bench.rows())
    expected = torch.stack([torch.as_tensor(by_hand(row)) for row in range(B)]).float()
    torch.testing.assert_close(objective.value_B, expected, rtol=2e-5, atol=2e-5)
    objective.value_B.sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    for row in range(B):
        for i, name in enumerate(NAMES):
            assert (float(objective.log_prob[name][row].detach()) == 0) == (not bench.presence[row, i])


def test_mvae_is_the_sum_of_the_elbos_of_all_of_each_and_of_random_subsets():
    bench, method = Bench(), with_fixed_weights(MVAE(MVAE.Options(num_subsets=2, beta=1.5), SIZES))

    def by_hand(row):
        sets = [bench.present(row), *([i] if i in bench.present(row) else [] for i in range(M))]
        for size, order in zip(bench.uniform[::2], bench.uniform[1::2], strict=True):
            there = bench.present(row)
            count = 2 + int(size[row] * (len(there) - 2)) if len(there) > 2 else 0
            sets.append(sorted(there, key=lambda i, order=order: order[row, i])[:count])
            assert len(sets[-1]) == (2 if len(there) == 3 else 0), "neither one nor all, which are terms of their own"
        total = 0.0
        for noise, members in zip(bench.normal, sets, strict=True):
            q = multiplied([PRIOR, *(expert(method, bench, row, i) for i in members)])
            total += bench.log_prob(row, drawn(q, noise[row]), members) - 1.5 * KL_WEIGHT * kl_divergence(q, PRIOR)
        return total

    check(method, bench, by_hand)


def test_mopoe_enumerates_all_subsets():
    """The KL is the mean over all 2^n - 1 subsets of what the row has, and z is of the component that was picked."""
    bench, method = Bench(), with_fixed_weights(MoPoE(MoPoE.Options(), SIZES))

    def by_hand(row):
        present = bench.present(row)
        sets = [s for n in range(1, len(present) + 1) for s in itertools.combinations(present, n)]
        assert len(sets) == 2 ** len(present) - 1
        sets.sort(key=lambda s: [i in s for i in range(M)])  # the order in which components are picked
        products = [multiplied([expert(method, bench, row, i) for i in s]) for s in sets]
        kl = sum(kl_divergence(q, PRIOR) for q in products) / len(products)
        q = products[int(bench.uniform[0][row] * len(products))]
        return bench.log_prob(row, drawn(q, bench.normal[0][row]), present) - 2.5 * KL_WEIGHT * kl

    check(method, bench, by_hand)


def test_mvtcae_is_the_convex_combination_of_the_two_bottlenecks():
    bench, method = Bench(), with_fixed_weights(MVTCAE(MVTCAE.Options(), SIZES))

    def by_hand(row):
        present, alpha, beta = bench.present(row), 5 / 6, 2.5
        experts = [expert(method, bench, row, i) for i in present]
        q, count = multiplied(experts), len(present)
        bottleneck = (1 - alpha) * kl_divergence(q, PRIOR)
        bottleneck += alpha / count * sum(kl_divergence(q, r) for r in experts)
        reconstruction = bench.log_prob(row, drawn(q, bench.normal[0][row]), present)
        return (count - alpha) / count * reconstruction - beta * KL_WEIGHT * bottleneck

    check(method, bench, by_hand)


def test_jmvae_draws_unimodal_encoders_to_the_joint_one():
    bench = Bench(torch.ones(B, M, dtype=torch.bool))
    method = with_fixed_weights(JMVAE(JMVAE.Options(alpha=0.4), SIZES))

    def by_hand(row):
        layers = [(layer.weight.double(), layer.bias.double()) for layer in (method.joint[0], method.joint[2])]
        value = torch.cat([bench.h[name][row] for name in NAMES]).double()
        for weight, bias in layers:
            value = torch.nn.functional.silu(weight @ value + bias)
        q = head_gaussian(method.joint[4], value)
        kl = kl_divergence(q, PRIOR) + 0.4 * sum(kl_divergence(q, expert(method, bench, row, i)) for i in range(M))
        return bench.log_prob(row, drawn(q, bench.normal[0][row]), range(M)) - KL_WEIGHT * kl

    check(method, bench, by_hand)


def test_mmvae_is_the_importance_weighted_bound_of_stratified_draws():
    bench, method = Bench(), with_fixed_weights(MMVAE(MMVAE.Options(num_samples=4), SIZES))

    def by_hand(row):
        present = bench.present(row)
        experts = {i: expert(method, bench, row, i) for i in present}
        bounds = []
        for i in present:
            weights = []
            for noise in bench.normal[i][row]:
                z = drawn(experts[i], noise)
                mixture = torch.stack([q.log_prob(z) for q in experts.values()]).logsumexp(0) - math.log(len(present))
                weights.append(bench.log_prob(row, z, present) + KL_WEIGHT * (PRIOR.log_prob(z) - mixture))
            bounds.append(torch.stack(weights).logsumexp(0) - math.log(len(weights)))
        return sum(bounds) / len(bounds)

    check(method, bench, by_hand)


def test_mmvae_follows_doubly_reparametrised_gradients():
    """Decoders: sum r_k d log w_k; experts: sum r_k^2 (d log w_k / d z_k) d z_k, with densities of q held fixed."""
    bench, method = Bench(), with_fixed_weights(MMVAE(MMVAE.Options(num_samples=4), SIZES))
    for matrix in bench.matrix.values():
        matrix.requires_grad_()
    method.objective(bench.rows()).value_B.sum().backward()
    found = [p.grad.clone() for p in (*bench.matrix.values(), *method.parameters())]
    for p in (*bench.matrix.values(), *method.parameters()):
        p.grad = None
    mean_total = 0.0
    for row in range(B):
        present = bench.present(row)
        fixed = {i: expert(method, bench, row, i) for i in present}
        fixed = {i: MultivariateNormal(q.mean.detach(), q.covariance_matrix.detach()) for i, q in fixed.items()}
        for i in present:
            zs = [drawn(expert(method, bench, row, i), noise) for noise in bench.normal[i][row]]

            def log_weight(z, present=present, fixed=fixed, row=row):
                mixture = torch.stack([q.log_prob(z) for q in fixed.values()]).logsumexp(0) - math.log(len(present))
                return bench.log_prob(row, z, present) + KL_WEIGHT * (PRIOR.log_prob(z) - mixture)

            weights = torch.stack([log_weight(z.detach()) for z in zs])
            share = weights.detach().softmax(0)
            mean_total = mean_total + (share * weights).sum() / len(present)  # to decoders
            for z, r in zip(zs, share, strict=True):
                leaf = z.detach().requires_grad_()
                (slope,) = torch.autograd.grad(log_weight(leaf), leaf)
                mean_total = mean_total + (r**2 * slope * z).sum() / len(present)  # to experts
    mean_total.backward()
    for mine, p in zip(found, (*bench.matrix.values(), *method.parameters()), strict=True):
        torch.testing.assert_close(mine, p.grad, rtol=1e-4, atol=1e-4)


Z, P = 2, 2  # dimensions of z and of each private latent
PRIVATE = MethodSizes(num_modalities=M, feature_dim=F, hidden_dim=8, latent_dim=Z + M * P)


class PrivateBench(Bench):
    """With decoders of z and their own private latent."""

    def __init__(self):
        super().__init__()
        shape = (X, Z + P)
        self.matrix = {n: torch.randn(shape, generator=self.generator).requires_grad_() for n in NAMES}

    def seen(self, name, z):
        own = Z + P * NAMES.index(name)
        return torch.cat([z[..., :Z], z[..., own : own + P]], -1)


def diagonal(mean, log_var):
    return MultivariateNormal(mean, torch.diag(log_var.exp()))


def private_experts(method, bench, row, i):
    """q(z | x_i) and q(w_i | x_i) from the very weights."""
    q = head_gaussian(method.latents.heads[i], list(bench.h.values())[i][row].double())
    log_var = q.covariance_matrix.diag().log()
    return diagonal(q.mean[:Z], log_var[:Z]), diagonal(q.mean[Z:], log_var[Z:])


def held(q):
    return MultivariateNormal(q.mean.detach(), q.covariance_matrix.detach())


def standard(value):
    return -0.5 * (value.square() + math.log(2 * math.pi)).sum()


def prior_of_own(method, own):
    """log p(z) p(w_m); that of CMVAE is the sum over clusters of the paper's equation, with q(c | z) = p(c | z)."""
    if isinstance(method, MMVAEPlus):
        return standard(own)
    log_pi = method.cluster_logit_C.double().log_softmax(0)
    pairs = zip(log_pi, method.cluster_mean_CZ, strict=True)
    log_joint = torch.stack([pi + standard(own[:Z] - mean) for pi, mean in pairs])
    q = log_joint.exp() / log_joint.exp().sum()
    return sum(share * (joint - share.log()) for share, joint in zip(q, log_joint, strict=True)) + standard(own[Z:])


@pytest.mark.parametrize("gradient", ["iwae", "dreg"])
@pytest.mark.parametrize(("kind", "more"), [(MMVAEPlus, {}), (CMVAE, {"num_clusters": 4})])
def test_methods_with_private_latents_draw_those_of_others_from_auxiliary_priors(kind, more, gradient):
    """Bound and gradient in every parameter: of encoders, decoders, auxiliary scales and clusters of the prior."""
    options = kind.Options(num_samples=3, gradient=gradient, beta=1.5, **more)
    bench, method = PrivateBench(), with_fixed_weights(kind(options, PRIVATE))
    assert (method.latents.shared_dim, method.latents.private_dim) == (Z, P)
    objective = method.objective(bench.rows())
    objective.value_B.sum().backward()
    parameters = [*bench.matrix.values(), *method.parameters()]
    found = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    values, followed = [], 0.0
    logits_MP = method.latents.scale_logit_MP.double()
    scales_MP = P * logits_MP.exp() / logits_MP.exp().sum(1, keepdim=True)
    for row in range(B):
        present = bench.present(row)
        experts = {i: private_experts(method, bench, row, i) for i in present}
        density = {i: (held(q), held(r)) for i, (q, r) in experts.items()} if gradient == "dreg" else experts
        total = 0.0
        for m in present:

            def log_weight(own, noise, m=m, density=density, row=row):
                auxiliary = scales_MP * noise[Z:].view(M, P)
                private = [own[Z:] if n == m else auxiliary[n] for n in range(M)]
                log_prob = bench.log_prob(row, torch.cat([own[:Z], *private]), bench.present(row))
                mixture = torch.stack([q.log_prob(own[:Z]) for q, _ in density.values()]).logsumexp(0)
                ratio = prior_of_own(method, own) - (mixture - math.log(len(density))) - density[m][1].log_prob(own[Z:])
                return log_prob + 1.5 * KL_WEIGHT * ratio

            noises = bench.normal[m][row].double()
            parts = (noises[:, :Z], noises[:, Z:].view(-1, M, P)[:, m])
            own = [
                torch.cat([drawn(q, noise) for q, noise in zip(experts[m], pair, strict=True)])
                for pair in zip(*parts, strict=True)
            ]
            if gradient == "dreg":
                leaves = [value.detach().requires_grad_() for value in own]
                weights = torch.stack([log_weight(*pair) for pair in zip(leaves, noises, strict=True)])
                share = weights.detach().softmax(0)
                for value, leaf, weight, r in zip(own, leaves, weights, share, strict=True):
                    (slope,) = torch.autograd.grad(weight, leaf, retain_graph=True)
                    followed = followed + (r**2 * slope * value).sum() / len(present)
                followed = followed + (share * weights).sum() / len(present)
            else:
                weights = torch.stack([log_weight(*pair) for pair in zip(own, noises, strict=True)])
                followed = followed + (weights.logsumexp(0) - math.log(len(weights))) / len(present)
            total += (weights.logsumexp(0) - math.log(len(weights))).detach() / len(present)
        values.append(total)
    torch.testing.assert_close(objective.value_B, torch.stack(values).float(), rtol=2e-5, atol=2e-5)
    followed.backward()
    for mine, p in zip(found, parameters, strict=True):
        torch.testing.assert_close(mine, p.grad, rtol=1e-4, atol=1e-4)


def test_cmvae_reports_how_many_clusters_are_in_use():
    """As many as have the latents if they lie at the means of some, and one if all lie at one mean."""
    method, bench = CMVAE(CMVAE.Options(num_clusters=4), PRIVATE), PrivateBench()
    method.cluster_mean_CZ.data = 100 * torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for head in method.latents.heads:
        head.mean.weight.data.zero_()
        head.mean.bias.data = torch.tensor([100.0, 0, 0, 0])
    assert float(method.objective(bench.rows()).figures["clusters_in_use"]) == pytest.approx(1)
    bench.h = {name: torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]] * 2 + [[1.0, 0, 0, 0]]) for name in NAMES}
    for head in method.latents.heads:
        head.mean.weight.data[0, 0] = 100
        head.mean.bias.data.zero_()
    shares = torch.tensor([0.6, 0.4])
    expected = float((-(shares * shares.log()).sum()).exp())
    assert float(method.objective(bench.rows()).figures["clusters_in_use"]) == pytest.approx(expected, rel=1e-4)


def test_cmvae_samples_its_clusters_and_private_latents():
    """Its own prior is the mixture of its clusters, with N(0, I) for private latents: density and draws."""
    method = CMVAE(CMVAE.Options(num_clusters=3), PRIVATE)
    method.cluster_mean_CZ.data = torch.tensor([[9.0, 0], [0, 9], [-9, 0]])
    method.cluster_logit_C.data = torch.tensor([0.5, 0.3, 0.2]).log() + 4
    prior, shared = method.own_prior().detach(), method.latents.shared_dim
    z = 3 * torch.randn(20, PRIVATE.latent_dim, generator=torch.Generator().manual_seed(0))
    of_clusters = torch.stack(
        [
            torch.distributions.Normal(mean, 1.0).log_prob(z[:, :shared]).sum(1)
            for mean in method.cluster_mean_CZ.detach()
        ]
    )
    private = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, shared:]).sum(1)
    expected = (of_clusters + torch.tensor([[0.5], [0.3], [0.2]]).log()).logsumexp(0) + private
    rows = torch.zeros(20, dtype=torch.int64)
    torch.testing.assert_close(prior.take(rows).log_prob(z), expected)
    many = prior.take(torch.zeros(4_000, dtype=torch.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = many.sample()
    nearest = torch.cdist(drawn[:, :shared], method.cluster_mean_CZ.detach()).argmin(1)
    torch.testing.assert_close(nearest.bincount() / 4_000, torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn[:, shared:].std(0), torch.ones(PRIVATE.latent_dim - shared), atol=0.05, rtol=0)


def test_mmvaeplus_infers_private_latents_of_what_is_given_alone():
    """The mixture's density is that of z times those of the private latents, N(0, I) of what is not given."""
    bench, method = PrivateBench(), with_fixed_weights(MMVAEPlus(MMVAEPlus.Options(), PRIVATE))
    q = method.fuse(list(bench.h.values()), PRESENCE)
    u = torch.randn(B, Z + M * P)
    for row in range(B):
        present = bench.present(row)
        experts = {i: private_experts(method, bench, row, i) for i in present}
        z, w = u[row, :Z].double(), u[row, Z:].view(M, P).double()
        log_z = torch.stack([of_z.log_prob(z) for of_z, _ in experts.values()]).logsumexp(0) - math.log(len(present))
        log_w = sum(experts[i][1].log_prob(w[i]) if i in present else standard(w[i]) for i in range(M))
        torch.testing.assert_close(q.log_prob(u)[row], (log_z + log_w).float(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected a latent_dim above 3, which 3 private latents of 1 dimensions take"):
        MMVAEPlus(MMVAEPlus.Options(), MethodSizes(num_modalities=3, feature_dim=4, hidden_dim=8, latent_dim=3))


WHOLE = MethodSizes(num_modalities=M, feature_dim=F, hidden_dim=8, latent_dim=M * F)


def test_mld_decodes_each_feature_without_noise():
    """Its stage 1 is the log-likelihood of each modality given its own feature, and draws nothing."""
    bench = Bench(torch.ones(B, M, dtype=torch.bool))
    method = MLD(MLD.Options(), WHOLE)
    seen = {name: list(method.decoder_dimensions(i)) for i, name in enumerate(NAMES)}
    bench.seen = lambda name, z: z[..., seen[name]]
    bench.matrix = {name: torch.randn(X, F, generator=bench.generator) for name in NAMES}
    objective = method.objective(bench.rows())
    for row in range(B):
        z = torch.cat([bench.h[name][row] for name in NAMES]).double()
        torch.testing.assert_close(objective.value_B[row], bench.log_prob(row, z, range(M)).float())
    assert not bench.normal
    q = method.fuse(list(bench.h.values()), PRESENCE)
    given = PRESENCE.repeat_interleave(F, 1)
    assert torch.equal(q.mean_BD[given], torch.cat(list(bench.h.values()), 1)[given])
    assert q.log_var_BD[given].max() < -13
    assert not q.mean_BD[~given].any()
    with pytest.raises(ValueError, match="expected latent_dim = 12, as the features of 3 modalities of feature_dim 4"):
        MLD(MLD.Options(), SIZES)


def test_mld_denoises_what_is_not_given_and_keeps_what_is():
    """Given latents enter clean whatever noise stands in their place, and leave as they are; others see sigma."""
    torch.manual_seed(0)
    method = MLD(MLD.Options(), WHOLE)
    network = method.latent_denoiser(DenoiserSizes(hidden_dim=8, num_blocks=2, dropout=0.0))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    h, noisy = [torch.randn(B, F) for _ in range(M)], torch.randn(B, M * F)
    sigma = torch.tensor([0.01, 0.3, 1.0, 5.0, 80.0])[:, None]
    total = (sigma.square() + 1).sqrt()
    given = PRESENCE.repeat_interleave(F, 1)

    def denoised(z, h, subset=PRESENCE, level=sigma):
        raw = network(z / total, level.log()[:, 0] / 4, network.features(h, subset))
        return z / total.square() + sigma / total * raw

    found, clean = denoised(noisy, h), torch.cat(h, 1)
    torch.testing.assert_close(found[given], clean[given], rtol=1e-4, atol=1e-4)
    elsewhere = torch.where(given, 7 * torch.randn(B, M * F), noisy)
    torch.testing.assert_close(denoised(elsewhere, h), found, rtol=1e-4, atol=1e-4)
    hidden = [value.masked_fill(~PRESENCE[:, i, None], 9.0) for i, value in enumerate(h)]
    assert torch.equal(denoised(noisy, hidden), found)
    kept, determined = network.kept(h, PRESENCE)
    assert torch.equal(determined, given)
    assert torch.equal(kept[given], clean[given])
    # The others depend on the value of what is given, on which it is, and on the level.
    changed = [value + 1 for value in h]
    some = ~PRESENCE.all(1)
    for other in (denoised(noisy, changed), denoised(noisy, h, PRESENCE & False), denoised(noisy, h, level=2 * sigma)):
        assert ((other - found).abs() * ~given).sum(1)[some].min() > 1e-4


def test_a_product_is_the_normalised_product_of_densities():
    """Its log density and the sum of the factors' differ by the same constant at every z; nothing gives the prior."""
    torch.manual_seed(0)
    factors = [GaussianPosterior(torch.randn(4, D), torch.randn(4, D)) for _ in range(M)]
    bits = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    q = product(factors, bits)
    z = torch.randn(50, 4, D)
    gap = q.log_prob(z) - sum(factor.log_prob(z) * bits[:, i] for i, factor in enumerate(factors))
    torch.testing.assert_close(gap[:, :3], gap[:1, :3].expand(50, -1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.mean_BD[2], factors[2].mean_BD[2])
    assert not q.mean_BD[3].any()
    assert not q.log_var_BD[3].any()


@pytest.mark.parametrize("kind", [CMVAE, JMVAE, MLD, MMVAE, MMVAEPlus, MoPoE, MVAE, MVTCAE])
def test_absent_features_leave_no_trace(kind):
    """In the posterior of every subset, the empty one included, and in the objective of rows that lack them."""
    complete = kind.needs_complete_rows
    private = kind in (CMVAE, MMVAEPlus)
    sizes, bench = (PRIVATE, PrivateBench()) if private else (WHOLE if kind is MLD else SIZES, Bench())
    method = with_fixed_weights(kind(kind.Options(), sizes))
    assert complete == (kind in (JMVAE, MLD))
    other = [h.masked_fill(~PRESENCE[:, i, None], 7.0) for i, h in enumerate(bench.h.values())]
    bits = PRESENCE.clone()
    bits[2] = False
    for fuse in (method.fuse, method.fuse_subset):
        one, two = (fuse(h, bits) for h in (list(bench.h.values()), other))
        torch.testing.assert_close(one.mean_BD, two.mean_BD)
        torch.testing.assert_close(one.log_var_BD, two.log_var_BD)
        assert not one.mean_BD[2].any()  # the prior
        assert isinstance(one, GaussianPosterior | MixturePosterior)
    if not complete:
        values = []
        for h in (bench.h, dict(zip(NAMES, other, strict=True))):
            bench.h = h
            bench.generator.manual_seed(3)
            values.append(method.objective(bench.rows()).value_B)
        torch.testing.assert_close(*values)


def test_defaults_are_the_published_settings():
    """As each module's docstring says where they were read."""
    assert MVAE.Options() == MVAE.Options(num_subsets=1, beta=1.0)
    assert MMVAEPlus.Options() == MMVAEPlus.Options(private_dim=None, num_samples=1, gradient="iwae", beta=2.5)
    published = MethodSizes(num_modalities=5, feature_dim=F, hidden_dim=8, latent_dim=192)
    assert MMVAEPlus(MMVAEPlus.Options(), published).latents.private_dim == 32
    assert MMVAE.Options() == MMVAE.Options(num_samples=30, gradient="dreg", beta=1.0)
    assert CMVAE.Options() == CMVAE.Options(num_clusters=10, num_samples=10, gradient="dreg", beta=1.0)
    assert MoPoE.Options() == MoPoE.Options(beta=2.5)
    assert MVTCAE.Options() == MVTCAE.Options(alpha=5 / 6, beta=2.5)
    assert JMVAE.Options() == JMVAE.Options(alpha=0.1, beta=1.0)


def test_mopoe_refuses_more_subsets_than_it_can_compute():
    sizes = MethodSizes(num_modalities=13, feature_dim=F, hidden_dim=8, latent_dim=D)
    with pytest.raises(
        ValueError, match=r"expected at most 12 modalities, of which it computes all 4,095 subsets, got 13"
    ):
        MoPoE(MoPoE.Options(), sizes)
