# Documents that are made out of the module's options, to be copied into the repository:
# docs/nixos-options.md, and tests/fixtures/nixos-settings.toml, which a test gives to the daemon.
{
  lib,
  pkgs,
  linkFarm,
  writeText,
}:
let
  evaluated = lib.evalModules {
    modules = [
      ./module.nix
      {
        # What the module sets elsewhere is not of interest here.
        _module.check = false;
        _module.args = { inherit pkgs; };
      }
    ];
  };
  options = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList evaluated.options.services.aspen
  );

  files = {
    "nixos-options.md" = import ./options-markdown.nix { inherit lib options; };
    "nixos-settings.toml" = import ./settings-example.nix {
      inherit lib;
      options = evaluated.options.services.aspen;
      settings = evaluated.config.services.aspen.settings;
    };
  };
in
(linkFarm "aspen-documents" (lib.mapAttrs writeText files)).overrideAttrs {
  passthru = { inherit files; };
}
