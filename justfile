# `just verify` only reads, `just fix` writes.

default:
    @just --list

# Everything that must hold, quickest first; changes nothing.
verify:
    cargo fmt --check
    cargo clippy --features hiqlite --all-targets --locked -- -D warnings
    cargo deny check licenses bans sources
    cargo test --features hiqlite --locked
    cargo fmt --check --manifest-path tests/sim/Cargo.toml

# Formats, and takes clippy's suggestions.
fix:
    cargo clippy --fix --allow-dirty --all-targets
    cargo fmt
    cargo fmt --manifest-path tests/sim/Cargo.toml

# All that a machine can check, the smoke scripts included.
test:
    ./scripts/test.sh
