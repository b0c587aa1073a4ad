"""The made-up leg on a synthetic film: path lengths through its tissues and hardware, in millimetres.

Rows of a film run along the bone, so that most quantities depend on the row alone; columns run across it. In the leg's
own coordinates the first of the view's two cortices (medial or anterior) lies at negative offsets from the bone's axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

# By subscore: the callus's density as a share of the bone's, and the share of bone missing in the fracture line.
CALLUS_DENSITY = {1: 0.0, 2: 0.45, 3: 0.6, 4: 0.75}
LINE_DEPTH = {1: 1.0, 2: 0.85, 3: 0.3, 4: 0.0}
# Share of the cortex that has been resorbed about a healed fracture.
REMODELLED_THINNING = 0.3
# How far from the bone's axis bone, callus, plate and screws may reach, beyond the shaft's radius.
MARGIN = 16.0


@dataclass(frozen=True)
class Leg:
    """A patient's leg, fracture and hardware, the same on all films. Lengths in millimetres.

    Attributes:
        left: whether it is the left leg, whose films are mirrored.
        shaft_radius: of the tibia, at its narrowest.
        cortex: the thickness of the tibia's walls.
        soft_radius: of the calf.
        slopes: the fracture's slope across the bone on the anteroposterior and on the lateral film.
        gap: the width of the fracture line.
        hardware: ``nail``, ``plate`` or ``none``.
        nail_radius: of the nail, if there is one.
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
class Wall:
    """How one wall of the fracture looks. Lengths in millimetres.

    Attributes:
        level: where along the bone the fracture meets the wall.
        depth: the share of bone that is missing in the fracture line.
        density: the callus's, as a share of the bone's.
        bumps: (centre along the bone, reach, height) of each bump of callus.
        thinned: the share of the cortex that is gone about the fracture.
    """

    level: float
    depth: float
    density: float
    bumps: tuple[tuple[float, float, float], ...]
    thinned: float

    @classmethod
    def draw(cls, subscore: int, level: float, contrast: float, rng: np.random.Generator) -> Wall:
        """Return a random wall with this subscore.

        1: the line is clear and there is no callus. 2: two bumps of callus that do not meet. 3: the line is faint, and
        callus bridges it. 4: the line is gone, and what is left is a low swelling over a thinned cortex.
        """
        tall = rng.uniform(3.0, 5.0) * exaggeration(contrast)
        apart, wide = rng.uniform(7.0, 10.0), rng.uniform(10.0, 15.0)
        bumps: dict[int, tuple[tuple[float, float, float], ...]] = {
            1: (),
            2: ((level - apart, 3.8, 0.9 * tall), (level + apart, 3.8, 0.9 * tall)),
            3: ((level, wide, 1.1 * tall),),
            4: ((level, 1.4 * wide, 0.35 * tall),),
        }
        return cls(
            level=level,
            depth=LINE_DEPTH[subscore] * contrast,
            density=CALLUS_DENSITY[subscore] * contrast,
            bumps=bumps[subscore],
            thinned=min(REMODELLED_THINNING * contrast, 0.6) if subscore == 4 else 0.0,
        )

    def height(self, along: Array) -> Array:
        """Return how far the callus stands out from the wall at each row (rows, 1)."""
        height: Array = np.zeros_like(along)
        for centre, reach, top in self.bumps:
            height += (top * np.exp(-(np.abs((along - centre) / reach) ** 2.5))).astype(np.float32)
        return height

    def thickness(self, along: Array, cortex: Array) -> Array:
        """Return the thickness of the wall at each row (rows, 1), from that of the intact cortex."""
        near_fracture = np.exp(-(((along - self.level) / 15) ** 2)).astype(np.float32)
        return cortex * (1 - self.thinned * near_fracture)


@dataclass(frozen=True)
class Rays:
    """Where each ray of one film passes, in the leg's coordinates, in millimetres.

    Attributes:
        along: (rows, 1), along the bone from the fracture's centre.
        across: (rows, columns), from the bone's axis.
        radius: (rows, 1), the shaft's outer radius.
    """

    along: Array
    across: Array
    radius: Array

    @property
    def side(self) -> Array:
        """Return (rows, columns) 0 at the view's first wall and 1 at its second.

        It blends in between, where the rays pass through the walls that only the other view shows from the side.
        """
        side: Array = np.clip(0.5 + self.across / self.radius, 0, 1)
        return side

    def near_bone(self) -> tuple[slice, Rays]:
        """Return the columns that bone, callus and hardware may lie in, and their rays."""
        near = np.flatnonzero(np.any(np.abs(self.across) < self.radius + MARGIN, axis=0))
        columns = slice(int(near[0]), int(near[-1]) + 1)
        return columns, Rays(self.along, np.ascontiguousarray(self.across[:, columns]), self.radius)


def exaggeration(contrast: float) -> float:
    """Return the factor on the sizes of callus and fracture line: above 1 only if the contrast is."""
    return math.sqrt(max(contrast, 1.0))


def chord(radius: Array | float, across: Array) -> Array:
    """Return the path length through a cylinder of ``radius`` at the offset ``across`` from its axis."""
    squared: Array = np.square(np.asarray(radius, np.float32)) - np.square(across)
    np.maximum(squared, 0, out=squared)
    np.sqrt(squared, out=squared)
    squared *= 2
    return squared


def texture(rng: np.random.Generator, like: Array, grains: tuple[int, int]) -> Array:
    """Return smooth noise of about unit spread, of ``like``'s shape, with so many grains along and across."""
    noise = Image.fromarray(rng.standard_normal(grains, dtype=np.float32))
    rows, columns = like.shape
    smooth: Array = np.asarray(noise.resize((columns, rows), Image.Resampling.BICUBIC), np.float32)
    return smooth


