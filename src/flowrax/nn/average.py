"""Any network as one of average velocity."""

from .._typing import Condition, Event, KeyArray, Network, Scalar
from ..abstract import AbstractAverageVelocity, call_network


class AverageVelocity(AbstractAverageVelocity):
    """Gives an ordinary network the way that is left as a part of its condition.

    The network is called as `network(t, x, (r - t, condition))`. [`MLP`][] and [`ResidualMLP`][] take that as it is,
    with one more element in `condition_size`, and [`DiT`][] and [`UNet`][] with one more in `vector_size`.
    """

    network: Network

    def average(
        self, t: Scalar, r: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Event:
        return call_network(self.network, t, x, (r - t, condition), key=key)
