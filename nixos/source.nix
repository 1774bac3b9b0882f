# The files that the crates are built, checked and tested with; a change of any other rebuilds nothing.
# The tests of the documents look at all there are: checks.nix runs those.
{ lib }:
lib.fileset.toSource {
  root = ../.;
  fileset = lib.fileset.unions [
    ../Cargo.lock
    ../Cargo.toml
    ../aspen.example.toml
    ../benches
    ../clippy.toml
    ../docs/backends.md
    ../docs/http-api.md
    ../docs/simulations
    ../examples
    ../fuzz/Cargo.toml
    ../fuzz/corpus
    ../fuzz/fuzz_targets
    ../rustfmt.toml
    ../src
    ../tests
  ];
}
