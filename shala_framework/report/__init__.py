"""What a run shows of itself: sample files, composite clips and contact sheets."""
