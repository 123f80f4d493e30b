"""The drift gate: the lock compared with a rebuild, the synthesised templates, deployed key policies, the images on hosts and running enclaves."""
