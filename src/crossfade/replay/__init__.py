"""`crossfade replay`: a team's own history through the real loop, beside the two things they do today."""
