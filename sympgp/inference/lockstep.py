"""Several samplers side by side, whose gradients are computed in one batch.

The gradient of a path costs hardly more for a few draws than for one. Samplers such as Pyro's ask
for one at a time, deep inside recursions of their own; so each runs in a thread that is set aside
whenever it asks, and goes on when all have asked. Only one thread runs at any time, in a fixed
order and with random numbers of its own, so that results do not depend on the machine's timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Density = Callable[[Tensor], Tensor]
"""Log densities (S,) at positions (S, N), differentiable."""


class _Stop(BaseException):
    """Ends a thread whose answers are not wanted any more."""


class _Known(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, position: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None, None


class Sampler(threading.Thread):
    """A piece of work that needs log densities, and the random numbers that it uses.

    Args:
        work: called with a function from a position (N,) to its log density, differentiable once.
        randomness: state of the CPU generator to begin with.

    Attributes:
        randomness: the state that has been reached.
        request: position whose log density is wanted.
        error: what the work ended with, if not well.
    """

    def __init__(self, work: Callable[[Callable[[Tensor], Tensor]], None], randomness: Tensor):
        super().__init__(daemon=True)
        self.work, self.randomness = work, randomness
        self.request = torch.empty(0)
        self.answer: tuple[Tensor, Tensor] | None = None
        self.error: BaseException | None = None
        self.finished = self.stopped = False
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        """The thread itself."""
        self._turn.acquire()
        try:
            if not self.stopped:
                self.work(self._ask)
        except _Stop:
            pass
        except BaseException as error:  # handed to the thread that waits for the answers
            self.error = error
        self.finished = True
        self._back.release()

    def _ask(self, position: Float[Tensor, " unknowns"]) -> Tensor:
        self.request = position.detach()
        self._back.release()
        self._turn.acquire()
        if self.stopped or self.answer is None:
            raise _Stop
        return _Known.apply(position, *self.answer)

    def resume(self) -> None:
        """Let it go on until it asks again or is done."""
        torch.set_rng_state(self.randomness)
        self._turn.release()
        self._back.acquire()
        self.randomness = torch.get_rng_state()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End it where it waits."""
        self.stopped = True
        self._turn.release()
        self.join()


def run_together(samplers: Sequence[Sampler], density: Density) -> None:
    """Run all samplers to their ends; the caller's random numbers are left as they were.

    When it is interrupted, or one of them fails, all are stopped first.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            for sampler in samplers:
                sampler.start()
                sampler.resume()
            while waiting := [sampler for sampler in samplers if not sampler.finished]:
                position = torch.stack([sampler.request for sampler in waiting])
                position.requires_grad_(True)
                values = density(position)
                (gradients,) = torch.autograd.grad(values.sum(), position)
                for sampler, *answer in zip(waiting, values.detach(), gradients, strict=True):
                    sampler.answer = (answer[0], answer[1])
                    sampler.resume()
        finally:
            for sampler in samplers:
                if sampler.is_alive():
                    sampler.stop()