def soft_tissue(view: str, leg: Leg, rays: Rays, rng: np.random.Generator) -> Array:
    """Return the path through the calf, fat counted by its lower density: the shin lies close under the skin."""
    behind = (0.22 if view == "anteroposterior" else 0.42) * leg.soft_radius
    taper = rng.normal(0, 1e-3) * rays.along - rng.uniform(0, 2e-5) * rays.along**2
    calf = (leg.soft_radius * (1 + taper)).astype(np.float32)
    fat = rng.uniform(4.0, 9.0)
    across = rays.across - behind
    path = 0.8 * chord(calf, across)
    path += 0.25 * chord(calf - fat, across) * (1 + 0.08 * texture(rng, across, (7, 24)))
    return path


def fibula(view: str, leg: Leg, rays: Rays) -> Array:
    """Return the path through the fibula's cortex: beside the tibia, or behind and partly over it."""
    offset = (28.0 if view == "anteroposterior" else 9.0) * leg.shaft_radius / 12
    across = rays.across - (offset + 8e-4 * rays.along**2)
    return chord(5.5, across) - 0.8 * chord(2.6, across)


def tibia(
    subscores: tuple[int, int], slope: float, leg: Leg, rays: Rays, contrast: float, rng: np.random.Generator
) -> Array:
    """Return the path through the tibia's cortex and callus; marrow counts as soft tissue with a little bone.

    Args:
        subscores: of the view's two walls.
        slope: the fracture's, across the bone.
        leg: whose tibia it is.
        rays: those near the bone.
        contrast: how plainly callus and fracture line show.
        rng: draws the walls, the line's jags and the bone's texture.
    """
    reach = slope * leg.shaft_radius
    first = Wall.draw(subscores[0], -reach, contrast, rng)
    second = Wall.draw(subscores[1], reach, contrast, rng)
    side = rays.side
    outside = chord(rays.radius, rays.across)
    # The cortex is thickest at mid-shaft and thins towards the joints.
    cortex = np.maximum(leg.cortex * (1 - 3e-5 * rays.along**2), np.float32(leg.cortex / 2))
    thick = first.thickness(rays.along, cortex), second.thickness(rays.along, cortex)
    ring = outside - 0.85 * chord(rays.radius - (thick[0] + (thick[1] - thick[0]) * side), rays.across)
    ring *= 1 + 0.05 * texture(rng, ring, (80, 24))
    ring *= 1 - _fracture_line(slope, leg.gap * exaggeration(contrast), rays, rng) * np.minimum(
        first.depth + (second.depth - first.depth) * side, 1
    )
    height = first.height(rays.along), second.height(rays.along)
    callus = chord(rays.radius + (height[0] + (height[1] - height[0]) * side), rays.across) - outside
    callus *= first.density + (second.density - first.density) * side
    # Callus grows outwards from its own wall: little of it lies over the middle of the bone.
    callus *= np.clip(np.abs(rays.across) / rays.radius * 1.6 - 0.4, 0, 1)
    callus *= np.maximum(1 + 0.22 * texture(rng, ring, (90, 40)), 0)
    ring += callus
    return ring


def _fracture_line(slope: float, gap: float, rays: Rays, rng: np.random.Generator) -> Array:
    """Return how far each ray lies in a jagged line across the shaft, 0 to 1."""
    offsets = np.linspace(-40, 40, 641)
    corners = np.arange(-40.0, 41.0, 3.0)
    jags = np.interp(offsets, corners, rng.normal(0, 0.9, len(corners))).astype(np.float32)
    nearest = np.clip((rays.across + 40) * 8, 0, 640).astype(np.intp)
    line: Array = (rays.along - slope * rays.across - jags[nearest]) * (2 / gap)
    np.square(line, out=line)
    np.square(line, out=line)
    np.negative(line, out=line)
    np.exp(line, out=line)
    return line


def metal(view: str, hidden: tuple[bool, bool], leg: Leg, rays: Rays, rng: np.random.Generator) -> Array:
    """Return the path through nail or plate, and through the bars over the walls that cannot be read."""
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
    """Return the path through a plate along the tibia's second wall, and its screws through the bone."""
    off_wall = rays.across - (leg.shaft_radius + 2)
    path: Array = np.where(np.abs(off_wall) < 1.9, np.float32(10), 0)
    within = (np.abs(rays.across) < leg.shaft_radius + 1) & (np.abs(rays.along) > 12)
    path += np.where(within, chord(1.6, _from_screw(rays.along)), 0)
    path *= np.abs(rays.along) < 58
    return path


def _plate_flat(rays: Rays) -> Array:
    """Return the path through a plate seen from its broad side, and the screws seen from their heads."""
    path: Array = np.where(np.abs(rays.across) < 5.5, np.float32(3.6), 0)
    path += np.where(np.hypot(_from_screw(rays.along), rays.across) < 2.4, np.float32(16), 0)
    path *= np.abs(rays.along) < 58
    return path


def _from_screw(along: Array) -> Array:
    """Return the distance along the bone to the nearest screw of a plate, (rows, 1)."""
    distance: Array = np.abs((along + 8) % 16 - 8)
    return distance


def _bar(side: int, leg: Leg, rays: Rays, rng: np.random.Generator) -> Array:
    """Return the path through a bar, as of a fixator, that lies over one wall."""
    centre = side * (leg.shaft_radius + rng.uniform(0.5, 2.5)) + rng.normal(0, 0.03) * rays.along
    return chord(rng.uniform(4.5, 6.0), rays.across - centre)
