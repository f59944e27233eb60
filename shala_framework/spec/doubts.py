"""Find settings that are valid but rarely intended, mostly those of long runs tried with few steps."""

from shala_framework.spec.schema import Refine, Spec
from shala_framework.spec.stages import DECAY_SHARES

ADAMW_RATE = 7e-3  # learning rates from here on are rarely intended for AdamW


def doubts(spec: Spec) -> list[str]:
    """Return one sentence for each doubtful key: its effect and what to change."""
    found = []
    first = spec.train.autoencoder
    if first.kl_warmup_steps > first.steps:
        found.append(
            f"train.autoencoder: kl_warmup_steps is {first.kl_warmup_steps} and steps {first.steps}, so the KL "
            f"term ends at {first.steps / first.kl_warmup_steps:.1%} of kl_weight; "
            f"lower kl_warmup_steps, for example to a third of steps"
        )
    for name, stage in (
        ("autoencoder", first),
        ("prior", spec.train.prior),
        ("refiner", spec.train.refiner),
    ):
        if not stage.steps:  # the stage is left out
            continue
        if stage.warmup_steps >= stage.steps:
            found.append(
                f"train.{name}: warmup_steps is {stage.warmup_steps} and steps {stage.steps}, so the learning "
                f"rate never reaches {stage.learning_rate:g}; lower warmup_steps"
            )
        if stage.decay_share is not None and stage.schedule not in DECAY_SHARES:
            names = " and ".join(f'"{name}"' for name in DECAY_SHARES)
            found.append(
                f'train.{name}: decay_share has no effect with schedule = "{stage.schedule}"; only {names} read it'
            )
        if stage.schedule == "trapezoid" and stage.warmup_steps < stage.steps < stage.warmup_steps + stage.decay_steps:
            found.append(
                f"train.{name}: the learning rate never reaches {stage.learning_rate:g}, because steps, {stage.steps}, "
                f"is less than warmup_steps, {stage.warmup_steps}, and the {stage.decay_steps:.0f} of decay_share "
                f"together; lower one of them"
            )
        if stage.optimizer == "adamw" and stage.learning_rate >= ADAMW_RATE:
            found.append(
                f'train.{name}: optimizer is "adamw" and learning_rate {stage.learning_rate:g}, which suits "muon"; '
                f"AdamW needs about a tenth of it"
            )
    if spec.refine.method == "adversarial" and spec.train.refiner.steps:
        unread = (*Refine.SAMPLING_KEYS, "log_sigma_mean", "log_sigma_std", "latent_dropout")
        default = Refine()
        found += [
            f'refine: {key} has no effect with method = "adversarial", which makes samples in one step'
            for key in unread
            if getattr(spec.refine, key) != getattr(default, key)
        ]
    return found
