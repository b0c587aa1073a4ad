"""The two instruments, RUST and modified RUST, which differ in their highest subscore and must not be mixed."""

from __future__ import annotations

from enum import Enum

from rust_optuna.data.manifest import CORTICES, SUBSCORES
from rust_optuna.model.scored import UNREADABLE, ScoredFilms


class Scale(Enum):
    """An instrument: the sum of the subscores of four cortices."""

    RUST = "rust"
    MODIFIED_RUST = "modified_rust"

    @classmethod
    def of(cls, films: ScoredFilms) -> Scale:
        """Return modified RUST if a label holds a subscore of 4 (remodelled), which RUST lacks; else RUST."""
        classes = films.classes
        return cls.MODIFIED_RUST if (classes[classes != UNREADABLE] == len(SUBSCORES) - 1).any() else cls.RUST

    @property
    def words(self) -> str:
        """How people call it."""
        return "modified RUST" if self is Scale.MODIFIED_RUST else "RUST"

    @property
    def highest(self) -> int:
        """The highest subscore of a cortex."""
        return len(SUBSCORES) if self is Scale.MODIFIED_RUST else len(SUBSCORES) - 1

    @property
    def totals(self) -> tuple[int, int]:
        """The lowest and the highest total: 4 and 12 on RUST, 4 and 16 on modified RUST."""
        return len(CORTICES), len(CORTICES) * self.highest

    @property
    def united(self) -> int:
        """The total from which on a fracture usually counts as united: 10 on RUST, 13 on modified RUST."""
        return 13 if self is Scale.MODIFIED_RUST else 10
