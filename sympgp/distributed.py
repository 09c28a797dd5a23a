"""Several processes that work on one fit: ranks of ``torch.distributed``, and what they exchange.

Each of ``count`` ranks does a share of the work and meets the others in sums and gathers, whose
results are the same bits on all of them; so all take the same decisions. Started by ``torchrun``,
a script begins with::

    ranks = sympgp.distributed.initialize()

Nothing happens on import, and nothing is kept here: the state is that of ``torch.distributed``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

Result = TypeVar("Result")


NUMBERS = "numbers"
"""A kind of failure: numbers that broke down."""


class RankError(ValueError):
    """What one rank could not do, or none of them, raised on all of them alike."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share a fit, as one of them sees them; a single one by default.

    Where there are several, every method is a meeting: each rank has to call it, in the same
    order. What goes in and comes out is on the tensors' own device.

    Attributes:
        rank: number of this process, from 0.
        count: how many there are.
        device: where this one is to compute, ``cuda:k`` on a machine with GPUs; where the data
            are when None.

    Example:
        >>> Ranks().sum(torch.ones(2)), Ranks(rank=1, count=4).share([1.0] * 10)
        (tensor([1., 1.]), slice(2, 5, None))
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @classmethod
    def current(cls) -> Ranks:
        """All processes of ``torch.distributed``; a single one where it is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        device = None
        if "nccl" in dist.get_backend_config().lower():
            device = torch.device("cuda", torch.cuda.current_device())
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone prints and writes files."""
        return self.rank == 0

    def share(self, sizes: Sequence[float | int] | Tensor) -> slice:
        """Which items are this rank's: neighbours, so that all ranks have about the same size.

        Args:
            sizes: of the items in order, such as their numbers of observations, known to all ranks.

        Raises:
            RankError: fewer items than ranks, on all ranks.
        """
        total = torch.as_tensor(sizes, dtype=torch.float64).cpu().cumsum(0)
        num = len(total)
        if num < self.count:
            raise RankError(
                f"data: expected at least one trajectory for each of {self.count} processes, got "
                f"{num}; start fewer (torchrun --nproc-per-node)"
            )
        edges = [0]
        for rank in range(1, self.count):
            wanted = float(total[-1]) * rank / self.count
            near = int(torch.searchsorted(total, wanted)) if wanted > 0 else 0
            # The item that straddles the edge goes to the side that has more of it.
            before = float(total[near - 1]) if near else 0.0
            near += int(wanted - before > float(total[near]) - wanted)
            edges.append(min(max(near, edges[-1] + 1), num - self.count + rank))
        edges.append(num)
        return slice(edges[self.rank], edges[self.rank + 1])

    def part(self, num: int) -> slice:
        """This rank's equal part of so many items; empty where there are fewer than ranks."""
        return slice(num * self.rank // self.count, num * (self.rank + 1) // self.count)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, the same bits on each."""
        if not self.several:
            return values
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        if not self.several:
            return flag
        return bool(self.sum(torch.tensor([int(flag)], device=self.device)).any())

    def broadcast(self, values: Tensor) -> Tensor:
        """What rank 0 has; shapes and types are the same on all."""
        if not self.several:
            return values
        sent = values.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(sent, 0)
        return sent

    def gather(self, values: Tensor) -> Tensor:
        """The rows of all ranks, (n_0 + n_1 + ..., ...), in their order, on each."""
        if not self.several:
            return values
        if values.dtype == torch.bool:  # which not every backend sends
            return self.gather(values.to(torch.uint8)).bool()
        lengths = torch.zeros(self.count, dtype=torch.int64, device=values.device)
        lengths[self.rank] = len(values)
        dist.all_reduce(lengths)
        parts = []
        for rank, length in enumerate(lengths.tolist()):
            own = rank == self.rank
            part = (
                values.detach().contiguous() if own else values.new_empty(length, *values.shape[1:])
            )
            if length:
                dist.broadcast(part, rank)
            parts.append(part)
        return torch.cat(parts)

    def gather_texts(self, texts: Sequence[str]) -> list[list[str]]:
        """The texts of each rank, on each."""
        if not self.several:
            return [list(texts)]
        coded = json.dumps(list(texts)).encode()
        own = torch.frombuffer(bytearray(coded), dtype=torch.uint8).to(self.device)
        lengths = self.gather(torch.tensor([len(coded)], device=self.device)).tolist()
        parts = self.gather(own).cpu().split(lengths)
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def agree(self, work: Callable[[], Result]) -> Result:
        """Do something that may fail on some ranks alone, such as reading a file.

        Nothing in it may be a meeting of the ranks.

        Raises:
            RankError: on all ranks, with what went wrong and on which; what was raised itself
                where there is one process.
            torch.linalg.LinAlgError: the same, where numbers broke down on that rank.
        """
        if not self.several:
            return work()
        message, kind, cause = "", "", None
        try:
            result = work()
        except Exception as error:  # whatever it is, the others must not wait for this rank
            message, cause = str(error) or type(error).__name__, error
            kind = NUMBERS if isinstance(error, torch.linalg.LinAlgError) else ""
        said, kinds = zip(*self.gather_texts([message, kind]), strict=True)
        if not any(said):
            return result
        rank = next(k for k, text in enumerate(said) if text)
        reason = torch.linalg.LinAlgError if kinds[rank] == NUMBERS else RankError
        raise reason(said[0] if len(set(said)) == 1 else f"rank {rank}: {said[rank]}") from cause

    def check_same(self, expected: str, own: str) -> None:
        """Refuse what differs between the ranks.

        Args:
            expected: how the message begins.
            own: what this rank has, in few words.

        Raises:
            RankError: another one has something else; on all ranks.
        """
        if not self.several:
            return
        said = [texts[0] for texts in self.gather_texts([own])]
        for rank, text in enumerate(said):
            if text != said[0]:
                raise RankError(f"{expected}, got {text} on rank {rank} and {said[0]} on rank 0")

    def spread(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The same tensors, for what only this rank computes of them: see :meth:`total`.

        Their gradients are summed over the ranks.
        """
        if not self.several:
            return values
        return _Spread.apply(self, *values)

    def total(self, values: Tensor) -> Tensor:
        """As :meth:`sum`, differentiable where the inputs came through :meth:`spread`."""
        return values if not self.several else _Total.apply(self, values)


class _Spread(torch.autograd.Function):
    """Identity; backward sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, *(ctx.ranks.sum(gradient) for gradient in gradients)


class _Total(torch.autograd.Function):
    """Sum over the ranks; backward is the identity, since all of them have the same gradient."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, values: Tensor) -> Tensor:
        return ranks.sum(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, gradient


ALONE = Ranks()
"""A single process."""


def initialize(device: torch.device | str | None = None) -> Ranks:
    """Join the processes that ``torchrun`` started; a single process where it did not.

    They meet through gloo on CPUs and NCCL on GPUs, of which each process takes the one with its
    ``LOCAL_RANK``. Called again, it changes nothing. :func:`leave` is for the end.

    Args:
        device: where to compute, "cpu" or "cuda"; GPUs where there are some when None.

    Raises:
        ValueError: fewer GPUs on this machine than processes.

    Example:
        >>> initialize("cpu").count
        1
    """
    wanted = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if dist.is_available() and dist.is_initialized() or not wanted:
        return Ranks.current()
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if kind != "cuda":
        dist.init_process_group("gloo")
        return Ranks.current()
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        raise ValueError(
            f"device: expected a GPU for each process on this machine, got {found}, none of them "
            f"for local rank {local}"
        )
    torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=torch.device("cuda", local))
    return Ranks.current()


def leave() -> None:
    """Leave the other processes, at the end of a program; nothing where there are none."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
