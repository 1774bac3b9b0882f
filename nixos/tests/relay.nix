# Three nodes without a path to each other: each is on a network of its own, and so is the relay, on all of
# them. The relay forwards nothing; the nodes reach its first address over whichever network they share.
{
  lib,
  fleet,
  mkMember,
  aspen-tools,
}:
let
  port = 3340;
  vlanOf = name: lib.toInt (lib.removePrefix "node" name);
  relayAddress = nodes: nodes.relay.networking.primaryIPAddress;

  # The relay's address on the network of a node.
  relayOn =
    nodes: name:
    let
      interface = "eth${toString (vlanOf name)}";
    in
    (lib.head nodes.relay.networking.interfaces.${interface}.ipv4.addresses).address;
in
lib.genAttrs fleet (
  name:
  { nodes, ... }:
  {
    imports = [ (mkMember { settings.network_profile = "wan"; } name) ];
    virtualisation.vlans = [ (vlanOf name) ];
    networking.interfaces.eth1.ipv4.routes = lib.optional (vlanOf name != 1) {
      address = relayAddress nodes;
      prefixLength = 32;
      via = relayOn nodes name;
    };
    services.aspen = {
      relay = "http://${relayAddress nodes}:${toString port}";
      # Nobody knows where the others are.
      peers = lib.genAttrs fleet (_: {
        addresses = [ ];
      });
    };
  }
)
// {
  relay = {
    virtualisation.vlans = map vlanOf fleet;
    networking.firewall.allowedTCPPorts = [ port ];
    systemd.services.relay = {
      description = "Relay of iroh";
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        Type = "notify";
        DynamicUser = true;
        ExecStart = "${lib.getExe' aspen-tools "relay"} 0.0.0.0:${toString port}";
      };
    };
  };
}
