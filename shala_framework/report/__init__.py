"""Reports of a run: sample files, composite clips and contact sheets."""
