"""The logic of the Lambdas; lambda/<function>/index.py are shims."""
