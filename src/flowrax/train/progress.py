"""The progress of a long loop: a tqdm bar, or printed lines."""

import importlib.util
import sys
from typing import Any


class Bar:
    """A tqdm progress bar, or printed lines where tqdm is not installed."""

    def __init__(self, total: int, start: int, *, enabled: bool, name: str = "fit", unit: str = "step") -> None:
        self.bar: Any = None
        self.enabled, self.total, self.done = enabled, total, start
        if enabled and importlib.util.find_spec("tqdm") is not None:
            import tqdm

            self.bar = tqdm.tqdm(total=total, initial=start, desc=name, unit=unit, file=sys.stderr)

    def step(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)

    def show(self, train_loss: float, validation_loss: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix(train=f"{train_loss:.4f}", held_out=f"{validation_loss:.4f}")
        elif self.enabled:
            print(f"fit: {self.done}/{self.total} train {train_loss:.4f} held out {validation_loss:.4f}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
