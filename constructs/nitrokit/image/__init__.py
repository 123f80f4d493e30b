"""From an image folder to an EIF: locks, packages, root file system, ramdisks, kernel. No Docker, no root, no script of a package is run."""
