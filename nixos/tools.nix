# What people and tests use beside the product: netwatch, and a relay for hosts without a direct path.
{ lib, rustPlatform }:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage {
  pname = "aspen-tools";
  inherit (manifest) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../Cargo.lock;

  cargoBuildFlags = [
    "--example=netwatch"
    "--example=relay"
  ];
  # The package's check runs the tests.
  doCheck = false;

  postInstall = ''
    install -D --target-directory=$out/bin target/*/release/examples/{netwatch,relay}
  '';

  meta = {
    description = "Tools to look at the network as Aspen sees it, and to test it";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "netwatch";
    platforms = lib.platforms.linux;
  };
}
