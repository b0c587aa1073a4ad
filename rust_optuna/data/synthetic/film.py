"""The exposure and development of a synthetic film: Beer–Lambert attenuation, blur, quantum noise, window and gamma."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rust_optuna.data.synthetic.cohort import SyntheticFilm
from rust_optuna.data.synthetic.fracture import tibia
from rust_optuna.data.synthetic.leg import Array, Leg, Rays, fibula, metal, soft_tissue

HEIGHT, WIDTH = 320, 256
"""The size of a film in pixels, along and across the bone."""

# Linear attenuation per millimetre at about 60 keV; for bone and metal, the excess over the tissue they displace.
SOFT_TISSUE, BONE, METAL = 0.021, 0.046, 0.33
# Scattered radiation as a share of the unattenuated radiation; because of it, metal is not infinitely white.
SCATTER = 0.035
# The logarithmic signals above which a ray has passed through the leg, and through metal.
THROUGH_LEG, THROUGH_METAL = 0.3, 2.85


@dataclass(frozen=True)
class Exposure:
    """The settings with which one film was taken and developed, none of which depends on the scores.

    Attributes:
        field: the height of the film in the leg's plane, in millimetres.
        tilt: the slope of the bone's axis across the film.
        bow: the curvature of the bone's axis, per millimetre.
        axis: the distance of the bone's axis from the film's middle, in millimetres.
        level: the distance of the fracture below the film's middle, in millimetres.
        blur: the standard deviation of the point spread, in pixels.
        photons: the number of photons in an unattenuated pixel.
        window: the percentiles of the leg's signal, without metal, that are shown as black and white.
        brightness: the mean grey level of the leg, 0 to 1.
    """

    field: float
    tilt: float
    bow: float
    axis: float
    level: float
    blur: float
    photons: float
    window: tuple[float, float]
    brightness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Exposure:
        """Return a random exposure."""
        field = rng.uniform(120.0, 190.0)
        return cls(
            field=field,
            tilt=math.tan(math.radians(rng.normal(0, 3))),
            bow=rng.normal(0, 2e-4),
            axis=rng.uniform(-0.05, 0.05) * field,
            level=rng.uniform(-0.12, 0.12) * field,
            blur=rng.uniform(0.5, 1.0),
            photons=rng.uniform(8e3, 3e4),
            window=(rng.uniform(0.5, 6.0), rng.uniform(97.5, 99.8)),
            brightness=rng.uniform(0.40, 0.58),
        )

    def rays(self, leg: Leg) -> Rays:
        """Return the rays of a film at twice its resolution."""
        step = self.field / (2 * HEIGHT)
        rows: Array = ((np.arange(2 * HEIGHT, dtype=np.float32) - HEIGHT) * step)[:, None]
        columns: Array = ((np.arange(2 * WIDTH, dtype=np.float32) - WIDTH) * step)[None, :]
        across: Array = columns - (self.axis + self.tilt * rows + self.bow * rows**2)
        if leg.left:
            np.negative(across, out=across)
        return Rays(rows - self.level, across, leg.shaft_radius * (1 + 4e-5 * rows**2))


def draw_film(film: SyntheticFilm, *, seed: int, place: int, contrast: float) -> NDArray[np.uint8]:
    """Return a film as (HEIGHT, WIDTH) grey levels, white where the rays are attenuated.

    Args:
        film: the film's contents.
        seed: the data set's seed; together with the patient's number it decides the leg.
        place: the film's place in the cohort; together with the seed it decides everything that differs between films.
        contrast: how clearly callus and fracture line show: 0 for not at all, 1 as in a real film, above 1 exaggerated.
    """
    leg = Leg.draw(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, film.patient))))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, place)))
    exposure = Exposure.draw(rng)
    rays = exposure.rays(leg)
    attenuation = SOFT_TISSUE * soft_tissue(film.view, leg, rays, rng)
    attenuation += BONE * fibula(film.view, leg, rays)
    columns, near = rays.near_bone()
    slope = leg.slopes[film.view == "lateral"]
    attenuation[:, columns] += BONE * tibia(film.subscores, slope, leg, near, contrast, rng)
    attenuation[:, columns] += METAL * metal(film.view, film.hidden, leg, near, rng)
    return _develop(_expose(attenuation, exposure, rng), exposure)


def _expose(attenuation: Array, exposure: Exposure, rng: np.random.Generator) -> Array:
    """Return the detector's logarithmic signal (HEIGHT, WIDTH) for the attenuation at twice that resolution."""
    rays = np.exp(-attenuation)
    averaged = (rays[::2, ::2] + rays[::2, 1::2] + rays[1::2, ::2] + rays[1::2, 1::2]) / 4
    signal = _blur((averaged + SCATTER).astype(np.float32), exposure.blur)
    # Normal noise, which approximates Poisson noise at hundreds of photons a pixel and more.
    signal += rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(signal / exposure.photons)
    logarithm: Array = -np.log(np.maximum(signal, np.float32(SCATTER / 4)))
    return logarithm


def _blur(image: Array, spread: float) -> Array:
    """Return ``image`` blurred by a Gaussian point spread with a standard deviation of ``spread`` pixels."""
    reach = 3
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    weights /= weights.sum()
    for _ in range(2):
        padded = np.pad(image, ((reach, reach), (0, 0)), mode="edge")
        blurred: Array = np.zeros_like(image)
        for shift, weight in enumerate(weights.tolist()):
            blurred += np.float32(weight) * padded[shift : shift + len(image)]
        image = blurred.T
    return image


def _develop(signal: Array, exposure: Exposure) -> NDArray[np.uint8]:
    """Return the signal as grey levels, with the marker in its corner.

    As in automatic processing, gamma brings the leg to a brightness that was drawn beforehand, so that the brightness
    of the film does not reveal the amount of callus.
    """
    leg = signal > THROUGH_LEG
    low, high = np.percentile(signal[leg & (signal < THROUGH_METAL)], exposure.window).tolist()
    levels = np.clip((signal - low) / (high - low), 0, 1)
    levels **= _gamma_for(levels[leg], exposure.brightness)
    grey: NDArray[np.uint8] = np.rint(levels * 255).astype(np.uint8)
    marker = _marker()
    grey[-marker.shape[0] - 6 : -6, 6 : 6 + marker.shape[1]][marker] = 255
    return grey


def _gamma_for(levels: Array, brightness: float) -> float:
    """Return the exponent that brings the mean of ``levels``, 0 to 1, close to ``brightness``."""
    counts, edges = np.histogram(levels, bins=128, range=(0, 1))
    centres, shares = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    low, high = 0.3, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if shares @ centres**middle > brightness else (low, middle)
    return (low + high) / 2


@cache
def _marker() -> NDArray[np.bool_]:
    """Return the word SYNTHETIC as pixels, in the bitmap font, which is the same on every machine."""
    font = ImageFont.load_default_imagefont()
    _, _, right, bottom = font.getbbox("SYNTHETIC")
    image = Image.new("1", (int(right), int(bottom)))
    ImageDraw.Draw(image).text((0, 0), "SYNTHETIC", fill=1, font=font)
    marker: NDArray[np.bool_] = np.array(image, dtype=bool)
    return marker
