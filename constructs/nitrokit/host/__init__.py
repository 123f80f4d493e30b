"""The agent on the parent instance (standard library, Python 3.9: Amazon Linux 2023's) and the SSM documents that call it."""
