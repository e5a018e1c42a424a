"""The learning loop: drift, policy, retraining, evaluation, promotion. It never imports `crossfade.serving`."""
