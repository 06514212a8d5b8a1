"""Ten trainings that no policy was trained on, each a script: `python -m examples.digits_transformer`."""
