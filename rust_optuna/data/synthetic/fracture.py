"""The fractured tibia on a synthetic film: the appearance of each wall of the fracture at its subscore."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rust_optuna.data.synthetic.leg import Array, Leg, Rays, chord, texture

# By subscore: the callus's density as a share of the bone's, and the share of bone missing in the fracture line.
CALLUS_DENSITY = {1: 0.0, 2: 0.45, 3: 0.6, 4: 0.75}
LINE_DEPTH = {1: 1.0, 2: 0.85, 3: 0.3, 4: 0.0}
# The share of the cortex that has been resorbed around a healed fracture.
REMODELLED_THINNING = 0.3


@dataclass(frozen=True)
class Wall:
    """The appearance of one wall of the fracture. Lengths are in millimetres.

    Attributes:
        level: the position along the bone where the fracture meets the wall.
        depth: the share of bone that is missing in the fracture line.
        density: the callus's density as a share of the bone's.
        bumps: the (centre along the bone, reach, height) of each bump of callus.
        thinned: the share of the cortex that is missing around the fracture.
    """

    level: float
    depth: float
    density: float
    bumps: tuple[tuple[float, float, float], ...]
    thinned: float

    @classmethod
    def draw(cls, subscore: int, level: float, contrast: float, rng: np.random.Generator) -> Wall:
        """Return a random wall with this subscore.

        1: the line is clear and there is no callus. 2: two bumps of callus do not meet. 3: the line is faint, and
        callus bridges it. 4: the line is gone, and a low swelling over a thinned cortex remains.
        """
        tall = rng.uniform(3.0, 5.0) * _exaggeration(contrast)
        distance, wide = rng.uniform(7.0, 10.0), rng.uniform(10.0, 15.0)
        bumps: dict[int, tuple[tuple[float, float, float], ...]] = {
            1: (),
            2: ((level - distance, 3.8, 0.9 * tall), (level + distance, 3.8, 0.9 * tall)),
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
        """Return the height of the callus above the wall at each row (rows, 1)."""
        height: Array = np.zeros_like(along)
        for centre, reach, top in self.bumps:
            height += (top * np.exp(-(np.abs((along - centre) / reach) ** 2.5))).astype(np.float32)
        return height

    def thickness(self, along: Array, cortex: Array) -> Array:
        """Return the thickness of the wall at each row (rows, 1), given that of the intact cortex."""
        near_fracture = np.exp(-(((along - self.level) / 15) ** 2)).astype(np.float32)
        return cortex * (1 - self.thinned * near_fracture)


def tibia(
    subscores: tuple[int, int], slope: float, leg: Leg, rays: Rays, contrast: float, rng: np.random.Generator
) -> Array:
    """Return the path length through the tibia's cortex and callus; marrow counts as soft tissue with a little bone.

    Args:
        subscores: the subscores of the view's two walls.
        slope: the slope of the fracture across the bone.
        leg: the leg with the tibia.
        rays: the rays near the bone.
        contrast: how clearly callus and fracture line show.
        rng: the generator of the walls, the jags of the line and the bone's texture.
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
    ring *= 1 - _fracture_line(slope, leg.gap * _exaggeration(contrast), rays, rng) * np.minimum(
        first.depth + (second.depth - first.depth) * side, 1
    )
    height = first.height(rays.along), second.height(rays.along)
    callus = chord(rays.radius + (height[0] + (height[1] - height[0]) * side), rays.across) - outside
    callus *= first.density + (second.density - first.density) * side
    # Callus grows outwards from its own wall, so little of it lies over the middle of the bone.
    callus *= np.clip(np.abs(rays.across) / rays.radius * 1.6 - 0.4, 0, 1)
    callus *= np.maximum(1 + 0.22 * texture(rng, ring, (90, 40)), 0)
    ring += callus
    return ring


def _fracture_line(slope: float, gap: float, rays: Rays, rng: np.random.Generator) -> Array:
    """Return how deep each ray lies within a jagged line across the shaft, 0 to 1."""
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


def _exaggeration(contrast: float) -> float:
    """Return the factor for the sizes of callus and fracture line, which is above 1 only if the contrast is."""
    return math.sqrt(max(contrast, 1.0))
