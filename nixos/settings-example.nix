# A configuration with every setting that the module describes: examples, and defaults where there are none.
{
  lib,
  options,
  settings,
}:
let
  # Beside what the module names there are things of the module system.
  isNamed = name: _: !lib.hasPrefix "_" name;
  described = options.settings.type.getSubOptions [ ];

  exampleOf = option: option.example or option.default;
  examples = lib.mapAttrsRecursiveCond (option: !lib.isOption option) (_: exampleOf) (
    lib.filterAttrs isNamed described
  );

  peerExamples = lib.mapAttrs (_: exampleOf) (
    lib.filterAttrs isNamed (options.peers.type.getSubOptions [ ])
  );

  all = examples // {
    node_id = options.nodeId.example;
    iroh_relay = options.relay.example;
    # An example may listen where a token is needed, and there is none.
    inherit (settings) http_addr;
    peers = [
      {
        node_id = peerExamples.nodeId;
        public_key = peerExamples.publicKey;
        inherit (peerExamples) addresses;
        relay_url = peerExamples.relayUrl;
      }
    ];
  };

  # JSON's strings, numbers, booleans and lists are TOML's as well.
  toToml =
    value:
    if lib.isAttrs value then
      "{ ${lib.concatStringsSep ", " (lib.mapAttrsToList line value)} }"
    else if lib.isList value then
      "[${lib.concatMapStringsSep ", " toToml value}]"
    else
      builtins.toJSON value;
  line = name: value: "${name} = ${toToml value}";
  lines = attrs: lib.concatStringsSep "\n" (lib.mapAttrsToList line attrs);

  tables = lib.filterAttrs (_: lib.isAttrs) all;
in
''
  # Made out of nixos/module.nix by `nix build .#aspen-documents`; edit that, and copy the outcome.
  ${lines (removeAttrs all (lib.attrNames tables))}
''
+ lib.concatStrings (lib.mapAttrsToList (name: table: "\n[${name}]\n${lines table}\n") tables)
