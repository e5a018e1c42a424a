"""Colours: Okabe and Ito's, which colour-blind readers tell apart; lines have a dash of their own as well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colours on one background, each with a contrast of 3 to 1 at least."""

    ink: str
    faint: str
    grid: str
    a: str
    b: str
    band_a: str
    band_b: str
    alarm: str
    many: tuple[str, ...]
    """Of as many features as are told apart."""

    def arm(self, variant: str) -> str:
        """Return an arm's colour."""
        return self.b if variant == "B" else self.a

    def band(self, variant: str) -> str:
        """Return the colour of an arm's interval."""
        return self.band_b if variant == "B" else self.band_a


LIGHT = Palette(
    ink="#1b1f24",
    faint="#5c6670",
    grid="#dfe3e8",
    a="#0072b2",
    b="#d55e00",
    band_a="rgba(0, 114, 178, 0.18)",
    band_b="rgba(213, 94, 0, 0.18)",
    alarm="#a3004f",
    many=("#d55e00", "#0072b2", "#00805c", "#b35a8e", "#8a6a00", "#3a7fa8"),
)

DARK = Palette(
    ink="#e6e9ed",
    faint="#a3adb8",
    grid="#363d46",
    a="#56b4e9",
    b="#e69f00",
    band_a="rgba(86, 180, 233, 0.22)",
    band_b="rgba(230, 159, 0, 0.22)",
    alarm="#ff8fc7",
    many=("#ff8a3d", "#56b4e9", "#2fc79b", "#e39ac6", "#f0e442", "#9fd0ef"),
)


def palette_of(theme: str | None) -> Palette:
    """Return the palette of `light` or `dark`."""
    return DARK if theme == "dark" else LIGHT
