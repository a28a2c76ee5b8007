"""Training: models learn your recordings. Needs the extra `train`."""
