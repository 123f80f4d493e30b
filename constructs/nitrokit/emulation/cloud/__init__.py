"""The local AWS: moto in this process on one loopback port, and helpers where moto has state but no behaviour. Each module says which gap it fills (moto 5.2.5)."""
