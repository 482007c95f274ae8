"""Search: its time and hits by text, meaning and voice; encoders, also for new items."""

from __future__ import annotations

from benchmarks.figures import Figure, Part, main, measure
from benchmarks.search import (
    cold,
    cold_pictures,
    cold_products,
    domains,
    encoding,
    latency,
    meaning,
    quality,
    voice,
    voice_served,
)


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure; quick searches fewer items less often."""
    return measure(_parts(quick), only)


def _parts(quick: bool) -> list[Part]:
    return [
        Part("latency", latency.FIGURES, lambda: latency.latency(quick)),
        Part("quality", quality.FIGURES, lambda: quality.quality(quick)),
        Part("meaning", meaning.FIGURES, lambda: meaning.meaning(quick)),
        Part("encoding", encoding.FIGURES, lambda: encoding.encoding(quick)),
        Part(
            "cold",
            (*cold.FIGURES, *cold_products.FIGURES),
            lambda: [*cold.cold(quick), *cold_products.cold_products(quick)],
        ),
        Part("cold_pictures", cold_pictures.FIGURES, lambda: cold_pictures.cold_pictures(quick)),
        Part("domains", domains.FIGURES, lambda: domains.domains(quick)),
        *voice.parts(quick),
        *voice_served.parts(quick),
    ]


if __name__ == "__main__":
    main("search", run, parts=[part.name for part in _parts(True)])
