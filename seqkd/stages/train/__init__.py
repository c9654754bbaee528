"""The stage `train`: train a model on one or several corpora."""
