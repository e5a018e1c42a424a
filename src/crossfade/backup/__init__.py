"""All that an installation cannot make again, in one file and back: `crossfade backup` and `crossfade restore`.

places.py (what there is, and where), archive.py (the file, with a digest of every member), save.py (a consistent copy
of an installation that runs), restore.py (into an empty one that does not), command.py.
"""
