"""Named defaults, one TOML file each; a user can copy one and pass it with `--config`."""
