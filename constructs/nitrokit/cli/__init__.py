"""The command line. One module per command; results on stdout, talk on stderr; exit 0 fine, 1 the answer is no, 2 usage, 3 the environment."""
