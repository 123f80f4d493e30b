"""nitrokit: AWS Nitro Enclaves as ordinary infrastructure as code. Import what you need by name; this imports nothing."""
