"""From a spec and its launch config to files that others run: shell, env, compose, systemd."""
