"""Any network as a network of the average velocity."""

from .._base.typing import Condition, Event, KeyArray, Network, Scalar
from ..model.network import AbstractAverageVelocity, call_network


class AverageVelocity(AbstractAverageVelocity):
    """Passes the length of the averaging interval to an ordinary network as a part of its condition.

    The network is called as `network(t, x, (r - t, condition))`. [`MLP`][] and [`ResidualMLP`][] need one more element
    in `condition_size` for this, and [`DiT`][] and [`UNet`][] one more in `vector_size`.
    """

    network: Network

    def average(
        self, t: Scalar, r: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Event:
        return call_network(self.network, t, x, (r - t, condition), key=key)
