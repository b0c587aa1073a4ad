"""The invented leg on a synthetic film: path lengths through its tissues and hardware, in millimetres.

The row of a film is the position along the bone, the column the position across it, so most quantities depend only on
the row. In the leg's own coordinates, the first of the view's two cortices (medial or anterior) lies at negative
offsets from the bone's axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

# How far bone, callus, plate and screws may reach beyond the shaft's radius.
MARGIN = 16.0


@dataclass(frozen=True)
class Leg:
    """A patient's leg, fracture and hardware, the same on all films. Lengths are in millimetres.

    Attributes:
        left: whether it is the left leg, whose films are mirrored.
        shaft_radius: the radius of the tibia at its narrowest.
        cortex: the thickness of the tibia's walls.
        soft_radius: the radius of the calf.
        slopes: the slope of the fracture across the bone on the anteroposterior and on the lateral film.
        gap: the width of the fracture line.
        hardware: ``nail``, ``plate`` or ``none``.
        nail_radius: the radius of the nail, if there is one.
    """

    left: bool
    shaft_radius: float
    cortex: float
    soft_radius: float
    slopes: tuple[float, float]
    gap: float
    hardware: str
    nail_radius: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Leg:
        """Return a random leg."""
        angles = np.radians(rng.uniform(-35, 35, size=2)).tolist()
        return cls(
            left=bool(rng.random() < 0.5),
            shaft_radius=rng.uniform(10.5, 14.0),
            cortex=rng.uniform(3.8, 5.8),
            soft_radius=rng.uniform(40.0, 58.0),
            slopes=(math.tan(angles[0]), math.tan(angles[1])),
            gap=rng.uniform(1.2, 3.2),
            hardware=str(rng.choice(["nail", "plate", "none"], p=[0.65, 0.15, 0.20])),
            nail_radius=rng.uniform(4.2, 5.2),
        )


@dataclass(frozen=True)
class Rays:
    """The positions of a film's rays in the leg's coordinates, in millimetres.

    Attributes:
        along: (rows, 1), the position along the bone from the fracture's centre.
        across: (rows, columns), the offset from the bone's axis.
        radius: (rows, 1), the shaft's outer radius.
    """

    along: Array
    across: Array
    radius: Array

    @property
    def side(self) -> Array:
        """(rows, columns): 0 at the view's first wall and 1 at its second.

        The value changes gradually in between, where the rays pass through the walls that the other view shows from the
        side.
        """
        side: Array = np.clip(0.5 + self.across / self.radius, 0, 1)
        return side

    def near_bone(self) -> tuple[slice, Rays]:
        """Return the columns that may contain bone, callus and hardware, and their rays."""
        near = np.flatnonzero(np.any(np.abs(self.across) < self.radius + MARGIN, axis=0))
        columns = slice(int(near[0]), int(near[-1]) + 1)
        return columns, Rays(self.along, np.ascontiguousarray(self.across[:, columns]), self.radius)


def chord(radius: Array | float, across: Array) -> Array:
    """Return the path length through a cylinder of ``radius`` at the offset ``across`` from its axis."""
    squared: Array = np.square(np.asarray(radius, np.float32)) - np.square(across)
    np.maximum(squared, 0, out=squared)
    np.sqrt(squared, out=squared)
    squared *= 2
    return squared


def texture(rng: np.random.Generator, like: Array, grains: tuple[int, int]) -> Array:
    """Return smooth noise of about unit spread in the shape of ``like``, with ``grains`` grains along and across."""
    noise = Image.fromarray(rng.standard_normal(grains, dtype=np.float32))
    rows, columns = like.shape
    smooth: Array = np.asarray(noise.resize((columns, rows), Image.Resampling.BICUBIC), np.float32)
    return smooth


def soft_tissue(view: str, leg: Leg, rays: Rays, rng: np.random.Generator) -> Array:
    """Return the path length through the calf, in which fat counts less because of its lower density."""
    # The shin lies close under the skin, so the calf's axis is behind the bone's.
    behind = (0.22 if view == "anteroposterior" else 0.42) * leg.soft_radius
    taper = rng.normal(0, 1e-3) * rays.along - rng.uniform(0, 2e-5) * rays.along**2
    calf = (leg.soft_radius * (1 + taper)).astype(np.float32)
    fat = rng.uniform(4.0, 9.0)
    across = rays.across - behind
    path = 0.8 * chord(calf, across)
    path += 0.25 * chord(calf - fat, across) * (1 + 0.08 * texture(rng, across, (7, 24)))
    return path


def fibula(view: str, leg: Leg, rays: Rays) -> Array:
    """Return the path length through the fibula's cortex, which lies beside the tibia, or behind and partly over it."""
    offset = (28.0 if view == "anteroposterior" else 9.0) * leg.shaft_radius / 12
    across = rays.across - (offset + 8e-4 * rays.along**2)
    return chord(5.5, across) - 0.8 * chord(2.6, across)


def metal(view: str, hidden: tuple[bool, bool], leg: Leg, rays: Rays, rng: np.random.Generator) -> Array:
    """Return the path length through nail or plate, and through the bars over unreadable walls."""
    path = np.zeros_like(rays.across)
    if leg.hardware == "nail":
        path += chord(leg.nail_radius, rays.across - rng.normal(0, 0.5))
    elif leg.hardware == "plate":
        path += _plate_edge_on(leg, rays) if view == "anteroposterior" else _plate_flat(rays)
    for side, covered in zip((-1, 1), hidden, strict=True):
        if covered:
            path += _bar(side, leg, rays, rng)
    return path


def _plate_edge_on(leg: Leg, rays: Rays) -> Array:
    """Return the path length through a plate along the tibia's second wall, and its screws through the bone."""
    off_wall = rays.across - (leg.shaft_radius + 2)
    path: Array = np.where(np.abs(off_wall) < 1.9, np.float32(10), 0)
    within = (np.abs(rays.across) < leg.shaft_radius + 1) & (np.abs(rays.along) > 12)
    path += np.where(within, chord(1.6, _from_screw(rays.along)), 0)
    path *= np.abs(rays.along) < 58
    return path


def _plate_flat(rays: Rays) -> Array:
    """Return the path length through a plate seen from its broad side, and its screws seen from their heads."""
    path: Array = np.where(np.abs(rays.across) < 5.5, np.float32(3.6), 0)
    path += np.where(np.hypot(_from_screw(rays.along), rays.across) < 2.4, np.float32(16), 0)
    path *= np.abs(rays.along) < 58
    return path


def _from_screw(along: Array) -> Array:
    """Return the distance along the bone to a plate's nearest screw, (rows, 1)."""
    distance: Array = np.abs((along + 8) % 16 - 8)
    return distance


def _bar(side: int, leg: Leg, rays: Rays, rng: np.random.Generator) -> Array:
    """Return the path length through a bar, like that of a fixator, over one wall."""
    centre = side * (leg.shaft_radius + rng.uniform(0.5, 2.5)) + rng.normal(0, 0.03) * rays.along
    return chord(rng.uniform(4.5, 6.0), rays.across - centre)
