# Clusters of virtual machines, each of which is a few lines of services.aspen. A scenario is the Python file
# of its name, behind common.py; it uses no more of the test driver than hosts without NixOS can offer too.
{
  lib,
  pkgs,
  module,
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

  # A node whose key is known before it runs.
  mkKnown =
    name: aspen:
    { ... }:
    {
      imports = [ (mkNode aspen) ];
      environment.etc."aspen-secret-key".text = keys.${name}.secret;
      services.aspen.secretKeyFile = "/etc/aspen-secret-key";
    };

  # The three that found a cluster together, described once.
  peersOf =
    nodes:
    lib.genAttrs fleet (name: {
      nodeId = idOf name;
      publicKey = keys.${name}.public;
      addresses = lib.mkDefault [ "${nodes.${name}.networking.primaryIPAddress}:4601" ];
    });
  idOf = name: lib.toInt (lib.removePrefix "node" name);

  mkMember =
    aspen: name:
    { nodes, ... }:
    {
      imports = [ (mkKnown name aspen) ];
      services.aspen = {
        nodeId = idOf name;
        peers = peersOf nodes;
      };
    };

  members = lib.genAttrs fleet (mkMember { });

  # A machine whose node is started by the scenario.
  later =
    { lib, ... }:
    {
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
    joiner.imports = [
      later
      (mkNode { joinTicketFile = "/run/credstore/aspen.join-ticket"; })
    ];
    replacement =
      { nodes, ... }:
      {
        imports = [
          later
          (mkKnown "replacement" {
            nodeId = 9;
            settings.bootstrap = "manual";
          })
        ];
        services.aspen.peers = peersOf nodes // {
          replacement = {
            nodeId = 9;
            publicKey = keys.replacement.public;
          };
        };
      };
  };

  # Two of them have no network in common.
  relay = import ./relay.nix { inherit lib fleet mkMember; };

  trouble = {
    node =
      { pkgs, ... }:
      {
        imports = [ (mkNode { nodeId = 1; }) ];
        environment.etc."faketime-library".text = "${pkgs.libfaketime}/lib/libfaketime.so.1";
      };
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
