{
  description = "Aspen, a linearizable, replicated key-value store that ships as an appliance";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      eachSystem =
        f:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: f nixpkgs.legacyPackages.${system} self.packages.${system});
    in
    {
      packages = eachSystem (
        pkgs: own: {
          default = own.aspen-node;
          aspen-node = pkgs.callPackage ./nixos/package.nix { };
          aspen-tools = pkgs.callPackage ./nixos/tools.nix { };
          aspen-documents = pkgs.callPackage ./nixos/documents.nix { };
        }
      );

      overlays.default = final: _: {
        aspen-node = final.callPackage ./nixos/package.nix { };
      };

      nixosModules = {
        default = self.nixosModules.aspen;
        aspen =
          { pkgs, ... }:
          {
            imports = [ ./nixos/module.nix ];
            services.aspen.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.aspen-node;
          };
      };

      apps = eachSystem (pkgs: own: import ./nixos/apps.nix { inherit lib pkgs own; });

      checks = eachSystem (
        pkgs: own:
        import ./nixos/checks.nix {
          inherit
            lib
            pkgs
            own
            self
            ;
        }
      );

      devShells = eachSystem (
        pkgs: own: {
          default = pkgs.mkShell {
            inputsFrom = [ own.aspen-node ];
            packages = [
              own.aspen-tools
              pkgs.cargo-deny
              pkgs.cargo-nextest
              pkgs.clippy
              pkgs.just
              pkgs.protobuf
              pkgs.rust-analyzer
              pkgs.rustfmt
            ];
          };
        }
      );

      formatter = eachSystem (pkgs: _: pkgs.nixfmt-tree);
    };
}
