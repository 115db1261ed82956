# Tests by what they need; see CONTRIBUTING.md. `just` is optional: each recipe is one plain command.

# No root, no engine
unit:
    cargo test --locked --lib --test architecture --test dockerfile --test parsers --test reference --test settings

# Servers of stores on loopback, no engine: needs root for Debian's packages
servers:
    cargo test --locked --test it -- stores:: --skip stores::builds --skip stores::questions

# Tests whose names contain NAME: an engine (20_10, 26_1, 28_5, containerd), a module or a test. Needs root
engines NAME:
    cargo test --locked --test it --test orb -- {{NAME}}

# Generated faults, from a fresh seed. Needs root
faults COUNT="10000":
    DOCKERCACHE_FAULTS={{COUNT}} cargo test --locked --test it faults::campaign -- --nocapture

# A million changed inputs for each parser, from a fresh seed
fuzz COUNT="1000000":
    DOCKERCACHE_FUZZ={{COUNT}} cargo test --locked --release --test parsers -- --nocapture

# Every check and every test, with all set-up. Needs root
all:
    ./test.sh

# Write docs/cli.md from the help
docs:
    UPDATE_DOCS=1 cargo test --locked --test reference
