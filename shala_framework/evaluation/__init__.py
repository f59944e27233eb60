"""Evaluation of trained models: judges, coherence, distances, likelihoods and calibration."""
