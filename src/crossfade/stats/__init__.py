"""Pure statistics: counts in, frozen results out. Nothing here reads a file, a setting or the clock."""
