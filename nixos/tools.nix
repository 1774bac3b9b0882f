# What people use beside the product: netwatch.
{ lib, rustPlatform }:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage {
  pname = "aspen-tools";
  inherit (manifest) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../Cargo.lock;

  cargoBuildFlags = [ "--example=netwatch" ];
  # The package's check runs the tests.
  doCheck = false;

  postInstall = ''
    install -D --target-directory=$out/bin target/*/release/examples/netwatch
  '';

  meta = {
    description = "Tools to look at the network as Aspen sees it";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "netwatch";
    platforms = lib.platforms.linux;
  };
}
