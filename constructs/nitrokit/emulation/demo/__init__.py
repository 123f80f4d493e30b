"""The main job on one machine: build, deploy, prove, check, and the counter-proofs. Its report is what ``make demo`` prints."""
