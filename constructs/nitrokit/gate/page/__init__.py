"""The attestation report: one HTML file that is read offline and on paper."""
