# Two nodes without a path to each other: each shares a network with the first node alone, which forwards
# nothing, and serves the relay. All reach that under its first address, over whichever network they share.
{
  lib,
  fleet,
  mkMember,
}:
let
  port = 4602;
  serves = "node1";
  vlans = {
    node1 = [
      1
      2
    ];
    node2 = [ 1 ];
    node3 = [ 2 ];
  };
  relayAddress = nodes: nodes.${serves}.networking.primaryIPAddress;
  otherAddress = nodes: (lib.head nodes.${serves}.networking.interfaces.eth2.ipv4.addresses).address;
in
lib.genAttrs fleet (
  name:
  { nodes, ... }:
  {
    imports = [ (mkMember { settings.network_profile = "wan"; } name) ];
    virtualisation.vlans = vlans.${name};
    networking.interfaces.eth1.ipv4.routes = lib.optional (name == "node3") {
      address = relayAddress nodes;
      prefixLength = 32;
      via = otherAddress nodes;
    };
    services.aspen = {
      relay = "http://${relayAddress nodes}:${toString port}";
      settings = lib.optionalAttrs (name == serves) { serve_relay = "0.0.0.0:${toString port}"; };
      # Nobody knows where the others are.
      peers = lib.genAttrs fleet (_: {
        addresses = [ ];
      });
    };
  }
)
