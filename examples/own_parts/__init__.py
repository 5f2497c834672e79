"""Parts written outside of allelse, as its users write theirs: see `own-parts.toml` beside this folder."""
