"""The whole system on one machine. Its trust (an own PKI, countersigned documents) lives here alone; only the CLI and tests import it."""
