"""What samples are worth: judges of class, and coherence between modalities."""
