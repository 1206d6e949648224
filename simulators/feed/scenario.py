"""A feed over time: the same but for a model that is swapped."""

from functools import cache

import msgspec

from simulators.feed.product import Feed, rescaled
from simulators.scenarios import Swap


class FeedScenario(msgspec.Struct, frozen=True, eq=False):
    """A feed, and the swap of its ranking model, if there is one."""

    world: Feed
    swap: Swap | None = None
    bad_hours: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The feed's."""
        return self.world.name

    @property
    def summary(self) -> str:
        """The feed's."""
        return self.world.summary

    @property
    def still(self) -> bool:
        """Whether every hour is like every other."""
        return self.swap is None

    def at(self, hour: int) -> Feed:
        """The feed that answers in an hour since the study's start."""
        if self.swap is None or hour < self.swap.hour:
            return self.world
        return _swapped(self.world, self.swap)


@cache
def _swapped(feed: Feed, swap: Swap) -> Feed:
    """One and the same feed for every hour after the swap, so that its truth is drawn once."""
    return rescaled(feed, swap.scales(feed.weights))
