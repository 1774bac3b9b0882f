# docs/nixos-options.md: a section for each option.
{ lib, options }:
let
  value =
    given:
    if given._type or null == "literalExpression" then
      if lib.hasInfix "\n" (lib.trim given.text) then
        "\n\n```nix\n${lib.trim given.text}\n```"
      else
        " `${given.text}`"
    else
      # Markdown already.
      " ${given.text}";

  # Roles of the manual of NixOS, which have no meaning elsewhere.
  plain =
    text:
    lib.replaceStrings
      [
        "{option}"
        "{file}"
        "{manpage}"
      ]
      [
        ""
        ""
        ""
      ]
      (lib.trim text);

  section =
    option:
    lib.concatStringsSep "\n\n" (
      [
        "## ${lib.replaceStrings [ "<" ">" ] [ "\\<" "\\>" ] option.name}"
        (plain option.description)
        "Type: ${option.type}"
      ]
      ++ lib.optional (option ? default) (plain "Default:${value option.default}")
      ++ lib.optional (option ? example) (plain "Example:${value option.example}")
    );
in
''
  # Options of the NixOS module

  Made out of `nixos/module.nix` by `nix build .#aspen-documents`; edit that, and copy the outcome.

''
+ lib.concatMapStringsSep "\n\n" section options
+ "\n"
