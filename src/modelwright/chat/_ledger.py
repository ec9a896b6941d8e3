"""What was asked and what it cost, with a budget that no call can exceed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from modelwright.chat._messages import Agent, BrokenOffError, Reply, Request
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Price

#: Most tokens that a server adds to a message for the marks of its chat template.
_MARKS = 32
#: Sums of money may differ by rounding.
_ROUNDING = 1e-9


class BudgetError(RunError):
    """The next call could exceed the budget. What was answered is kept."""

    def __init__(self, text: str):
        super().__init__(text, resumable=True)


@dataclass(frozen=True)
class Spent:
    """What calls came to.

    Attributes:
        calls: Replies of backends.
        cached: Replies that were there already, and cost nothing now.
        retries: Tries of calls beyond the first.
        failed: Calls without a reply.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
        money: By the agents' prices.
    """

    calls: int = 0
    cached: int = 0
    retries: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def cost(price: Price, reply: Reply) -> float:
    """What a reply costs."""
    return price.call + (price.tokens_in * reply.tokens_in + price.tokens_out * reply.tokens_out) / 1e6


def most(price: Price, request: Request) -> float:
    """The most that a request can cost: a token is at least a byte of what is read, and max_tokens are written."""
    read = sum(len(m.content.encode("utf-8", "surrogatepass")) + _MARKS for m in request.messages)
    return price.call + (price.tokens_in * read + price.tokens_out * request.sampling.max_tokens) / 1e6


class Ledger:
    """Calls, tokens and money, by agent.

    With a budget, a call begins only when the most it can cost fits beside what is spent and what the calls under way can
    cost; it waits while calls under way may turn out cheaper, and is refused when none is. Replies from the cache are free.
    A call that fails is taken to cost nothing: what a provider bills for a reply that never came cannot be seen. A reply
    that breaks off half-way is billed by most, and its usage does not come: the most that it can have cost is counted.

    Args:
        budget: In the currency of the prices; None is without limit.

    Raises:
        InputError: The budget is negative.
    """

    def __init__(self, budget: float | None = None):
        if budget is not None and not 0 <= budget < float("inf"):
            raise InputError(f"a budget must be a number of at least 0, got {budget}")
        self.budget = budget
        self._spent: dict[str, Spent] = defaultdict(Spent)
        self._held = 0.0
        self._under_way = 0
        self._changed = asyncio.Condition()

    @property
    def agents(self) -> Mapping[str, Spent]:
        """What each agent's calls came to."""
        return dict(self._spent)

    @property
    def total(self) -> Spent:
        """What all came to."""
        return sum(self._spent.values(), Spent())

    def from_cache(self, agent: Agent) -> None:
        """A reply was there already."""
        self._spent[agent.name] += Spent(cached=1)

    @asynccontextmanager
    async def call(self, agent: Agent, request: Request) -> AsyncIterator[list[Reply]]:
        """A call under way; its reply is put into the list.

        Raises:
            BudgetError: It could exceed the budget.
        """
        worst = most(agent.price, request)
        await self._hold(agent, worst)
        replies: list[Reply] = []
        lost = 0.0
        try:
            yield replies
        except BrokenOffError:
            lost = worst
            raise
        finally:
            # Nothing awaits between the reply and this, so a cancelled call is counted too.
            self._spent[agent.name] += self._of(agent, replies, lost)
            self._held -= worst
            self._under_way -= 1
            async with self._changed:
                self._changed.notify_all()

    @staticmethod
    def _of(agent: Agent, replies: list[Reply], lost: float) -> Spent:
        if not replies:
            return Spent(failed=1, money=lost)
        reply = replies[0]
        read, written = reply.tokens_in, reply.tokens_out
        return Spent(1, 0, reply.tries - 1, 0, read, written, cost(agent.price, reply))

    async def _hold(self, agent: Agent, worst: float) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(worst) or not self._under_way)
            if not self._fits(worst):
                raise BudgetError(
                    f"the budget of {self.budget:.4g} does not allow another call of '{agent.name}': "
                    f"{self.total.money:.4g} is spent, and the call could cost up to {worst:.4g}. "
                    "Raise the budget or lower max_tokens; answers so far are kept"
                )
            self._held += worst
            self._under_way += 1

    def _fits(self, worst: float) -> bool:
        return self.budget is None or self.total.money + self._held + worst <= self.budget * (1 + _ROUNDING)
