# The files that the crates are built, checked and tested with; a change of any other rebuilds nothing.
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
    ../rustfmt.toml
    ../src
    ../tests
  ];
}
