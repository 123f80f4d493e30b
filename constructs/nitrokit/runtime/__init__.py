"""Inside the enclave: init (PID 1), the NSM device, vsock, egress, the control server, KMS with Recipient. The parent is the attacker."""
