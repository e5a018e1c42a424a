"""The serving loop: split, predict, log, and follow the registry. It never imports `crossfade.loop`."""
