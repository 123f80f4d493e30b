"""How the functions call AWS."""

from botocore.config import Config

RETRIES = Config(retries={"mode": "adaptive", "max_attempts": 10})
"""Throttled calls are slowed down to what the service takes, and tried again (boto3 documentation "Retries", adaptive mode)."""
