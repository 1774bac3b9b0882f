# Whole clusters under seeds, with virtual time, network and disks; the outcome is kept.
{ lib, rustPlatform }:
rustPlatform.buildRustPackage {
  pname = "aspen-simulation";
  inherit ((lib.importTOML ../Cargo.toml).package) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../tests/sim/Cargo.lock;
  cargoRoot = "tests/sim";
  buildAndTestSubdir = "tests/sim";
  # As scripts/simulate.sh builds it: with all assertions, and with the simulator instead of Tokio.
  buildType = "debug";
  env.RUSTFLAGS = "--cfg madsim";

  checkPhase = ''
    runHook preCheck
    mkdir artifacts
    simulate() {
      target/*/debug/aspen-sim --jobs $NIX_BUILD_CORES --artifacts artifacts "$@"
    }
    if ! simulate --seeds 200 > artifacts/seeds.txt; then
      # A failed build leaves nothing but its log.
      cat artifacts/*
      exit 1
    fi
    simulate --scenario mixed --seed 0 --keep > artifacts/mixed-0.trace
    runHook postCheck
  '';

  postInstall = ''
    mkdir -p $out/share
    cp -r artifacts $out/share/simulations
  '';
}
