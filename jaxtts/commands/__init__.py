"""The subcommands of `jaxtts`, one module each; see cli.py."""
