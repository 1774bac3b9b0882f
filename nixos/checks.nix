# What `nix flake check` builds: the package with its tests, lints, documents, simulated clusters, and
# real ones of virtual machines.
{
  lib,
  pkgs,
  own,
  self,
}:
let
  features = "--features=${lib.concatStringsSep "," own.aspen-node.features}";

  # A build of the package in which cargo does something else.
  cargo =
    name: inputs: command:
    own.aspen-node.overrideAttrs (old: {
      pname = "aspen-${name}";
      nativeBuildInputs = old.nativeBuildInputs ++ inputs;
      buildPhase = command;
      installPhase = "touch $out";
      doCheck = false;
      dontFixup = true;
    });

  virtualMachines = import ./tests {
    inherit lib pkgs;
    module = self.nixosModules.aspen;
  };
in
{
  package = own.aspen-node;
  tools = own.aspen-tools;
  simulation = pkgs.callPackage ./simulation.nix { };

  clippy = cargo "clippy" [
    pkgs.clippy
  ] "cargo clippy --offline ${features} --all-targets -- --deny warnings";
  doc = cargo "doc" [ ] "RUSTDOCFLAGS='--deny warnings' cargo doc --offline ${features} --no-deps";
  fmt = cargo "fmt" [ pkgs.rustfmt ] ''
    cargo fmt --check
    cargo fmt --check --manifest-path tests/sim/Cargo.toml
    cargo fmt --check --manifest-path benches/compare-etcd/Cargo.toml
  '';

  # What documents name is there. The package leaves these tests out, as they look through the whole tree.
  names = (cargo "names" [ ] "cargo test --offline ${features} --test it documents::").overrideAttrs {
    src = self;
  };

  # The documents that are made out of the options.
  documents = pkgs.runCommand "aspen-documents-are-current" { } ''
    diff --unified ${../docs/nixos-options.md} ${own.aspen-documents}/nixos-options.md
    diff --unified ${../tests/fixtures/nixos-settings.toml} ${own.aspen-documents}/nixos-settings.toml
    touch $out
  '';

  # What the module refuses. That is known once this is evaluated.
  refusals = pkgs.callPackage ./refusals.nix {
    module = self.nixosModules.aspen;
    withoutHiqlite = own.aspen-node.override { features = [ ]; };
  };

  # The units, by the systemd of this nixpkgs.
  units =
    pkgs.runCommand "aspen-units" { nativeBuildInputs = [ pkgs.systemd ]; }
      # bash
      ''
        export SYSTEMD_UNIT_PATH=${own.aspen-node}/lib/systemd/system:${pkgs.systemd}/example/systemd/system
        systemd-analyze verify --man=no aspen.service aspen-backup.service aspen-backup.timer
        systemd-analyze security --offline=true --threshold=15 aspen.service
        touch $out
      '';
}
// lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") virtualMachines
