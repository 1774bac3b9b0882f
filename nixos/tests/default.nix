# Clusters of virtual machines, each of which is a few lines of services.aspen. A scenario is the Python file
# of its name, behind common.py; it uses no more of the test driver than hosts without NixOS can offer too.
{
  lib,
  pkgs,
  module,
  aspen-tools,
}:
let
  # For tests alone, as everyone can read them.
  keys = lib.importJSON ./keys.json;
  fleet = [
    "node1"
    "node2"
    "node3"
  ];

  mkNode = aspen: {
    imports = [ module ];
    services.aspen = lib.mkMerge [
      {
        enable = true;
        openFirewall = true;
      }
      aspen
    ];
  };

  # One of three that found a cluster together, described once.
  mkMember =
    extra: name:
    { nodes, ... }:
    {
      imports = [ (mkNode extra) ];
      environment.etc."aspen-secret-key".text = keys.${name}.secret;
      services.aspen = {
        nodeId = lib.toInt (lib.removePrefix "node" name);
        secretKeyFile = "/etc/aspen-secret-key";
        peers = lib.genAttrs fleet (peer: {
          nodeId = lib.toInt (lib.removePrefix "node" peer);
          publicKey = keys.${peer}.public;
          addresses = lib.mkDefault [ "${nodes.${peer}.networking.primaryIPAddress}:4601" ];
        });
      };
    };

  members = lib.genAttrs fleet (mkMember { });

  # A machine whose node is started by the scenario.
  mkLater =
    aspen:
    { lib, ... }:
    {
      imports = [ (mkNode aspen) ];
      systemd.services.aspen.wantedBy = lib.mkForce [ ];
    };

  scenario =
    name: nodes:
    pkgs.testers.runNixOSTest {
      name = "aspen-${name}";
      inherit nodes;
      testScript = builtins.readFile ./common.py + builtins.readFile (./. + "/${name}.py");
    };
in
lib.mapAttrs scenario {
  cluster = members;
  partition = members;
  crash = members;
  upgrade = members;

  lifecycle = members // {
    joiner = mkLater { joinTicketFile = "/run/credstore/aspen.join-ticket"; };
    replacement =
      { nodes, ... }:
      {
        imports = [
          (mkLater {
            nodeId = 9;
            settings.bootstrap = "manual";
          })
        ];
        services.aspen.peers = nodes.node1.services.aspen.peers // {
          replacement = {
            nodeId = 9;
            # Its own, which it makes on its first start, is not known here, and not needed.
            publicKey = lib.concatStrings (lib.replicate 32 "58");
          };
        };
      };
  };

  # Each node has a network of its own, which it shares with the relay alone.
  relay = import ./relay.nix {
    inherit lib fleet mkMember;
    inherit aspen-tools;
  };

  backup = {
    source =
      { lib, ... }:
      {
        imports = [
          (mkNode {
            nodeId = 1;
            backup = {
              enable = true;
              schedule = "*:*:0/5";
              keep = 2;
            };
          })
        ];
        systemd.timers.aspen-backup.timerConfig.RandomizedDelaySec = lib.mkForce 0;
      };
    fresh = mkNode { nodeId = 1; };
  };
}
