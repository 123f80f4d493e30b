"""Rules over synthesised templates: what would open data, hide an enclave or expose its parent. ``Validations.of(app).add_plugins(NitrokitChecks())``; docs/rules.md lists them."""
