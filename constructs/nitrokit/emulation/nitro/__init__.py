"""Emulated Nitro hardware: the hypervisor with its NSM and PKI, the runners of enclaves, and parent instances with work-alikes of nitro-cli and its services."""
