"""The Lightning module that trains a network against a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rectiflow.randomness import counter_generator, counter_seed
from rectiflow.training.ema import DecayProfile
from rectiflow.training.flow_training import (
    FlowTraining,
    batch_size,
    configured,
    seed_global_generators,
)
from rectiflow.training.objective import Objective


class AdversarialObjective(Objective, Protocol):
    """A module with a network that makes something and a discriminator that judges it.

    Called as an :class:`~rectiflow.training.objective.Objective`, it returns what to validate by.
    All randomness comes from the generators, which live on the batch's device. ``step`` is the
    optimiser step.
    """

    discriminator: nn.Module

    def generator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """Return ``"loss"`` for all parameters but the discriminator's, and scalars to log."""
        ...

    def discriminator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: Generator
    ) -> dict[str, Tensor] | None:
        """Return ``"loss"`` for the discriminator and scalars to log, or None to leave it be."""
        ...


class AdversarialTraining(FlowTraining):
    """Minimises the two losses of an adversarial objective, each with an optimiser of its own.

    Both gradients are those of the parameters before the step. Averages are of the network alone;
    steps, checkpoints, resume, validation and metrics are as in :class:`FlowTraining`, and
    :func:`~rectiflow.training.fitting.fit` runs either.

    Parameters
    ----------
    objective : AdversarialObjective
        An ``nn.Module``; holds ``objective.network`` and ``objective.discriminator``.
    optimizer : callable
        Takes all trainable parameters but the discriminator's.
    discriminator_optimizer : callable, optional
        Takes the discriminator's trainable parameters; ``optimizer`` serves both if absent.
    scheduler, discriminator_scheduler : callable, optional
        Take their optimiser, and count its steps: the discriminator's begin when it does.
    ema, grad_clip, seed
        As for :class:`FlowTraining`; the largest norm holds for each optimiser.

    Notes
    -----
    Terms of the discriminator are logged with the prefix ``discriminator_``.

    References
    ----------
    Goodfellow et al., "Generative Adversarial Networks" (NeurIPS 2014).
    """

    objective: AdversarialObjective
    reaches_all = False  # each of the two losses has its own parameters

    def __init__(
        self,
        objective: AdversarialObjective,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        discriminator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        discriminator_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        ema: Sequence[float | DecayProfile] = (),
        grad_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(objective, optimizer, scheduler, ema, grad_clip, seed)
        self.automatic_optimization = False
        self.make_discriminator_optimizer = discriminator_optimizer or optimizer
        self.make_discriminator_scheduler = discriminator_scheduler
        self._accumulate = 1

    @property
    def accumulate(self) -> int:
        """Return the micro-batches per optimiser step."""
        return self._accumulate

    def accept_accumulation(self, accumulate: int) -> int:
        """Take accumulation over: Lightning leaves it to who steps the optimisers."""
        self._accumulate = accumulate
        return 1

    def configure_optimizers(self) -> Any:
        """Build one optimiser for the discriminator and one for all else, with schedulers."""
        judging = {id(p) for p in self.objective.discriminator.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad]
        return [
            configured(
                [p for p in trained if id(p) not in judging],
                self.make_optimizer,
                self.make_scheduler,
            ),
            configured(
                [p for p in trained if id(p) in judging],
                self.make_discriminator_optimizer,
                self.make_discriminator_scheduler,
            ),
        ]

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Any:
        """Differentiate both losses of one micro-batch, and step if it completes a step."""
        making, judging = self.trainer.optimizers
        if self.at_step_boundary:
            making.zero_grad()
            judging.zero_grad()
        batch = self.with_step(batch)
        key, weight = self.draw_key(), self.count(batch)
        losses = {
            "generator": self.objective.generator_loss,
            "discriminator": self.objective.discriminator_loss,
        }
        terms, judged = (
            self._differentiate(optimizer, loss, batch, (name, *key), weight)
            for optimizer, (name, loss) in zip((making, judging), losses.items(), strict=True)
        )
        self.meter.add(terms, samples=batch_size(batch))
        self.meter.add({f"discriminator_{name}": value for name, value in judged.items()})
        if self.at_step_boundary:
            self._step_both()
        return {"loss": terms["loss"].detach(), "mean": terms["loss"].detach()}

    def _differentiate(
        self,
        optimizer: Optimizer,
        loss: Callable[[Mapping[str, Tensor], int, Generator], dict[str, Tensor] | None],
        batch: Mapping[str, Tensor],
        key: tuple[str, int, int, int],
        weight: int,
    ) -> dict[str, Tensor]:
        """Add the gradient of one loss to the parameters of its optimiser only."""
        seed_global_generators(counter_seed("global", *key), self.device)
        generator = counter_generator(*key, device=self.device)
        self.toggle_optimizer(optimizer)
        terms = loss(batch, self.global_step, generator) or {}
        if terms:
            self.manual_backward(terms["loss"] * (weight / self.accumulate))
        self.untoggle_optimizer(optimizer)
        return terms

    def _step_both(self) -> None:
        making, judging = self.trainer.optimizers
        if _has_gradient(judging):
            # Past Lightning's wrapper, because the trainer counts the steps of that: one each time.
            self.trainer.strategy.optimizer_step(judging, closure=_nothing)
            self._step_scheduler(judging)
        counted: Any = self.optimizers()
        counted[0].step()
        self._step_scheduler(making)
        self.finish_step(self.global_step)

    def _step_scheduler(self, optimizer: Optimizer) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer:
                config.scheduler.step()  # type: ignore[call-arg]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients of one optimiser, or take them as zero when one is not finite."""
        judging = optimizer is self.trainer.optimizers[1]
        self.tame(optimizer, "discriminator_grad_norm" if judging else "grad_norm")


def _has_gradient(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _nothing() -> None:
    """Stand for the backward pass, which is done."""


def adaptive_weight(loss: Tensor, adversarial: Tensor, parameter: Tensor) -> Tensor:
    r"""Return the factor that makes two losses pull alike at a parameter.

    .. math:: \lambda = \mathrm{clamp}\left(
        \frac{\|\nabla L\|}{\|\nabla L_{adv}\| + 10^{-4}},\ 0,\ 10^4 \right)

    References
    ----------
    Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021).

    Examples
    --------
    >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> factor = adaptive_weight(weight.square().sum(), weight[0], weight)
    >>> round(factor.item(), 3)  # gradients of length 10 and 1
    9.999
    """
    (own,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    (other,) = torch.autograd.grad(adversarial, parameter, retain_graph=True)
    return (own.norm() / (other.norm() + 1e-4)).clamp(0.0, 1e4).detach()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss: half of what real scores lack to 1, and fake ones to -1.

    Examples
    --------
    >>> hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0]))
    tensor(0.7500)
    """
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())
